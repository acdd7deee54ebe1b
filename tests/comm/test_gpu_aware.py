"""Whether MPI takes device arrays: asked of the library, told by the user, and tried."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.gpu_aware import VARIABLE, Support, ask_library, claimed, find_support
from owt_mpi.comm.threads import run_ranks
from tests.comm.process_like import ProcessLike
from tests.fake_cupy import RACES, stand_in

NO_DEVICES = "(OWT_MPI_GPU_AWARE=1 tells that it does)"


@pytest.fixture
def cupy() -> Iterator[Any]:
    with stand_in() as module:
        yield module


@pytest.fixture
def library(tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that builds a library of that file name, and gives what /proc/self/maps says with it."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")

    def build(name: str, code: str) -> Path:
        source, built, maps = tmp_path / "mpi.c", tmp_path / name, tmp_path / "maps"
        source.write_text(code)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
        line = "7f00-7f01 r-xp 00000000 08:01 99    {}\n"
        maps.write_text(line.format("/usr/lib/libc.so.6") + line.format(built) * 2 + "7f02-7f03 rw-p 0 00:00 0 \n")
        return maps

    return build


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("libmpi.so.12", "int MPIX_GPU_query_support(int t, int *f) { *f = t == 0; return 0; }",
         Support(True, "MPIX_GPU_query_support says yes")),
        ("libmpich.so.12.1", "int MPIX_GPU_query_support(int t, int *f) { *f = 0; return 0; }",
         Support(False, "MPIX_GPU_query_support says no")),
        ("libmpi_cray.so", "int MPIX_GPU_query_support(int t, int *f) { *f = 1; return 13; }",
         Support(False, "MPIX_GPU_query_support says no")),
        ("libmpi.so.40.40.3", "int MPIX_Query_cuda_support(void) { return 1; }",
         Support(True, "MPIX_Query_cuda_support says yes")),
        ("libmpi.so.40", "int MPIX_Query_cuda_support(void) { return 0; }",
         Support(False, "MPIX_Query_cuda_support says no")),
        ("libmpi.so.1", "int nothing;",
         Support(False, f"libmpi.so.1 cannot say whether it takes device arrays {NO_DEVICES}")),
    ],
)  # fmt: skip
def test_the_library_that_is_loaded_is_asked(
    library: Callable[[str, str], Path], name: str, code: str, expected: Support
) -> None:
    assert ask_library(library(name, code)) == expected


def test_without_a_library_there_is_no_support(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("")
    assert ask_library(tmp_path / "maps") == Support(False, "no MPI library is loaded")


def test_the_option_counts_before_the_variable_and_that_before_the_library() -> None:
    assert claimed("yes", {VARIABLE: "0"}) == Support(True, "--gpu-aware-mpi says yes")
    assert claimed("no", {VARIABLE: "1"}) == Support(False, "--gpu-aware-mpi says no")
    assert claimed("auto", {VARIABLE: "1"}) == Support(True, "OWT_MPI_GPU_AWARE says yes")
    assert claimed("auto", {VARIABLE: "0"}) == Support(False, "OWT_MPI_GPU_AWARE says no")
    assert claimed("auto", {}) is None
    with pytest.raises(ValueError, match="OWT_MPI_GPU_AWARE is 'maybe'; set it to 1"):
        claimed("auto", {VARIABLE: "maybe"})


class _Mistaken:
    """Calls that raise behind the sum, or leave the result where it is."""

    def __init__(self, calls: Any, mistake: str) -> None:
        self._calls, self._mistake = calls, mistake

    def all_reduce(self, x: Any, out: Any) -> None:
        self._calls.all_reduce(x, out if self._mistake == "raises" else np.empty(1, np.float32))
        if self._mistake == "raises":
            raise TypeError("message: cannot handle device arrays")


def found(cupy: Any, mistake: str, override: str = "yes") -> Support:
    """Return what three ranks find, of which the last makes the mistake."""

    def fn(comm: Communicator) -> Support:
        engine = ProcessLike(comm.dup("engine"))
        if mistake and comm.rank == 2:
            engine.calls = _Mistaken(engine.calls, mistake)
        support = find_support(comm, engine, cupy, 0, override if comm.rank < 2 else "yes")
        engine.thread.close()
        return support

    supports = run_ranks(3, fn)
    assert supports == [supports[0]] * 3, "all ranks go on alike"
    return supports[0]


def test_an_array_that_arrives_is_support(cupy: Any) -> None:
    assert found(cupy, "") == Support(True, "--gpu-aware-mpi says yes, and a device array arrived")
    assert RACES == []


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("loses", "a device array did not arrive: the sum over ranks is 0, not 6"),
        ("raises", "the sum of a device array failed (TypeError: message: cannot handle device arrays)"),
    ],
)
def test_an_array_that_does_not_arrive_on_one_rank_is_none_for_all(cupy: Any, mistake: str, words: str) -> None:
    assert found(cupy, mistake) == Support(False, f"--gpu-aware-mpi says yes, but {words}")


def test_a_library_that_differs_on_a_rank_is_named_with_it(cupy: Any) -> None:
    assert found(cupy, "", "no") == Support(False, "--gpu-aware-mpi says no on rank 0")


def test_the_try_waits_for_the_device(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fn(comm: Communicator) -> Support:
        return find_support(comm, ProcessLike(comm.dup("engine")), cupy, 0, "yes")

    assert run_ranks(1, fn)[0].is_there
    monkeypatch.setattr(cupy.cuda.Event, "synchronize", lambda event: None)
    assert "failed (RaceError: " in run_ranks(1, fn)[0].reason
    assert RACES
