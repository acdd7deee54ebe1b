"""What the loader reads from, and a source of random images for benchmarks and dry runs."""

from typing import Protocol

import numpy as np

from owt_mpi import rng
from owt_mpi.data.manifest import Statistics
from owt_mpi.data.windows import copy_window


class Reader(Protocol):
    """Random access to the images of one split."""

    @property
    def num_samples(self) -> int:
        """The number of images."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes; labels are smaller."""
        ...

    @property
    def num_channels(self) -> int:
        """The number of channels of every image."""
        ...

    @property
    def statistics(self) -> Statistics:
        """The moments of the training set's pixels."""
        ...

    def describe(self) -> str:
        """Return one line for the log: what is read, and how."""
        ...

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return the heights and widths of the samples `indices`, int64 (n, 2)."""
        ...

    def read_windows(self, indices: np.ndarray, windows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write a window of each of the samples `indices` to `out`, return their labels (n,) int32.

        `windows` are (top, left, height, width), int64 (n, 4), within the images; `out` is uint8 (n, h, w, c), to whose
        size windows of other sizes are brought (data.windows). IndexError for an index outside the split.
        """
        ...

    def will_need(self, indices: np.ndarray) -> None:
        """Take note that the samples `indices` are read soon, and return at once. Nothing depends on it but the time.

        Best told of many: those that follow one another in storage are fetched together.
        """
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


def check_indices(indices: np.ndarray, num_samples: int) -> None:
    """Raise IndexError unless all of `indices` are in range(num_samples); a negative one would count from the end."""
    if indices.size and not 0 <= indices.min() <= indices.max() < num_samples:
        raise IndexError(f"samples {indices.min()} .. {indices.max()} are not all in 0 .. {num_samples - 1}")


class SyntheticReader:
    """Random pixels and labels: sample i is a pure function of (seed, i). Nothing is kept in memory."""

    def __init__(self, num_samples: int, shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        self.num_samples = num_samples
        self.num_classes = num_classes
        self.image_shape = shape
        self.num_channels = shape[2]
        self._pixel_key = rng.stream_key(seed, "synthetic pixels")
        self._label_key = rng.stream_key(seed, "synthetic labels")

    @property
    def statistics(self) -> Statistics:
        """The moments of the uniform distribution on 0..255, whose channels are independent."""
        channels = self.image_shape[2]
        return Statistics.from_moments(np.full(channels, 127.5), np.eye(channels) * (256**2 - 1) / 12)

    def describe(self) -> str:
        """Return one line for the log."""
        height, width, channels = self.image_shape
        return f"synthetic: {self.num_samples} random images {height}x{width}x{channels}, {self.num_classes} classes"

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return (h, w) for each of the samples."""
        return np.broadcast_to(np.array(self.image_shape[:2], np.int64), (len(indices), 2))

    def read_windows(self, indices: np.ndarray, windows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write windows of random images to `out`, return the labels."""
        check_indices(indices, self.num_samples)
        size = int(np.prod(self.image_shape))
        num_words = -(-size // 8)
        for index, window, target in zip(indices.tolist(), windows.tolist(), out, strict=True):
            words = rng.random_bits(self._pixel_key, np.arange(index * num_words, (index + 1) * num_words))
            copy_window(words.astype("<u8").view(np.uint8)[:size].reshape(self.image_shape), window, target)
        labels: np.ndarray = rng.integers(self._label_key, indices, self.num_classes).astype(np.int32)
        return labels

    def will_need(self, indices: np.ndarray) -> None:
        """Do nothing: there is nothing to fetch."""

    def close(self) -> None:
        """Do nothing: nothing is held."""
