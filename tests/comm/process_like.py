"""A rank that is a thread, made like a process under CUDA-aware MPI, for the stand-in's device arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from owt_mpi.comm.base import Communicator, Pending, T
from owt_mpi.comm.calls import CommunicatorCalls
from owt_mpi.comm.comm_thread import CommThread
from owt_mpi.comm.wrapper import Call, CommunicatorWrapper


class _DeviceCalls:
    """The calls of a communicator, on the memory that `__cuda_array_interface__` shows, or the host's."""

    def __init__(self, comm: Communicator) -> None:
        self._calls = CommunicatorCalls(comm)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **named: getattr(self._calls, name)(*map(_memory, args), **named)


def _memory(argument: Any) -> Any:
    """Return the array whose memory the argument shows; what shows none is no array of a device."""
    if isinstance(argument, np.ndarray) or not hasattr(type(argument), "__cuda_array_interface__"):
        return argument
    assert argument.__cuda_array_interface__["shape"] == argument.shape
    return argument._a


class ProcessLike(CommunicatorWrapper):
    """`inner`, with a communication thread that makes blocking calls."""

    def __init__(self, inner: Communicator, thread: CommThread | None = None) -> None:
        super().__init__(inner)
        self.thread = thread or CommThread()
        self.calls: Any = _DeviceCalls(inner)

    def submit(self, call: Callable[[], T]) -> Pending[T]:
        return self.thread.submit(call)

    def _start(self, call: Call, start: Callable[[], Pending[T]]) -> Pending[T]:
        return start()

    def _run(self, call: Call, run: Callable[[], T]) -> T:
        return run()

    def _wrap(self, inner: Communicator) -> Communicator:
        return ProcessLike(inner, self.thread)
