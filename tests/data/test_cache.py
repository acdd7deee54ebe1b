import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.data import cache
from owt_mpi.data.cache import free_bytes, keep_in_memory
from owt_mpi.data.manifest import DataError
from owt_mpi.plain_hdf5.arrays import FileArray
from owt_mpi.plain_hdf5.source import Source
from tests.mpi_run import REPO_ROOT, Result

PARTS = [np.arange(7 * 5, dtype=np.uint8).reshape(7, 5), np.full(9000, 77, np.uint8), np.full((3, 2), 5, np.uint8)]
PAGES = 4096 * (1 + 3 + 1)


def names() -> list[Path]:
    """Return what this process has left in shared memory."""
    return list(cache.SHARED_MEMORY.glob(f"{cache.NAME}{os.getpid()}-*"))


def test_ranks_of_a_node_share_one_copy_that_has_no_name(mpirun: Callable[..., Result]) -> None:
    job = mpirun(2, ["tests/data/run_cache.py", "1000000"]).check()
    told = [json.loads(text) for text in job.rank_stdout]
    assert [each["count"] for each in told] == [3, 3]
    assert all(each["equal"] for each in told)
    assert len(told[0]["inodes"]) == 1
    assert told[0]["inodes"] == told[1]["inodes"]
    assert told[0]["left"] == []
    assert told[0]["said"] == "all of 0.01 MiB in memory, once a node"


def test_rank_that_is_killed_leaves_nothing_in_shared_memory() -> None:
    program = (
        "import numpy as np; from owt_mpi.comm.serial import SerialCommunicator; from owt_mpi.data import cache\n"
        "kept = cache.keep_in_memory([np.ones(9000, np.uint8)], 1 << 20, SerialCommunicator())\n"
        "print(kept.parts[0].sum(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "9000\n"
        rank.kill()
        rank.wait(timeout=60)
    assert list(cache.SHARED_MEMORY.glob(f"{cache.NAME}{rank.pid}-*")) == []


@pytest.mark.parametrize("size", [1, 3])
def test_parts_are_copied_whatever_the_number_of_ranks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PIECE_BYTES", 11)  # many pieces, the last of each part a short one

    def fill(comm):
        return keep_in_memory(PARTS, PAGES, comm).parts

    for kept in run_ranks(size, fill):
        for part, copy in zip(PARTS, kept, strict=True):
            np.testing.assert_array_equal(copy, part)
            assert not copy.flags.writeable
    assert names() == []


def test_what_is_read_piece_by_piece_is_kept_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdefghijkl")
    part = FileArray(Source(tmp_path / "file"), 2, (4, 2), np.dtype(np.uint8))
    assert keep_in_memory([part], PAGES, SerialCommunicator()).parts[0].tobytes() == b"cdefghij"


def test_as_many_parts_as_the_memory_has_room_for_are_kept_and_it_is_said() -> None:
    cached = keep_in_memory(PARTS, PAGES - 4096, SerialCommunicator())
    assert len(cached.parts) == 2
    assert "the rest from disk: there are 0.01 MiB, and --cache allows 0.02 MiB" in cached.description
    assert keep_in_memory(PARTS, 100, SerialCommunicator()).parts == []


def test_free_memory_limits_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "free_bytes", lambda: 4600)
    cached = keep_in_memory(PARTS, PAGES, SerialCommunicator())
    assert len(cached.parts) == 1
    assert "and 0.00 MiB are nine tenths of what is free" in cached.description


def test_free_memory_is_no_more_than_shared_memory_has_room_for() -> None:
    room = os.statvfs(cache.SHARED_MEMORY)
    assert 0 < free_bytes() <= room.f_blocks * room.f_frsize


def test_memory_that_runs_out_ends_all_ranks_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def full(file: int, content: memoryview, position: int) -> int:
        if position >= 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content, position)

    monkeypatch.setattr(os, "pwrite", full)

    def fill(comm):
        with pytest.raises(DataError, match=r"cache cannot be filled .*No space left.*; give less memory by --cache"):
            keep_in_memory(PARTS, PAGES, comm)

    run_ranks(2, fill)
    assert names() == []
