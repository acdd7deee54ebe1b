"""What the loader reads from, and a source of random images for benchmarks and dry runs."""

from typing import Protocol

import numpy as np

from owt_mpi import rng
from owt_mpi.data.manifest import Statistics


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
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of one image."""
        ...

    @property
    def statistics(self) -> Statistics:
        """The moments of the training set's pixels."""
        ...

    def describe(self) -> str:
        """Return one line for the log: what is read, and how."""
        ...

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the images (n, h, w, c) uint8, in `out` if given, and labels (n,) int32 of the samples `indices`."""
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

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return random images (n, h, w, c) uint8, in `out` if given, and labels (n,) int32."""
        check_indices(indices, self.num_samples)
        size = int(np.prod(self.image_shape))
        num_words = -(-size // 8)
        if out is None:
            out = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, index in enumerate(indices.tolist()):
            words = rng.random_bits(self._pixel_key, np.arange(index * num_words, (index + 1) * num_words))
            out[row] = words.astype("<u8").view(np.uint8)[:size].reshape(self.image_shape)
        return out, rng.integers(self._label_key, indices, self.num_classes).astype(np.int32)

    def close(self) -> None:
        """Do nothing: nothing is held."""
