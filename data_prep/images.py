"""From the bytes of an image file to the pixels of a shard, as the reference pipelines do it."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # of these Pillow runs no outside program
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # what Pillow's decoders raise for damaged files  # fmt: skip


class ImageError(ValueError):
    """A file that cannot be made into an image; the message says why."""


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """Return the image (size, size, channels) uint8: short side resized to `size`, then the centre cut out.

    With 1 channel it is the luma (ITU-R 601), with 3 it is RGB. Orientation tags are not followed, and resizing is
    bilinear with antialiasing, both as in the usual ImageNet pipelines; an image of the right size is not resized.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image.load()
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise ImageError(f"its pixels have more than 8 bits (mode {image.mode})")
            if "transparency" in image.info:
                return _resize_and_crop(image.convert("RGBA").convert(mode), size)
            return _resize_and_crop(image.convert(mode), size)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"it is no {', '.join(_FORMATS)} file") from error
    except _BROKEN as error:
        raise ImageError(f"it cannot be decoded ({' '.join(str(error).split())})") from error


def _resize_and_crop(image: Image.Image, size: int) -> np.ndarray:
    short = min(image.size)
    if short != size:
        width, height = (size if side == short else int(size * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    pixels = np.asarray(image)[top : top + size, left : left + size]
    return pixels.reshape(size, size, -1)
