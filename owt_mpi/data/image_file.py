"""Image files as they come: opened with care, and brought to the size that a data set has them in."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from owt_mpi.data.decode import BROKEN, FORMATS, ImageError

LARGEST_PIXELS = 89_478_485  # Pillow's own limit, beyond which it warns of a decompression bomb


@contextmanager
def opened_image(content: bytes) -> Iterator[Image.Image]:
    """Give the loaded image of the file `content`. ImageError if it is not sound, or what is done within fails."""
    if not content:
        raise ImageError("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of damaged tags, which do not damage the image
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                opened.load()
                yield opened
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"it is no {', '.join(FORMATS)} file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"it is too large: it has more than {LARGEST_PIXELS} pixels") from error
    except BROKEN as error:
        raise ImageError(f"it cannot be decoded ({' '.join(str(error).split())})") from error


def fitted(image: Image.Image, size: int | None, square: bool) -> Image.Image:
    """Return the image with a short side of `size`, and of that the centre if it is to be `square`.

    With a `size` of None it is the image itself. Resizing is bilinear with antialiasing; no pixel that is cut off is
    computed. ImageError for an image that would be too large.
    """
    if size is None:
        return image
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    if not square:
        if width * height > LARGEST_PIXELS:
            raise ImageError(f"it is too long: at size {size} it would have {width}x{height} pixels")
        return image if short == size else image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if short == size:
        return image.crop((left, top, left + size, top + size))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)
