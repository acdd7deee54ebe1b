from pathlib import Path

import numpy as np
import pytest

from owt_mpi.data.file_array import FileArray


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path, array: np.ndarray) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"before" + array.tobytes() + b"after")
    return path


def test_rows_and_runs_of_rows_are_the_array_s(path: Path, array: np.ndarray) -> None:
    read = FileArray(path, 6, array.shape)
    assert len(read) == 7
    for row in range(7):
        np.testing.assert_array_equal(read[row], array[row])
    np.testing.assert_array_equal(read[-2], array[5])
    np.testing.assert_array_equal(read[2:5], array[2:5])
    np.testing.assert_array_equal(read[5:99], array[5:])
    assert read[3:3].shape == (0, 5, 4, 3)
    read.close()


def test_bytes_of_a_flat_array_are_read_by_position(path: Path, array: np.ndarray) -> None:
    read = FileArray(path, 6, (array.size,))
    assert read[10:31].tobytes() == array.tobytes()[10:31]
    read.close()


@pytest.mark.parametrize("row", [-8, 7])
def test_row_outside_is_refused(path: Path, array: np.ndarray, row: int) -> None:
    read = FileArray(path, 6, array.shape)
    with pytest.raises(IndexError, match=f"file: {row} is not in 0 .. 6"):
        read[row]
    read.close()


def test_file_that_ends_too_early_is_named(path: Path, array: np.ndarray) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    read = FileArray(path, 6, array.shape)
    with pytest.raises(OSError, match=f"{path} has no byte 366"):
        read[6]
    read.close()
