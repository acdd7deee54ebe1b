"""Preparation of data: from the images as they are handed out to the shards that training reads."""
