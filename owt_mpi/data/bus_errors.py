"""A mapped file that is cut short, or whose disk fails, kills whoever reads it by SIGBUS: this says which file it was.

A handler that Python's `signal` sets runs after the faulting instruction, which never ends. So the system calls this
one at once, in the thread that read, by ctypes. It never returns to that instruction: it ends the job, or lets the
process die as it would have without a handler.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from owt_mpi.comm.guard import DATA_ERROR, fail

_ADDRESS = 16  # of siginfo_t's si_addr, on 64-bit Linux
_SA_SIGINFO = 4
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Sigaction(ctypes.Structure):
    """struct sigaction of 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_described: dict[int, tuple[int, Callable[[int], str]]] = {}  # by address: bytes of a map, and what is said of a byte
_setting = threading.Lock()
_is_set = False


def explain(mapped: np.ndarray, describe: Callable[[int], str]) -> None:
    """Let a bus error in `mapped` end the job with exit code 3 and the line describe(byte of the array).

    `describe` must not wait for other threads. Nothing is done on systems other than 64-bit Linux.
    """
    global _is_set  # noqa: PLW0603 - a process has one handler
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return
    _described[mapped.ctypes.data] = (mapped.nbytes, describe)
    with _setting:
        if not _is_set:
            _set_handler(ctypes.cast(_handler, ctypes.c_void_p).value, _SA_SIGINFO)
            _is_set = True


def forget(mapped: np.ndarray) -> None:
    """Take back what `explain` was told."""
    _described.pop(mapped.ctypes.data, None)


def _set_handler(handler: int | None, flags: int) -> None:
    action = _Sigaction(handler, (ctypes.c_ulong * 16)(), flags, None)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None) != 0:
        raise OSError(ctypes.get_errno(), "sigaction")


def _on_bus_error(number: int, info: int, context: Any) -> None:
    """Say what the fault is. Whatever happens here, the process ends."""
    try:
        address = ctypes.c_void_p.from_address(info + _ADDRESS).value or 0
        for start, (num_bytes, describe) in list(_described.items()):
            if start <= address < start + num_bytes:
                fail(f"error: {describe(address - start)}", DATA_ERROR)
        os.write(2, b"bus error in no shard's memory: /dev/shm may be full, which ranks share, or memory is faulty\n")
        _set_handler(None, 0)  # the instruction is run again, and kills the process
    except BaseException:
        os._exit(DATA_ERROR)


_handler = _HANDLER(_on_bus_error)
