import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from data_prep.convert import convert


def files(taken: list[int], num_files: int) -> Iterator[tuple[int, bytes]]:
    """Yield `num_files` images whose size grows, every seventh of them broken, and note what was taken."""
    for key in range(num_files):
        taken.append(key)
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8 + key, 3), key, np.uint8)).save(buffer, "PNG")
        yield key, b"broken" if key % 7 == 3 else buffer.getvalue()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_files(monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    monkeypatch.setattr("data_prep.convert.CHUNK", 3)
    results = list(convert(files([], 40), 8, 3, num_workers))
    images = [item for result in results for item in result.images]
    failures = [item for result in results for item in result.failures]
    assert [key for key, _, _ in images] == [key for key in range(40) if key % 7 != 3]
    assert [key for key, _ in failures] == [3, 10, 17, 24, 31, 38]
    for key, image, _ in images:
        np.testing.assert_array_equal(image, np.full((8, 8, 3), key))
    assert sum(result.sums.count for result in results) == 34 * 64


@pytest.mark.parametrize(("num_workers", "ahead"), [(1, 3), (2, 15)])
def test_few_files_are_read_ahead(monkeypatch: pytest.MonkeyPatch, num_workers: int, ahead: int) -> None:
    monkeypatch.setattr("data_prep.convert.CHUNK", 3)
    taken: list[int] = []
    results = convert(files(taken, 1000), 8, 3, num_workers)
    next(results)
    assert len(taken) == ahead  # of the chunk that is yielded, and of two for each process
    results.close()
