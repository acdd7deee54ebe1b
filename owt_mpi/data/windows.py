"""Cutting a window out of an image, resized where it is not of the size that is asked for."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def copy_window(image: np.ndarray, window: Sequence[int], out: np.ndarray) -> None:
    """Write the `window` (top, left, height, width) of `image` (h, w, c) to `out` (height, width, c), both uint8.

    A window of another size is resized as if it were an image of its own: bilinear with antialiasing, by Pillow.
    """
    top, left, height, width = window
    seen = image[top : top + height, left : left + width]
    assert seen.shape[:2] == (height, width), f"window {window} of an image {image.shape}"
    if seen.shape == out.shape:
        out[...] = seen
    else:
        out[...] = _resized(seen, out.shape[:2])


def _resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return `image` (h, w, c) at `size` (height, width)."""
    target = (size[1], size[0])
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BILINEAR))
    planes = [Image.fromarray(image[..., channel]) for channel in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize(target, Image.Resampling.BILINEAR)) for plane in planes], axis=-1)
