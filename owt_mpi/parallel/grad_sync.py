"""Gradients summed over ranks in buckets, each sent off as soon as the backward pass has filled it."""

from math import prod
from types import TracebackType

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array, Backend
from owt_mpi.comm.base import Communicator, Pending
from owt_mpi.spans import about


class GradSync:
    """Sums the gradients of `parameters` over the ranks of `comm`, under other work.

    with grad_sync:        # a bucket leaves as soon as this backward has filled it
        backward(...)
    grad_sync.wait()       # now every gradient is the sum over ranks

    Where several backward passes add up, `start_all` after the last takes the place of the with-block.

    The gradients live in flat buckets of at most `bucket_bytes` (a larger parameter has its own), filled from the
    last parameter to the first, as a backward pass makes them. With one rank nothing is sent or copied.
    """

    def __init__(
        self, parameters: list[Parameter], comm: Communicator, backend: Backend, bucket_bytes: int = 4 << 20
    ) -> None:
        self._comm, self._parameters = comm, parameters if comm.size > 1 else []
        self._bucket_of: dict[int, int] = {}
        self._buckets: list[Array] = []
        self._members: list[list[Parameter]] = []
        self._missing: list[int] = []
        self._pending: list[Pending[Array]] = []
        for group in _group(self._parameters, bucket_bytes):
            flat = backend.xp.zeros(sum(prod(p.shape) for p in group), group[0].dtype)
            start = 0
            for parameter in group:
                size = prod(parameter.shape)
                parameter.grad_buffer = flat[start : start + size].reshape(parameter.shape)
                self._bucket_of[id(parameter)] = len(self._buckets)
                start += size
            self._buckets.append(flat)
            self._members.append(group)

    def __enter__(self) -> None:
        self._missing = [len(members) for members in self._members]
        self._pending = []
        for parameter in self._parameters:
            parameter.on_grad_ready = self._on_grad_ready

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for parameter in self._parameters:
            parameter.on_grad_ready = None
        assert error_type is not None or not any(self._missing), f"buckets that wait for gradients: {self._missing}"

    def start_all(self) -> None:
        """Send all buckets off; every gradient is complete."""
        self._pending = [self._start(bucket) for bucket in range(len(self._buckets))]

    def wait(self) -> None:
        """Return when every gradient is the sum over ranks."""
        for pending in self._pending:
            pending.wait()
        self._pending = []

    def _on_grad_ready(self, parameter: Parameter) -> None:
        bucket = self._bucket_of[id(parameter)]
        self._missing[bucket] -= 1
        if self._missing[bucket] == 0:
            self._pending.append(self._start(bucket))  # crosses under the rest of backward

    def _start(self, bucket: int) -> Pending[Array]:
        flat = self._buckets[bucket]
        with about(f"bucket {bucket}"):
            return self._comm.start_all_reduce(flat, out=flat)


def _group(parameters: list[Parameter], bucket_bytes: int) -> list[list[Parameter]]:
    """Return the parameters from last to first, in groups of one dtype and at most `bucket_bytes`."""
    groups: list[list[Parameter]] = []
    filled = 0
    for parameter in reversed(parameters):
        size = prod(parameter.shape) * np.dtype(parameter.dtype).itemsize
        if not groups or filled + size > bucket_bytes or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            filled = 0
        groups[-1].append(parameter)
        filled += size
    return groups
