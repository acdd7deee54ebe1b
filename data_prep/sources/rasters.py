"""Bare pixels as image files: PPM (colour) and PGM (gray), which are a short header and the pixels."""

from collections.abc import Iterable

import numpy as np

from data_prep.sources.image_list import SourceImage
from data_prep.sources.listing import Found
from data_prep.sources.source import Source


def add_rasters(
    source: Source, found: Found, split: str, pixels: np.ndarray, class_names: Iterable[str], stem: str
) -> None:
    """Add images (n, h, w, c) uint8 with 1 or 3 channels to a split, each of its class, named by `stem` and number."""
    _, height, width, channels = pixels.shape
    header = f"{'P5' if channels == 1 else 'P6'} {width} {height} 255\n".encode()
    rows = pixels.reshape(len(pixels), -1)
    headers = np.broadcast_to(np.frombuffer(header, np.uint8), (len(pixels), len(header)))
    size = len(header) + rows.shape[1]
    start = source.spool.append(np.hstack([headers, rows]).tobytes())
    suffix = "pgm" if channels == 1 else "ppm"
    for number, class_name in enumerate(class_names):
        name = f"{stem}_{number:06d}.{suffix}"
        found.add(split, SourceImage(class_name, name, source.spool.path, start + number * size, size))
