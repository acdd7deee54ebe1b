"""A training run: set up, its steps and epochs, its checkpoints, and how it ends."""
