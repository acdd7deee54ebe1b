"""What a training run is told of its images."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataOptions:
    """The images."""

    data: str = ""
    """Folder of HDF5 shards made by `python -m data_prep.build_shards`, or "synthetic" for random images."""
    flip: bool = True
    """Mirror a random half of the training images."""
    crop_mode: Literal["random", "resized"] = "random"
    """What of a training image is seen. random: a window of the crop's size; resized: a window of 8 to 100 % of the
    image, its sides 3:4 to 4:3, brought to the crop's size."""
    colour_noise: float = 0.0
    """Change the colours of each training image along the principal components of the training set's, by normal
    numbers with that share of their standard deviations, and divide by 1 + that share (the paper's program: 0.1, as in
    the preset alexnet-owt); 0: leave them."""
    validation_views: Literal[1, 10] = 1
    """What of a validation image is seen: its centre (1), or corners, centre and their mirror images, the scores of
    which are averaged (10)."""
    normalise: Literal["mean", "mean-std"] = "mean"
    """Take the training set's mean off each channel ("mean", as the paper's program), or also divide by the standard
    deviation ("mean-std")."""
    prefetch: int = 2
    """Batches made ready ahead of time."""
    shuffle: Literal["full", "block"] = "full"
    """Order of the training images: each by itself (full), or, for slow file systems, whole blocks that follow one
    another in storage are read and many blocks mixed (block)."""
    shuffle_block: int = 64
    """Images of a block."""
    shuffle_buffer: int = 16384
    """Images that are mixed, by all ranks together. They are fetched while as many before them are worked on: there
    should be memory for both, a rank's part of them on each rank."""
    last_batch: Literal["drop", "pad", "wrap"] = "drop"
    """What of the training images at the end of an epoch's order that are too few for a batch. drop: leave them out of
    this epoch; pad: train on them, the other rows of the batch count nothing, and an image counts as much as in a full
    batch; wrap: fill the batch up with images of the epoch's beginning. Validation counts every image once."""
    read_threads: int = 0
    """Threads of a rank that decode images stored encoded and resize windows, besides those that compute; 0: as many as
    compute."""
    draft: bool = False
    """Decode JPEGs at 1/2, 1/4 or 1/8 of their size where a window is shrunk by as much anyway: faster where stored
    images are large, and pixels differ a little."""
    memory_maps: bool = True
    """Map raw shards into memory; no: read each image at its place in the file, where maps are slow or not to be
    had."""
    cache: float = 0.0
    """Keep the shards as they are stored in the memory of each node, one copy for all of its ranks: as many of them as
    these GiB hold, and nine tenths of what is free; 0: leave it to the system, which keeps files read lately where
    memory is free."""
    synthetic_images: int = 1024
    """Number of random training images (--data synthetic)."""
    synthetic_classes: int = 1000
    """Number of their classes."""

    def at_least(self) -> dict[str, tuple[int, int]]:
        """Return the numbers that have a least value: each with that value, by the name of its option."""
        return {
            "prefetch": (self.prefetch, 1),
            "read-threads": (self.read_threads, 0),
            "synthetic-images": (self.synthetic_images, 1),
            "synthetic-classes": (self.synthetic_classes, 2),
        }
