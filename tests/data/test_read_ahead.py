import os
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.data import read_ahead
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.read_ahead import joined
from owt_mpi.data.readers import Reader
from owt_mpi.data.shard_format import ShardReader
from tests.data.test_jpeg_reader import encoded_folder, images

__all__ = ["encoded_folder", "images"]  # fixtures


def test_parts_that_touch_are_one() -> None:
    starts, stops = np.array([3, 5, 5, 9, 12, 20]), np.array([5, 9, 9, 12, 15, 21])
    assert joined(starts, stops).tolist() == [[3, 15], [20, 21]]
    assert joined(starts[:0], stops[:0]).tolist() == []


def asked_for(reader: Reader, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the parts of files that the system is asked to fetch."""
    parts: list[bytes] = []

    def advise(file: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        parts.append(os.pread(file, length, start))

    with monkeypatch.context() as patch:
        patch.setattr(read_ahead.os, "posix_fadvise", advise)
        reader.will_need(np.array(indices, np.int64))
    return parts


@pytest.mark.parametrize("use_maps", [True, False])
def test_runs_of_raw_images_are_asked_for_in_one_piece_of_each_shard(
    folder: Path, pixels: np.ndarray, use_maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(folder, "train", use_maps)
    parts = asked_for(reader, [11, 3, 8, 28, 9, 10, 3], monkeypatch)  # shards have 10, 10 and 9
    expected = [pixels[3:4], pixels[8:10], pixels[10:12], pixels[28:29]]
    assert parts == [run.tobytes() for run in expected]
    assert asked_for(reader, [], monkeypatch) == []
    reader.close()


def test_runs_of_encoded_images_are_asked_for_in_one_piece(
    encoded_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ShardReader(encoded_folder, "train")
    reader = JpegReader(shards, 1)
    contents = [shards.encoded(index) for index in range(13)]
    parts = asked_for(reader, [4, 7, 3, 6], monkeypatch)  # shards have 5, 4 and 4
    assert parts == [contents[3] + contents[4], contents[6] + contents[7]]
    reader.close()


def test_nothing_is_asked_for_of_copies_in_memory(
    folder: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(folder, "train")
    reader.read_from([np.array(images) for images in reader.images_by_shard()[:2]])
    assert asked_for(reader, [3, 12, 25], monkeypatch) == [pixels[25].tobytes()]
    reader.close()


def test_real_advice_is_taken(folder: Path) -> None:
    reader = ShardReader(folder, "train")
    reader.will_need(np.arange(29))
    reader.close()
