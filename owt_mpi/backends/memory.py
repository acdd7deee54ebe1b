"""The host's memory: how much there is, and how this process's allocator treats large arrays that come and go."""

import ctypes
from pathlib import Path

from owt_mpi.backends.base import Memory

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next ones; without glibc, do nothing.

    By default glibc maps an array of many megabytes afresh from the kernel and hands it back when it is freed, so that
    every step pays for zeroing the same pages again (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD). Kept, memory
    is at its peak for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def host_memory(file: Path = Path("/proc/meminfo")) -> Memory | None:
    """Return what Linux says in `file`, None where it does not."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    if not {"MemAvailable", "MemTotal"} <= kib.keys():
        return None
    return Memory(kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024)
