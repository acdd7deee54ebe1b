"""Training images: the shard format, the order of samples, augmentation, and the loader that feeds one rank."""
