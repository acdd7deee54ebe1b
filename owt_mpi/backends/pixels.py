"""Batches of uint8 pixels, mirrored and normalised: what every backend checks, and how those on the host do it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from owt_mpi.backends.base import Shape
from owt_mpi.backends.precision import exact_dtype


def check_pixels(
    pixels: np.ndarray, flips: np.ndarray, mean: np.ndarray, scale: np.ndarray, colours: np.ndarray | None
) -> None:
    """Raise TypeError or ValueError unless these are what Backend.start_normalise takes."""
    if pixels.dtype != np.uint8 or flips.dtype != np.bool_:
        raise TypeError(f"start_normalise: pixels are {pixels.dtype} and flips {flips.dtype}; give uint8 and bool")
    if pixels.ndim != 4 or not pixels.flags.c_contiguous:
        raise ValueError(f"start_normalise: pixels of shape {pixels.shape} must be (n, h, w, c) and C-contiguous")
    n, channels = pixels.shape[0], pixels.shape[3]
    expected: list[tuple[str, np.ndarray | None, Shape]] = [
        ("flips", flips, (n,)),
        ("mean", mean, (channels,)),
        ("scale", scale, (channels,)),
        ("colours", colours, (n, channels)),
    ]
    for name, array, shape in expected:
        if array is not None and array.shape != shape:
            raise ValueError(f"start_normalise: {name} has shape {array.shape}, but {shape} fits pixels {pixels.shape}")


def start_normalise_on_host(
    pixels: np.ndarray,
    flips: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    colours: np.ndarray | None,
    dtype: np.dtype[Any],
) -> Callable[[], np.ndarray]:
    """Do at once what Backend.start_normalise says; return what gives the result."""
    check_pixels(pixels, flips, mean, scale, colours)
    out = np.empty(pixels.shape, dtype)
    _normalise(pixels, flips, mean, scale, colours, out)
    return lambda: out


def _normalise(
    pixels: np.ndarray,
    flips: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    colours: np.ndarray | None,
    out: np.ndarray,
) -> None:
    """Write ((pixels, mirrored where `flips`, - mean) + colours) * scale to `out`.

    An image is worked on while it is in the cache: widened, then changed in place by whole rows of numbers, since loops
    over 1 or 3 channels would be slow. It is mirrored as uint8, channel by channel, in half the time of pixel by pixel.
    """
    n, h, w, c = pixels.shape
    exact = exact_dtype(out.dtype)
    means, scales = np.tile(mean.astype(exact), h * w), np.tile(scale.astype(exact), h * w)
    has_scale = bool((scales != 1).any())
    mirrored = np.empty((h, w, c), np.uint8)
    numbers = np.empty(h * w * c, exact)
    for i, (image, flip, target) in enumerate(zip(pixels, flips.tolist(), out.reshape(n, h * w * c), strict=True)):
        source = image
        if flip:
            for channel in range(c):
                mirrored[:, :, channel] = image[:, ::-1, channel]
            source = mirrored
        wide = target if target.dtype == exact else numbers
        wide[...] = source.reshape(-1)
        wide -= means
        if colours is not None:
            wide.reshape(h, w * c)[...] += np.tile(colours[i].astype(exact), w)
        if has_scale:
            wide *= scales
        if wide is not target:
            target[...] = wide
