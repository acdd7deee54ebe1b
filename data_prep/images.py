"""From the bytes of an image file to what a shard stores of it, as the reference pipelines do it."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from owt_mpi.data.manifest import ImageShape

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # of these Pillow runs no outside program
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM",
             ".pgm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}  # fmt: skip
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error,
)  # what Pillow's decoders raise for damaged files  # fmt: skip
LARGEST_PIXELS = 89_478_485  # Pillow's own limit, beyond which it warns of a decompression bomb
_TINY = 8  # enlarging an image as much as this deserves a remark


class ImageError(ValueError):
    """A file that cannot be made into an image; the message says why."""


@dataclass(frozen=True)
class Recipe:
    """How a stored image is made: its short side is `size` (None: the file is kept), and it is `square` or not."""

    storage: str
    channels: int
    size: int | None
    square: bool
    quality: int

    @property
    def image_shape(self) -> ImageShape:
        """The shape (h, w, c) of what is stored; without h and w where images differ in size."""
        side = self.size if self.square else None
        return side, side, self.channels


@dataclass(frozen=True)
class Prepared:
    """A stored image: its pixels (h, w, c) uint8, for jpeg storage the file to store, and what was odd about it."""

    pixels: np.ndarray
    encoded: bytes | None
    remarks: tuple[str, ...]


def prepare(content: bytes, name: str, recipe: Recipe) -> Prepared:
    """Return what a shard stores of the image file `content`, called `name`. ImageError if it is not sound.

    With 1 channel it is the luma (ITU-R 601), with 3 it is RGB. The short side is resized (bilinear with antialiasing,
    not at all where it fits already), then the centre is cut out; Pillow does both in one, which rounds some values
    up instead of down. Orientation tags are not followed. All as in the usual ImageNet pipelines.
    `pixels` are those before a JPEG is made of them.
    """
    if not content:
        raise ImageError("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(content), formats=_FORMATS)
        with opened:
            opened.load()
            remarks = _remarks(opened, name, recipe)
            image = _fitted(_in_mode(opened, "L" if recipe.channels == 1 else "RGB"), recipe)
            pixels = np.asarray(image)
            encoded = _encoded(image, content, recipe) if recipe.storage == "jpeg" else None
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"it is no {', '.join(_FORMATS)} file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"it is too large: it has more than {LARGEST_PIXELS} pixels") from error
    except _BROKEN as error:
        raise ImageError(f"it cannot be decoded ({' '.join(str(error).split())})") from error
    return Prepared(pixels.reshape(*pixels.shape[:2], recipe.channels), encoded, remarks)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ImageError(f"its pixels have more than 8 bits (mode {image.mode})")
    if "transparency" in image.info:
        return image.convert("RGBA").convert(mode)
    return image if image.mode == mode else image.convert(mode)


def _fitted(image: Image.Image, recipe: Recipe) -> Image.Image:
    """Return the image resized, and of it the centre if it is to be square: no other pixel is computed."""
    size = recipe.size
    if size is None:
        return image
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    if not recipe.square:
        if width * height > LARGEST_PIXELS:
            raise ImageError(f"it is too long: at size {size} it would have {width}x{height} pixels")
        return image if short == size else image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if short == size:
        return image.crop((left, top, left + size, top + size))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def _encoded(image: Image.Image, content: bytes, recipe: Recipe) -> bytes:
    if recipe.size is None:
        return content
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=recipe.quality)
    return buffer.getvalue()


def _remarks(image: Image.Image, name: str, recipe: Recipe) -> tuple[str, ...]:
    """Return what is odd about an image that is kept all the same."""
    remarks = []
    named = _SUFFIXES.get(name[name.rfind(".") :].lower())
    if named is not None and named != image.format:
        remarks.append(f"it is a {image.format} file by content")
    if image.mode in ("L", "1", "LA") and recipe.channels == 3 and image.format != "PPM":  # PPM: bare pixels
        remarks.append("it is gray")
    elif image.mode not in ("RGB", "L", "1", "LA", "P"):
        remarks.append(f"its colours are {image.mode}")
    orientation = _orientation(image)
    if orientation not in (0, 1):
        remarks.append(f"its EXIF orientation {orientation} is not followed")
    if recipe.size is not None and min(image.size) * _TINY < recipe.size:
        remarks.append(f"it is enlarged from {image.width}x{image.height} pixels")
    return tuple(remarks)


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged tags do not damage the image
        try:
            return int(image.getexif().get(ExifTags.Base.Orientation, 0))
        except (*_BROKEN, AttributeError):
            return 0
