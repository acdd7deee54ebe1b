"""Encoded images to pixels while training: a window of each, by a crew of threads.

Pillow decodes and resizes without holding Python's lock, so threads of one process share the work of a batch, write
into its array, and need no copies between processes.
"""

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # of these Pillow runs no outside program
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # what Pillow's decoders raise for damaged files  # fmt: skip
_SMALLER_BY = (8, 4, 2)  # the scales at which libjpeg decodes


def silence_pillow() -> None:
    """Let Pillow not warn of damaged tags, which do not damage the image, in this process from now on.

    For threads: there is no silence for a while that one of them could have for itself.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """A file that cannot be made into an image; the message says why."""


def decode_window(content: bytes, window: Sequence[int], out: np.ndarray, use_draft: bool = False) -> None:
    """Write the window (top, left, height, width) of an encoded image to `out` (H, W, c) uint8, resized to it.

    Resizing is bilinear with antialiasing, of the window alone; a window of H x W is not resized. With `use_draft` a
    JPEG of which the window is at least twice H x W is decoded at 1/2, 1/4 or 1/8 of its size, by the largest of these
    at which the window is not below H x W: faster, with pixels that differ a little, and the same for the same content,
    window and H x W. One of `BROKEN` is raised for content that cannot be decoded or is smaller than the window.
    """
    top, left, height, width = window
    out_height, out_width, channels = out.shape
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        full_width, full_height = file.size
        if not (0 <= top <= top + height <= full_height and 0 <= left <= left + width <= full_width):
            raise ValueError(f"it is {full_height}x{full_width}, too small for the window {window}")
        scale = 1
        if use_draft and file.format == "JPEG":
            enough = min(height // out_height, width // out_width)
            scale = next((each for each in _SMALLER_BY if each <= enough), 1)
        if scale > 1:
            file.draft(None, (full_width // scale, full_height // scale))
            assert file.size == (-(-full_width // scale), -(-full_height // scale))
        file.load()
        image = in_mode(file, channels)
        if scale > 1:
            box = (left / scale, top / scale, (left + width) / scale, (top + height) / scale)
            image = image.resize((out_width, out_height), Image.Resampling.BILINEAR, box)
        else:
            image = image.crop((left, top, left + width, top + height))
            if image.size != (out_width, out_height):
                image = image.resize((out_width, out_height), Image.Resampling.BILINEAR)
        out[...] = np.asarray(image).reshape(out.shape)


def in_mode(image: Image.Image, channels: int) -> Image.Image:
    """Return a loaded image as luma (ITU-R 601) for 1 channel, as RGB for 3. ImageError for deeper pixels."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ImageError(f"its pixels have more than 8 bits (mode {image.mode})")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


class Crew:
    """A number of threads, the caller's among them, that share the rows of a batch."""

    def __init__(self, num_threads: int) -> None:
        if num_threads < 1:
            raise ValueError(f"--read-threads is {num_threads}, but at least 1 thread reads")
        self.num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads - 1, "decode") if num_threads > 1 else None

    def each_row(self, work: Callable[[int], None], num_rows: int) -> None:
        """Call work(row) for each of `num_rows` rows, in any order. Of several errors that of the first row is raised.

        All threads have left `work` when it returns or raises.
        """
        rows = itertools.count()
        errors: dict[int, BaseException] = {}

        def share() -> None:
            while not errors and (row := next(rows)) < num_rows:
                try:
                    work(row)
                except BaseException as error:  # raised again below
                    errors[row] = error

        others = [self._pool.submit(share) for _ in range(min(self.num_threads, num_rows) - 1)] if self._pool else []
        share()
        wait(others)
        if errors:
            raise errors[min(errors)]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
