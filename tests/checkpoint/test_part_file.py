"""A rank's parts in a file: whatever way they take to the disk, they arrive, and the SHA-256 is that of the file."""

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from owt_mpi.checkpoint.format import FileEntry, finished_entry
from owt_mpi.checkpoint.part_file import write_parts
from owt_mpi.checkpoint.parts import Part
from tests.small_disk import small_disk

SIZES = [1, 1000, 1023, 1024, 1025, 2**18 - 1, 2**18, 2**18 + 1, 3 * 2**18 + 1500, 0]  # pages and blocks, in float32


def some_parts() -> list[Part]:
    rng = np.random.default_rng(5)
    parts = [Part(f"weights/a{size}", (size,), (0,), rng.standard_normal(size, np.float32)) for size in SIZES]
    transposed = rng.standard_normal((700, 300)).T
    return [*parts, Part("momentum/b", (600, 700), (300, 0), transposed)]


def assert_written(path: Path, entry: FileEntry) -> None:
    assert entry == finished_entry(path)
    with h5py.File(path) as file:
        for part in some_parts():
            np.testing.assert_array_equal(file[part.name][()], part.values)
            assert file[part.name].attrs["start"].tolist() == list(part.start)
            assert file[part.name].attrs["global_shape"].tolist() == list(part.global_shape)


class Way:
    """What is written past the page cache, and what happens to that; everything else is the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses_open, self.write_error, self.direct_bytes, self._direct = False, 0, 0, -1
        self._open, self._pwrite = os.open, os.pwrite
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        if not flags & os.O_DIRECT:
            return self._open(path, flags, *more, **named)
        if self.refuses_open:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        self._direct = self._open(path, flags & ~os.O_DIRECT)  # alike on file systems with and without it
        return self._direct

    def pwrite(self, file: int, content: memoryview, position: int) -> int:
        if file == self._direct:
            address = np.frombuffer(content, np.uint8).ctypes.data
            assert (address % 4096, len(content) % 4096, position % 4096) == (0, 0, 0)
            if self.write_error:
                raise OSError(self.write_error, "not so")
            content = content[: max(4096, len(content) // 2 // 4096 * 4096)]  # the kernel may take a part
            self.direct_bytes += len(content)
        return self._pwrite(file, content, position)


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    return Way(monkeypatch)


def test_what_is_written_by_the_real_way_is_read(tmp_path: Path) -> None:
    assert_written(tmp_path / "part.h5", write_parts(tmp_path / "part.h5", some_parts()))


def test_whole_pages_go_past_the_page_cache(tmp_path: Path, way: Way) -> None:
    entry = write_parts(tmp_path / "part.h5", some_parts())
    assert way.direct_bytes == sum(part.values.nbytes // 4096 * 4096 for part in some_parts())
    assert_written(tmp_path / "part.h5", entry)


def test_a_file_system_without_that_gets_the_same_bytes(tmp_path: Path, way: Way) -> None:
    way.refuses_open = True
    entry = write_parts(tmp_path / "refuses_open.h5", some_parts())
    assert_written(tmp_path / "refuses_open.h5", entry)
    way.refuses_open, way.write_error = False, errno.EINVAL
    assert write_parts(tmp_path / "refuses_write.h5", some_parts()) == entry
    assert_written(tmp_path / "refuses_write.h5", entry)
    way.write_error, way._direct = 0, -1  # closed, and its number is given again
    assert write_parts(tmp_path / "direct.h5", some_parts()) == entry


def test_a_full_disk_is_an_error(tmp_path: Path, way: Way) -> None:
    way.write_error = errno.ENOSPC
    with pytest.raises(OSError, match="not so"):
        write_parts(tmp_path / "part.h5", some_parts())


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_disk_of_any_size_that_is_full_is_an_error_and_no_file_stays_open(tmp_path: Path, part: float) -> None:
    num_pages = write_parts(tmp_path / "part.h5", some_parts()).bytes // 4096
    with small_disk(tmp_path / "disk", max(int(part * num_pages), 1) * 4096), pytest.raises(OSError, match="No space"):
        write_parts(tmp_path / "disk" / "part.h5", some_parts())
