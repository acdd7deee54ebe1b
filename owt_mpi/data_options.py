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
    """Images that are mixed, by all ranks together; each rank's memory should hold its part of their files."""
    synthetic_images: int = 1024
    """Number of random training images (--data synthetic)."""
    synthetic_classes: int = 1000
    """Number of their classes."""

    def at_least(self) -> dict[str, tuple[int, int]]:
        """Return the numbers that have a least value: each with that value, by the name of its option."""
        return {
            "prefetch": (self.prefetch, 1),
            "synthetic-images": (self.synthetic_images, 1),
            "synthetic-classes": (self.synthetic_classes, 2),
        }
