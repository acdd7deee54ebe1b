import io
import threading

import numpy as np
import pytest
from PIL import Image

from owt_mpi.data.decode import BROKEN, Crew, decode_window


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return an image (h, w, c) without sharp edges, so that scales can be compared."""
    y, x = np.mgrid[:height, :width] / 16
    planes = [127 + 100 * np.sin(x + k) * np.cos(0.7 * y - k) for k in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.squeeze())
    (image if mode is None else image.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


def decoded(
    content: bytes, window: tuple[int, int, int, int], shape: tuple[int, ...], draft: bool = False
) -> np.ndarray:
    out = np.zeros(shape, np.uint8)
    decode_window(content, window, out, draft)
    return out


def test_window_of_the_right_size_is_cut_out() -> None:
    pixels = smooth(40, 50)
    np.testing.assert_array_equal(decoded(encoded(pixels), (3, 7, 20, 30), (20, 30, 3)), pixels[3:23, 7:37])


def test_window_of_another_size_is_resized_as_an_image_of_its_own() -> None:
    pixels = smooth(40, 50)
    alone = Image.fromarray(pixels[3:23, 7:37]).resize((15, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded(encoded(pixels), (3, 7, 20, 30), (12, 15, 3)), np.asarray(alone))


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "LA")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_gray_or_colour(kind: str, mode: str, channels: int) -> None:
    content = encoded(smooth(40, 50), kind, mode)
    with Image.open(io.BytesIO(content)) as image:
        whole = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(40, 50, channels)
    np.testing.assert_array_equal(decoded(content, (3, 7, 20, 30), (20, 30, channels)), whole[3:23, 7:37])


def test_draft_decodes_the_same_picture_at_a_smaller_scale() -> None:
    content = encoded(smooth(163, 211), "JPEG")
    window, shape = (11, 24, 120, 150), (30, 37, 3)
    exact, draft = decoded(content, window, shape), decoded(content, window, shape, draft=True)
    difference = np.abs(exact.astype(int) - draft)
    assert difference.max() > 0
    assert difference.mean() < 1
    np.testing.assert_array_equal(decoded(content, window, shape, draft=True), draft)


def test_draft_leaves_a_window_alone_that_is_less_than_twice_the_size() -> None:
    content = encoded(smooth(163, 211), "JPEG")
    window, shape = (11, 24, 119, 150), (60, 60, 3)
    np.testing.assert_array_equal(decoded(content, window, shape, draft=True), decoded(content, window, shape))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify"),
        (b"text", "cannot identify"),
        (encoded(smooth(40, 50), "JPEG")[:-300], "(?i)truncated"),
        (encoded(smooth(22, 50)), "it is 22x50, too small for the window"),
        (encoded(np.full((40, 50), 3000, np.uint16)), "more than 8 bits"),
    ],
)
def test_content_without_the_window_raises_what_callers_expect(content: bytes, reason: str) -> None:
    with pytest.raises(BROKEN, match=reason):
        decoded(content, (3, 7, 20, 30), (20, 30, 3))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_crew_does_every_row_once(num_threads: int) -> None:
    crew = Crew(num_threads)
    for num_rows in (0, 1, 2, 50):
        done: list[int] = []
        crew.each_row(done.append, num_rows)
        assert sorted(done) == list(range(num_rows))
    crew.close()


def test_crew_works_on_as_many_rows_at_a_time_as_it_has_threads() -> None:
    crew, meeting = Crew(3), threading.Barrier(3)
    crew.each_row(lambda row: meeting.wait(timeout=60) and None, 3)
    crew.close()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_crew_raises_an_error_of_a_row_and_works_on(num_threads: int) -> None:
    crew = Crew(num_threads)

    def work(row: int) -> None:
        if row >= 5:
            raise ValueError(f"row {row}")

    with pytest.raises(ValueError, match="row 5"):
        crew.each_row(work, 6)
    crew.each_row(work, 5)
    crew.close()


def test_crew_without_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="--read-threads is 0"):
        Crew(0)
