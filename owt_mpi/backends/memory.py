"""How this process's allocator treats large arrays that come and go with every step."""

import ctypes

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
