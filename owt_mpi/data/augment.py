"""What of an image the network sees: random windows, mirror images and colours in training, fixed ones in validation.

What is drawn for a sample depends on (seed, epoch, its index in the data set), never on rank or position, so any number
of ranks sees the same pixels. All of it is drawn on the host, so devices get the same too. Krizhevsky et al. 2012,
section 4.1: random crops, horizontal reflections, colours changed along their principal components, ten views.
"""

from dataclasses import dataclass
from math import log
from typing import Protocol

import numpy as np

from owt_mpi import rng
from owt_mpi.data.manifest import Statistics

_AREAS = (0.08, 1.0)  # of random resized crops, as shares of the image's
_RATIOS = (3 / 4, 4 / 3)  # their width / height
_TRIES = 10


@dataclass(frozen=True)
class Views:
    """What is seen of n images: a window (top, left, height, width) of each, int64 (n, 4); whether it is mirrored, bool
    (n,); and, where colours are changed, what is added to its channels, float64 (n, c) in units of 0..255."""

    windows: np.ndarray
    flips: np.ndarray
    colours: np.ndarray | None = None


class Augmentation(Protocol):
    """Chooses what is seen of images."""

    @property
    def crop(self) -> tuple[int, int]:
        """The size (h, w) that windows are brought to."""
        ...

    @property
    def num_views(self) -> int:
        """How often an epoch sees each image."""
        ...

    def check(self, sizes: np.ndarray) -> None:
        """Raise ValueError if images of `sizes` (h, w), int64 (n, 2), have no such views."""
        ...

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray, view: int = 0) -> Views:
        """Return view number `view` that `epoch` has of the samples `indices`, int64 (n,), of `sizes` (n, 2)."""
        ...


@dataclass(frozen=True)
class RandomViews:
    """Windows of the crop's size anywhere in the image; with `flip` mirrored with probability 1/2.

    With `resized` windows have 0.08 to 1 of the image's area, any share alike, and a ratio of width to height between
    3/4 and 4/3, its logarithm any alike; where ten such do not fit, the largest one in the middle. `colours` (c, c) are
    what is added to all pixels of an image, each times a normal number of its own: see `colour_noise`.
    """

    seed: int
    crop: tuple[int, int]
    flip: bool = True
    resized: bool = False
    colours: np.ndarray | None = None
    num_views: int = 1

    def check(self, sizes: np.ndarray) -> None:
        """See Augmentation. Any image can be resized."""
        if not self.resized:
            check_crop(sizes, self.crop)

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray, view: int = 0) -> Views:
        """See Augmentation."""
        flips = rng.bernoulli(self._key(epoch, "flip"), indices, 0.5 * self.flip)
        windows = self._resized if self.resized else self._random
        return Views(windows(epoch, indices, sizes), flips, self._colours(epoch, indices))

    def _random(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        return self._placed(epoch, indices, sizes, np.broadcast_to(np.array(self.crop, np.int64), sizes.shape))

    def _resized(self, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Try areas and ratios until a window of each image fits into it."""
        windows = _largest_in_the_middle(sizes)
        left = np.arange(len(indices))  # the rows that have no window yet
        for attempt in range(_TRIES):
            areas = sizes[left].prod(axis=1) * self._uniform(epoch, f"area {attempt}", indices[left], *_AREAS)
            logs = self._uniform(epoch, f"ratio {attempt}", indices[left], log(_RATIOS[0]), log(_RATIOS[1]))
            ratios = np.exp(logs)
            shapes = np.rint(np.sqrt(np.stack([areas / ratios, areas * ratios], axis=1))).astype(np.int64)
            fits = ((shapes >= 1) & (shapes <= sizes[left])).all(axis=1)
            rows = left[fits]
            windows[rows] = self._placed(epoch, indices[rows], sizes[rows], shapes[fits])
            left = left[~fits]
        return windows

    def _placed(self, epoch: int, indices: np.ndarray, sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
        """Return windows of `shapes` (n, 2) anywhere in images of `sizes`."""
        room = sizes - shapes + 1
        tops = rng.integers(self._key(epoch, "top"), indices, room[:, 0])
        lefts = rng.integers(self._key(epoch, "left"), indices, room[:, 1])
        return np.concatenate([tops[:, None], lefts[:, None], shapes], axis=1)

    def _colours(self, epoch: int, indices: np.ndarray) -> np.ndarray | None:
        if self.colours is None:
            return None
        total = np.zeros((len(indices), len(self.colours)))
        for number, component in enumerate(self.colours):  # one by one: a product's sums might depend on n
            total += rng.normal(self._key(epoch, f"colour {number}"), indices)[:, None] * component
        return total

    def _uniform(self, epoch: int, name: str, indices: np.ndarray, low: float, high: float) -> np.ndarray:
        return np.asarray(low + (high - low) * rng.uniform(self._key(epoch, name), indices))

    def _key(self, epoch: int, name: str) -> int:
        return rng.stream_key(self.seed, "augment", epoch, name)


@dataclass(frozen=True)
class CentreView:
    """The window of the crop's size in the middle of the image, not mirrored."""

    crop: tuple[int, int]
    num_views: int = 1

    def check(self, sizes: np.ndarray) -> None:
        """See Augmentation."""
        check_crop(sizes, self.crop)

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray, view: int = 0) -> Views:
        """See Augmentation."""
        return _fixed((sizes - self.crop) // 2, self.crop, False)


@dataclass(frozen=True)
class TenViews:
    """The windows of the crop's size in the four corners and the middle of the image, then their mirror images."""

    crop: tuple[int, int]
    num_views: int = 10

    def check(self, sizes: np.ndarray) -> None:
        """See Augmentation."""
        check_crop(sizes, self.crop)

    def views(self, epoch: int, indices: np.ndarray, sizes: np.ndarray, view: int = 0) -> Views:
        """See Augmentation."""
        halves = np.array([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)][view % 5])  # of the room, down and to the right
        return _fixed((sizes - self.crop) * halves // 2, self.crop, view >= 5)


def colour_noise(statistics: Statistics, strength: float) -> np.ndarray | None:
    """Return what RandomViews adds times normal numbers, (c, c): the principal components of the training set's colours
    as long as `strength` of their standard deviations; None for 0."""
    if strength == 0:
        return None
    lengths = strength * np.sqrt(np.array(statistics.pca_eigenvalues))
    return np.array(lengths[:, None] * np.array(statistics.pca_eigenvectors))


def check_crop(sizes: np.ndarray, crop: tuple[int, int]) -> None:
    """Raise ValueError if a crop (h, w) does not fit into every image of `sizes` (n, 2)."""
    height, width = (int(side) for side in sizes.min(axis=0))
    if not (1 <= crop[0] <= height and 1 <= crop[1] <= width):
        raise ValueError(
            f"a crop of {crop[0]}x{crop[1]} does not fit into images of {height}x{width}; "
            f"set the crop to at most {min(height, width)} or build the shards with a larger --size"
        )


def _fixed(places: np.ndarray, crop: tuple[int, int], flip: bool) -> Views:
    """Return windows at `places` (top, left), (n, 2)."""
    shapes = np.broadcast_to(np.array(crop, np.int64), places.shape)
    return Views(np.concatenate([places, shapes], axis=1), np.full(len(places), flip))


def _largest_in_the_middle(sizes: np.ndarray) -> np.ndarray:
    """Return the largest windows in the middle of images whose ratio of width to height is within `_RATIOS`."""
    heights, widths = sizes.T
    shapes = np.stack(
        [
            np.minimum(heights, np.rint(widths / _RATIOS[0])),
            np.minimum(widths, np.rint(heights * _RATIOS[1])),
        ],
        axis=1,
    ).astype(np.int64)
    return np.concatenate([(sizes - shapes) // 2, shapes], axis=1)
