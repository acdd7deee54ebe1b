"""Arrays read from their place in a file."""

from pathlib import Path

import numpy as np
import pytest

from owt_mpi.plain_hdf5.arrays import FileArray
from owt_mpi.plain_hdf5.source import Hdf5Error, Source


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path, array: np.ndarray) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"before" + array.tobytes() + b"after")
    return path


def array_at(path: Path, offset: int, shape: tuple[int, ...], dtype: str = "u1") -> FileArray:
    return FileArray(Source(path), offset, shape, np.dtype(dtype))


def test_rows_and_runs_of_rows_are_the_array_s(path: Path, array: np.ndarray) -> None:
    read = array_at(path, 6, array.shape)
    assert len(read) == 7
    for row in range(7):
        np.testing.assert_array_equal(read[row], array[row])
    np.testing.assert_array_equal(read[-2], array[5])
    np.testing.assert_array_equal(read[2:5], array[2:5])
    np.testing.assert_array_equal(read[5:99], array[5:])
    assert read[3:3].shape == (0, 5, 4, 3)


def test_bytes_of_a_flat_array_are_read_by_position(path: Path, array: np.ndarray) -> None:
    read = array_at(path, 6, (array.size,))
    assert read[10:31].tobytes() == array.tobytes()[10:31]


@pytest.mark.parametrize("row", [-8, 7])
def test_row_outside_is_refused(path: Path, array: np.ndarray, row: int) -> None:
    read = array_at(path, 6, array.shape)
    with pytest.raises(IndexError, match=f"file: {row} is not in 0 .. 6"):
        read[row]


def test_file_that_is_cut_while_it_is_open_is_named(path: Path, array: np.ndarray) -> None:
    read = array_at(path, 6, array.shape)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match=f"{path} has no byte 366"):
        read[6]


@pytest.mark.parametrize(
    ("offset", "shape", "dtype"),
    [(7, (84, 5), "u1"), (-1, (4,), "u1"), (6, (2**60,), "u1"), (6, (27,), "<f8"), (6, (0, 2**60), "u1")],
)
def test_array_that_is_not_all_in_the_file_is_refused(path: Path, offset: int, shape: tuple, dtype: str) -> None:
    path.write_bytes(path.read_bytes()[:220])
    with pytest.raises(Hdf5Error, match=r"points to bytes|says that it holds an array"):
        array_at(path, offset, shape, dtype)


def test_elements_of_several_bytes_are_read(path: Path, array: np.ndarray) -> None:
    values = array.reshape(-1)[:400].view("<i4").reshape(20, 5)
    read = array_at(path, 6, values.shape, "<i4")
    np.testing.assert_array_equal(read[3:7], values[3:7])
    np.testing.assert_array_equal(read.read(), values)
