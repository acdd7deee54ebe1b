import io

import numpy as np
import pytest
from PIL import Image

from data_prep.images import ImageError, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_of_the_right_size_is_kept_bit_for_bit(channels: int) -> None:
    pixels = random_pixels(8, 8, channels)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels.squeeze())), 8, channels), pixels)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(8, 13, 0, 2), (11, 8, 2, 0)])
def test_image_whose_short_side_is_right_is_only_cropped(height: int, width: int, top: int, left: int) -> None:
    pixels = random_pixels(height, width, 3)
    expected = pixels[top : top + 8, left : left + 8]
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 8, 3), expected)


def test_short_side_is_resized_with_antialiasing_then_the_centre_cut_out() -> None:
    blocks = random_pixels(4, 6, 3)
    large = blocks.repeat(16, axis=0).repeat(16, axis=1)
    resized = Image.fromarray(large).resize((6, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(large)), 4, 3), np.asarray(resized)[:, 1:5])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_8_bits_becomes_gray_or_rgb(mode: str, channels: int) -> None:
    image = Image.fromarray(random_pixels(5, 5, 3)).convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    content = encoded(image, kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB"))
    np.testing.assert_array_equal(decode(content, 5, channels), expected.reshape(5, 5, channels))


def test_palette_with_transparency_is_decoded_without_a_warning() -> None:
    image = Image.fromarray(random_pixels(5, 5, 3)).convert("P")
    content = encoded(image, transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode(content, 5, 3), np.asarray(image.convert("RGB")))


def test_pixels_of_16_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="more than 8 bits"):
        decode(encoded(Image.fromarray(random_pixels(5, 5).astype(np.uint16) * 256)), 5, 1)


def test_truncated_and_foreign_files_are_refused_without_addresses() -> None:
    content = encoded(Image.fromarray(random_pixels(50, 50, 3)), "JPEG")
    with pytest.raises(ImageError, match=r"cannot be decoded.*truncated"):
        decode(content[: len(content) // 2], 5, 3)
    with pytest.raises(ImageError, match=r"^it is no JPEG, PNG, [A-Z, ]* file$"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n", 5, 3)
