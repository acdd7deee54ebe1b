"""HDF5 files written without HDF5 on the disk: any program reads them, and a full disk is an error like any other."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from owt_mpi.plain_hdf5.reader import PlainHdf5
from owt_mpi.plain_hdf5.writer import Hdf5Writer
from tests.small_disk import files_open, small_disk

LARGE = np.random.default_rng(1).standard_normal((5000, 3, 7)).astype(np.float32)
OTHER = np.arange(30_000.0).reshape(3, 10_000)


def write(path: Path) -> None:
    """Write two large arrays, a small one, an empty one, texts and attributes; the rows out of order."""
    with Hdf5Writer(path) as writer:
        writer.file.attrs["format"] = "test"
        writer.place("large", LARGE.shape, LARGE.dtype)
        writer.place("group/other", OTHER.shape, OTHER.dtype)
        writer.place("empty", (0, 4), np.float32)
        for first in (3000, 0, 1500, 4500):
            writer.write("large", first, LARGE[first : min(first + 1500, 4500 if first < 4500 else 5000)])
        writer.write("group/other", 0, OTHER)
        writer.write("empty", 0, np.empty((0, 4), np.float32))
        writer.file["small"] = np.arange(3)
        writer.file.create_dataset("names", data=["a", "bc" * 3000], dtype=h5py.string_dtype())
        writer.finish()


def test_h5py_and_our_own_reader_read_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["large"][()], LARGE)
        np.testing.assert_array_equal(file["group/other"][()], OTHER)
        assert (file.attrs["format"], file["empty"].shape, file["small"][()].tolist()) == ("test", (0, 4), [0, 1, 2])
        assert file["names"].asstr()[()].tolist() == ["a", "bc" * 3000]
    with PlainHdf5(tmp_path / "a.h5") as plain:
        np.testing.assert_array_equal(plain.array("large").read(), LARGE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_rows_that_are_not_written_are_zeros(tmp_path: Path) -> None:
    with Hdf5Writer(tmp_path / "a.h5") as writer:
        writer.place("x", (1000, 5), np.float64)
        writer.write("x", 1, np.ones((2, 5), np.float32))
        writer.finish()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][()].sum() == 10
        assert file["x"][1:3].sum() == 10


def test_without_its_end_a_file_leaves_nothing_but_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("before")
    with Hdf5Writer(tmp_path / "a.h5") as writer:
        writer.place("x", (10,), np.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_text() == "before"
    assert not [path for path in files_open() if path.startswith(f"{tmp_path}/") or "memfd:hdf5" in path]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.8, 0.95, 0.99])
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path: Path, part: float) -> None:
    write(tmp_path / "a.h5")
    num_pages = -(-(tmp_path / "a.h5").stat().st_size // 4096)
    with small_disk(tmp_path / "disk", max(int(part * num_pages), 1) * 4096):
        with pytest.raises(OSError, match=r"No space left on device: '.*/disk/a\.h5'"):
            write(tmp_path / "disk" / "a.h5")
        assert list((tmp_path / "disk").iterdir()) == []
