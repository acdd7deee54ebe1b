"""Whether the MPI library takes arrays in a GPU's memory: what it says itself, what the user says, and a try."""

import ctypes
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.calls import Engine

VARIABLE = "OWT_MPI_GPU_AWARE"
_CUDA = 0  # MPIX_GPU_SUPPORT_CUDA


@dataclass(frozen=True)
class Support:
    """Whether device arrays can be given to MPI, and in a few words how that is known."""

    is_there: bool
    reason: str


def find_support(
    comm: Communicator,
    engine: Engine,
    xp: ModuleType,
    device: int,
    override: str = "auto",
    environ: Mapping[str, str] = os.environ,
) -> Support:
    """Return, on all ranks alike, whether `engine` takes arrays of `device` of `xp` (CuPy). All ranks of `comm` call.

    `override` is "yes", "no" or "auto"; with "auto" the environment's OWT_MPI_GPU_AWARE counts, and without it what the
    library says. Where the answer is yes, every rank tries one element. A library that is wrongly taken to know device
    memory ends the process there. ValueError if the variable has another value.
    """
    claim = claimed(override, environ) or engine.submit(ask_library).wait()
    everyone = comm.all_gather_object(claim)
    for rank, each in enumerate(everyone):
        if not each.is_there:
            where = "" if all(other == each for other in everyone) else f" on rank {rank}"
            return Support(False, each.reason + where)
    problem = _try(comm, engine, xp, device)
    problems = [each for each in comm.all_gather_object(problem) if each]
    if problems:
        return Support(False, f"{claim.reason}, but {problems[0]}")
    return Support(True, f"{claim.reason}, and a device array arrived")


def claimed(override: str, environ: Mapping[str, str]) -> Support | None:
    """Return what the user says, None if that is nothing. ValueError for a value that says neither yes nor no."""
    if override != "auto":
        return Support(override == "yes", f"--gpu-aware-mpi says {override}")
    value = environ.get(VARIABLE, "")
    if value in ("0", "1"):
        return Support(value == "1", f"{VARIABLE} says {'yes' if value == '1' else 'no'}")
    if value:
        raise ValueError(f"{VARIABLE} is {value!r}; set it to 1 (MPI takes device arrays) or 0, or unset it")
    return None


def ask_library(maps: Path = Path("/proc/self/maps")) -> Support:
    """Return what the MPI library in this process says. MPI is initialised; the calling thread may call it.

    Only a library that is loaded by its own name gives its extensions: the process does not export them.
    """
    libraries = mpi_libraries(maps)
    for library in map(ctypes.CDLL, libraries):
        if (query := getattr(library, "MPIX_GPU_query_support", None)) is not None:  # MPICH
            flag = ctypes.c_int(0)
            failed = query(_CUDA, ctypes.byref(flag))
            return _said("MPIX_GPU_query_support", not failed and flag.value != 0)
        if (query := getattr(library, "MPIX_Query_cuda_support", None)) is not None:  # Open MPI
            return _said("MPIX_Query_cuda_support", query() == 1)
    if not libraries:
        return Support(False, "no MPI library is loaded")
    names = ", ".join(Path(each).name for each in libraries)
    return Support(False, f"{names} cannot say whether it takes device arrays ({VARIABLE}=1 tells that it does)")


def mpi_libraries(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """Return the files of the MPI libraries that are loaded into this process."""
    return sorted(set(re.findall(r"/\S*/libmpi[^/\s]*\.so[^/\s]*", maps.read_text())))


def _said(function: str, is_there: bool) -> Support:
    return Support(is_there, f"{function} says {'yes' if is_there else 'no'}")


def _try(comm: Communicator, engine: Engine, xp: ModuleType, device: int) -> str | None:
    """Sum one element a rank through device memory; return what went wrong on this rank, if anything."""
    x = xp.full(1, comm.rank + 1, np.float32)
    total = xp.zeros(1, np.float32)
    ready = xp.cuda.Event(disable_timing=True)
    xp.cuda.get_current_stream().record(ready)

    def call() -> str | None:
        with xp.cuda.Device(device):
            ready.synchronize()
            try:
                engine.calls.all_reduce(x, total)
            except Exception as error:
                return f"the sum of a device array failed ({type(error).__name__}: {error})".splitlines()[0]
        return None

    problem = engine.submit(call).wait()
    arrived, expected = float(total.get()[0]), comm.size * (comm.size + 1) / 2
    if problem is None and arrived != expected:
        return f"a device array did not arrive: the sum over ranks is {arrived:g}, not {expected:g}"
    return problem
