"""Sums over pixels in integers: exact, so that no order of adding changes them, and each shard can keep its own."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from owt_mpi.data.manifest import Statistics

_PIXELS_IN_ROW = 4  # several pixels a row of the product: BLAS is slow at 3 columns
_BLOCKS = 16  # that are worked on at once
_ROWS = 256  # of a product: 256 * 255**2 < 2**24, so float32 holds every partial sum exactly
_IMAGES = 257  # added in 16 bits: 257 * 255 < 2**16


@dataclass
class PixelSums:
    """Sums over the pixels of images with c channels.

    `image` (h, w, c) int64 is the sum over images pixel by pixel, None where images differ in size.
    """

    count: int
    total: np.ndarray  # (c,) int64
    products: np.ndarray  # (c, c) int64, of each pair of channels
    image: np.ndarray | None

    @classmethod
    def zero(cls, channels: int, size: tuple[int, int] | None) -> "PixelSums":
        """Return the sums over no pixels, of images of `size` (h, w) or of any size."""
        image = None if size is None else np.zeros((*size, channels), np.int64)
        return cls(0, np.zeros(channels, np.int64), np.zeros((channels, channels), np.int64), image)

    def add(self, other: "PixelSums") -> None:
        """Add the sums over other pixels. Both know the sum of images, or neither does."""
        self.count += other.count
        self.total += other.total
        self.products += other.products
        if self.image is not None:
            assert other.image is not None
            self.image += other.image

    def add_images(self, images: Iterable[np.ndarray]) -> None:
        """Add the pixels of images (h, w, c) uint8, each while it is in the processor's cache."""
        part, in_part = None if self.image is None else np.zeros(self.image.shape, np.uint16), 0
        values = np.empty(0, np.float32)  # used again and again: fresh memory costs as much as the sums
        for image in images:
            if len(values) != _BLOCKS * _block(image):
                values = np.empty(_BLOCKS * _block(image), np.float32)
            self._add_products(image, values)
            if part is not None:
                part += image
                in_part += 1
            if in_part == _IMAGES:
                self._add_part(part)
                in_part = 0
        self._add_part(part)

    def _add_part(self, part: np.ndarray | None) -> None:
        """Add a sum of images, and make it zero."""
        if part is not None:
            self.image += part
            part[...] = 0

    def _add_products(self, image: np.ndarray, values: np.ndarray) -> None:
        """Add what does not need the places of pixels; `values` is memory for some blocks, which stays in the cache."""
        channels, flat = image.shape[-1], image.reshape(-1)
        width = _PIXELS_IN_ROW * channels
        pairs, totals = np.zeros((width, width)), np.zeros(width)
        for start in range(0, len(flat), len(values)):
            part = flat[start : start + len(values)]
            num_blocks = -(-len(part) // _block(image))
            values[: len(part)] = part
            values[len(part) : num_blocks * _block(image)] = 0  # adds nothing
            blocks = values[: num_blocks * _block(image)].reshape(num_blocks, _ROWS, width)
            pairs += np.matmul(blocks.transpose(0, 2, 1), blocks).sum(axis=0, dtype=np.float64)  # below 2**53: exact
            totals += np.ones(num_blocks * _ROWS, np.float32) @ blocks.reshape(-1, width)  # below 2**24: exact too
        self.products += np.einsum("aiaj->ij", pairs.reshape(_PIXELS_IN_ROW, channels, -1, channels)).astype(np.int64)
        self.total += totals.reshape(_PIXELS_IN_ROW, channels).sum(axis=0).astype(np.int64)
        self.count += image.size // channels

    def statistics(self) -> Statistics:
        """Return mean, standard deviation and principal components."""
        mean = self.total / self.count
        return Statistics.from_moments(mean, self.products / self.count - np.outer(mean, mean))

    def mean_image(self, num_images: int) -> np.ndarray | None:
        """Return the mean of the images, float64 (h, w, c), None where they differ in size."""
        return None if self.image is None else self.image / num_images


def _block(image: np.ndarray) -> int:
    return _ROWS * _PIXELS_IN_ROW * int(image.shape[-1])
