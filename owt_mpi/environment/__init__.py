"""What this program runs on: software, machine, libraries and launcher, told without a part that must be there."""
