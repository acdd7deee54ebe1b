"""From the bytes of an image file to what a shard stores of it, as the reference pipelines do it."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from owt_mpi.data.decode import BROKEN, in_mode
from owt_mpi.data.image_file import fitted, opened_image
from owt_mpi.data.manifest import ImageShape

_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM",
             ".pgm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}  # fmt: skip
_TINY = 8  # enlarging an image as much as this deserves a remark


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
    with opened_image(content) as opened:
        remarks = _remarks(opened, name, recipe)
        image = fitted(in_mode(opened, recipe.channels), recipe.size, recipe.square)
        pixels = np.asarray(image)
        encoded = _encoded(image, content, recipe) if recipe.storage == "jpeg" else None
    return Prepared(pixels.reshape(*pixels.shape[:2], recipe.channels), encoded, remarks)


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
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 0))
    except (*BROKEN, AttributeError):  # damaged tags do not damage the image
        return 0
