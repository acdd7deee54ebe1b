"""What training runs have recorded, shown: read from their folders, as a page, a plot or a table."""
