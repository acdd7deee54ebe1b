"""What of an image the network sees: random windows and mirror images in training, the centre in validation.

What is drawn for a sample depends on (seed, epoch, its index in the data set), never on rank or position, so any number
of ranks sees the same pixels. Krizhevsky et al. 2012, section 4.1: random crops and horizontal reflections.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from owt_mpi import rng


@dataclass(frozen=True)
class Views:
    """What is seen of n images: a window (top, left, height, width) of each, int64 (n, 4), and whether it is mirrored,
    bool (n,)."""

    windows: np.ndarray
    flips: np.ndarray


class Augmentation(Protocol):
    """Chooses what is seen of images."""

    @property
    def crop(self) -> tuple[int, int]:
        """The size (h, w) that windows are brought to."""
        ...

    def check(self, sizes: np.ndarray) -> None:
        """Raise ValueError if images of `sizes` (h, w), int64 (n, 2), have no such views."""
        ...

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> Views:
        """Return what `epoch` sees of the samples `indices`, int64 (n,), of `sizes` (n, 2)."""
        ...


@dataclass(frozen=True)
class RandomCrops:
    """Windows of the crop's size anywhere in the image, with `flip` mirrored with probability 1/2."""

    seed: int
    crop: tuple[int, int]
    flip: bool = True

    def check(self, sizes: np.ndarray) -> None:
        """See Augmentation."""
        check_crop(sizes, self.crop)

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> Views:
        """See Augmentation."""
        tops, lefts = (
            rng.integers(rng.stream_key(self.seed, "augment", epoch, name), indices, sizes[:, axis] - side + 1)
            for axis, (name, side) in enumerate(zip(("top", "left"), self.crop, strict=True))
        )
        return Views(_windows(tops, lefts, self.crop), _flips(self.seed, epoch, indices, self.flip))


@dataclass(frozen=True)
class CentreCrop:
    """The window of the crop's size in the middle of the image, not mirrored."""

    crop: tuple[int, int]

    def check(self, sizes: np.ndarray) -> None:
        """See Augmentation."""
        check_crop(sizes, self.crop)

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> Views:
        """See Augmentation."""
        tops, lefts = ((sizes[:, axis] - self.crop[axis]) // 2 for axis in (0, 1))
        return Views(_windows(tops, lefts, self.crop), np.zeros(len(indices), np.bool_))


def check_crop(sizes: np.ndarray, crop: tuple[int, int]) -> None:
    """Raise ValueError if a crop (h, w) does not fit into every image of `sizes` (n, 2)."""
    height, width = (int(side) for side in sizes.min(axis=0))
    if not (1 <= crop[0] <= height and 1 <= crop[1] <= width):
        raise ValueError(
            f"a crop of {crop[0]}x{crop[1]} does not fit into images of {height}x{width}; "
            f"set the crop to at most {min(height, width)} or build the shards with a larger --size"
        )


def _windows(tops: np.ndarray, lefts: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    heights, widths = (np.full(len(tops), side, np.int64) for side in crop)
    return np.stack([tops, lefts, heights, widths], axis=1)


def _flips(seed: int, epoch: int, indices: np.ndarray, flip: bool) -> np.ndarray:
    return np.asarray(rng.bernoulli(rng.stream_key(seed, "augment", epoch, "flip"), indices, 0.5 * flip))
