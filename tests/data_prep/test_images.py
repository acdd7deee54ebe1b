import io

import numpy as np
import pytest
from PIL import Image

from data_prep.images import Recipe, prepare
from owt_mpi.data import image_file
from owt_mpi.data.decode import ImageError


def recipe(size: int | None, channels: int = 3, storage: str = "raw", square: bool = True) -> Recipe:
    return Recipe(storage, channels, size, square, quality=75)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    return prepare(content, "x", recipe(size, channels)).pixels


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


@pytest.mark.parametrize(("height", "width"), [(375, 500), (333, 250), (500, 281), (90, 121)])
def test_the_centre_of_any_size_is_that_of_the_whole_resized_up_to_rounding(height: int, width: int) -> None:
    image = Image.fromarray(random_pixels(height // 8, width // 8, 3)).resize((width, height), Image.Resampling.BICUBIC)
    size = 128
    whole = [size if side == min(height, width) else int(size * side / min(height, width)) for side in (width, height)]
    resized = np.asarray(image.resize((whole[0], whole[1]), Image.Resampling.BILINEAR)).astype(int)
    top, left = round((whole[1] - size) / 2), round((whole[0] - size) / 2)
    difference = np.abs(decode(encoded(image), size, 3) - resized[top : top + size, left : left + size])
    assert difference.max() <= 1
    assert difference.mean() < 0.2


def test_without_a_crop_the_long_side_is_kept() -> None:
    image = Image.fromarray(random_pixels(20, 31, 3))
    expected = np.asarray(image.resize((15, 10), Image.Resampling.BILINEAR))
    prepared = prepare(encoded(image), "x.png", recipe(10, storage="jpeg", square=False))
    np.testing.assert_array_equal(prepared.pixels, expected)
    assert prepared.encoded == encoded(Image.fromarray(expected), "JPEG", quality=75)


def test_an_original_is_kept_untouched_but_must_be_sound() -> None:
    content = encoded(Image.fromarray(random_pixels(90, 70, 3)), "JPEG")
    kept = prepare(content, "x.jpg", recipe(None, storage="jpeg", square=False))
    assert kept.encoded == content
    np.testing.assert_array_equal(kept.pixels, np.asarray(Image.open(io.BytesIO(content))))
    with pytest.raises(ImageError, match="truncated"):
        prepare(content[:-200], "x.jpg", recipe(None, storage="jpeg", square=False))


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


def test_what_is_odd_about_an_image_is_remarked() -> None:
    image = Image.fromarray(random_pixels(64, 64, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    contents = {
        "a.JPEG": encoded(image, "JPEG"),
        "b.JPEG": encoded(image, "PNG"),
        "c.jpg": encoded(image.convert("L"), "JPEG"),
        "d.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "e.jpg": encoded(image, "JPEG", exif=turned),
        "f.png": encoded(image.resize((1, 1))),
        "g.png": encoded(image.convert("RGBA")),
    }
    remarks = {name: prepare(content, name, recipe(64)).remarks for name, content in contents.items()}
    assert remarks == {
        "a.JPEG": (),
        "b.JPEG": ("it is a PNG file by content",),
        "c.jpg": ("it is gray",),
        "d.jpg": ("its colours are CMYK",),
        "e.jpg": ("its EXIF orientation 6 is not followed",),
        "f.png": ("it is enlarged from 1x1 pixels",),
        "g.png": ("its colours are RGBA",),
    }
    assert prepare(contents["c.jpg"], "c.jpg", recipe(64, channels=1)).remarks == ()


def test_pixels_of_16_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="more than 8 bits"):
        decode(encoded(Image.fromarray(random_pixels(5, 5).astype(np.uint16) * 256)), 5, 1)


def test_truncated_empty_and_foreign_files_are_refused_without_addresses() -> None:
    content = encoded(Image.fromarray(random_pixels(50, 50, 3)), "JPEG")
    with pytest.raises(ImageError, match=r"cannot be decoded.*truncated"):
        decode(content[: len(content) // 2], 5, 3)
    with pytest.raises(ImageError, match=r"^it is no JPEG, PNG, [A-Z, ]* file$"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n", 5, 3)
    with pytest.raises(ImageError, match="it is empty"):
        decode(b"", 5, 3)


@pytest.mark.parametrize("sides", [(10_000, 9_000), (20_000, 20_000)])  # Pillow warns of the one, refuses the other
def test_decompression_bombs_are_refused_before_they_are_decoded(sides: tuple[int, int]) -> None:
    bomb = b"P5 %d %d 255\n" % sides
    with pytest.raises(ImageError, match=f"too large: it has more than {image_file.LARGEST_PIXELS} pixels"):
        decode(bomb, 5, 1)


def test_an_image_that_resizing_would_blow_up_is_refused_unless_its_centre_is_all_that_is_kept() -> None:
    content = encoded(Image.fromarray(random_pixels(1, 20_000)))
    with pytest.raises(ImageError, match="too long: at size 256 it would have 5120000x256 pixels"):
        prepare(content, "x.png", recipe(256, channels=1, storage="jpeg", square=False))
    assert decode(content, 256, 1).shape == (256, 256, 1)
