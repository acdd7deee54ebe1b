import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_prep.convert import Chunk, Converter, convert_all
from data_prep.images import Recipe
from data_prep.sources import Listing, open_source
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import Files, class_folders, png

GRAY = Recipe("jpeg", 1, 8, square=True, quality=90)


@pytest.fixture
def listing(tmp_path: Path) -> Iterator[Listing]:
    """Forty images whose size grows, every seventh of them broken."""
    files: Files = {"pear": {f"{key:02}.png": b"broken" if key % 7 == 3 else png(key, 8 + key) for key in range(40)}}
    with open_source(class_folders(files, tmp_path / "source")) as opened:
        yield opened


def chunks(listing: Listing, taken: list[int], num_chunks: int = 14) -> Iterator[tuple[int, Chunk]]:
    """Yield the images three by three, over and over again, and note what is taken."""
    images = listing.splits[""]
    for number in range(num_chunks):
        taken.append(number)
        rows = tuple(range(number * 3, number * 3 + 3))
        yield number, Chunk(0, rows, tuple(images[row % 40] for row in rows), None)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_chunks(listing: Listing, num_workers: int) -> None:
    results = list(convert_all(chunks(listing, []), Converter((listing.reader,), GRAY), num_workers))
    assert [number for number, _, _ in results] == list(range(14))
    images = [image for _, converted, _ in results for image in converted]
    assert [image.row for image in images] == list(range(42))
    for image in images:
        key = image.row % 40
        assert image.image.name == f"{key:02}.png"
        if key % 7 == 3:
            assert image.rejected.startswith("it is no JPEG")
            assert image.encoded is None
        else:
            assert image.source_sha256 == hashlib.sha256(png(key, 8 + key)).digest()
            assert image.encoded is not None
            assert image.encoded.startswith(b"\xff\xd8")
    assert sum(sums.count for _, _, sums in results) == sum(not image.rejected for image in images) * 64


@pytest.mark.parametrize(("num_workers", "ahead"), [(1, 1), (2, 5)])
def test_few_chunks_are_taken_ahead(listing: Listing, num_workers: int, ahead: int) -> None:
    taken: list[int] = []
    results = convert_all(chunks(listing, taken, 1000), Converter((listing.reader,), GRAY), num_workers)
    next(results)
    assert len(taken) == ahead  # the one that is yielded, and two for each process
    results.close()


def test_sums_are_those_over_the_pixels(listing: Listing) -> None:
    recipe = Recipe("jpeg", 3, 8, square=False, quality=90)
    ((_, converted, sums),) = convert_all(chunks(listing, [], 1), Converter((listing.reader,), recipe), 1)
    assert [image.size for image in converted] == [(8, 12), (8, 10), (8, 9)]
    assert sums.count == 8 * (12 + 10 + 9)
    assert sums.image is None


def test_a_killed_worker_is_an_error_with_the_way_out(listing: Listing) -> None:
    results = convert_all(chunks(listing, [], 1000), Converter((listing.reader,), GRAY), 2)
    next(results)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"killed, perhaps for want of memory; with fewer --workers than 2"):
        list(results)


def test_pixels_are_bright_where_the_image_is(listing: Listing) -> None:
    ((_, converted, sums),) = convert_all(chunks(listing, [], 1), Converter((listing.reader,), GRAY), 1)
    assert sums.image is not None
    assert sums.image.shape == (8, 8, 1)
    assert sums.image.sum() == sums.total[0]
    assert 60 < sums.total[0] / sums.count < 190
    assert np.all(sums.products >= sums.total**2 / sums.count)
    assert len(converted) == 3
