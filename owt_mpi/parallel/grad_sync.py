"""Gradients summed over ranks in buckets, each sent off as soon as the backward pass has filled it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array, Backend
from owt_mpi.comm.base import Communicator, Done, Pending
from owt_mpi.parallel.wire import Wire
from owt_mpi.parallel.wire_format import WireDtype
from owt_mpi.spans import about

T = TypeVar("T")


class Optimizer(Protocol):
    """What changes parameters. `velocities` are its momentum, one array for each."""

    velocities: list[Array]

    def step(self, lr: float, grad_scale: float = 1.0, skip: Array | None = None) -> None:
        """Update every parameter by `grad_scale` times its gradient, in place, and forget the gradients.

        Where `skip`, int32 (1,), is not 0, they are forgotten and nothing is updated.
        """
        ...


MakeOptimizer = Callable[[list[Parameter]], Optimizer]


class GradSync(ABC, Generic[T]):
    """Keeps `parameters`, which all ranks of `comm` hold alike, in step: sums their gradients and updates them.

    with sync:                        # a bucket leaves as soon as this backward has filled it
        backward(...)
    weights = sync.start_step(lr)     # waits for the sums
    weights.wait()                    # now this rank has all new weights

    Where several backward passes add up, `start_all` after the last takes the place of the with-block.

    The gradients live in flat buckets of at most `bucket_bytes` (a larger parameter has its own), each filled up with
    zeros to a multiple of `multiple` elements, in the order from the last parameter to the first, as a backward pass
    makes them. With one rank nothing is sent or copied. T is what an exchange under way results in.
    """

    def __init__(
        self, parameters: list[Parameter], comm: Communicator, backend: Backend, bucket_bytes: int, multiple: int
    ) -> None:
        self._comm, self._backend = comm, backend
        self.parameters, self._parameters = parameters, parameters if comm.size > 1 else []
        self._bucket_of: dict[int, int] = {}
        self._buckets: list[Array] = []
        self._members: list[list[Parameter]] = []
        self._missing: list[int] = []
        self._pending: list[tuple[int, Pending[T]]] = []  # (bucket, its exchange) in the order they were started
        for group in group_parameters(self._parameters, bucket_bytes):
            flat = backend.xp.zeros(-(-sum(prod(p.shape) for p in group) // multiple) * multiple, group[0].dtype)
            for parameter, start in zip(group, starts_of(group), strict=True):
                parameter.grad_buffer = flat[start : start + prod(parameter.shape)].reshape(parameter.shape)
                self._bucket_of[id(parameter)] = len(self._buckets)
            self._buckets.append(flat)
            self._members.append(group)
            self._missing.append(0)

    @abstractmethod
    def start_step(self, lr: float, grad_scale: float = 1.0, skip: Array | None = None) -> Pending[None]:
        """Update the parameters by the summed gradients, forget those, and start to collect the new weights.

        The gradients are multiplied by `grad_scale` first. Nothing may read the weights before `wait()` has returned.
        Where `skip`, int32 (1,), the same on all ranks, is not 0, no weight changes.
        """

    @abstractmethod
    def wait(self) -> None:
        """Return when every exchange that was started is done."""

    @abstractmethod
    def sums(self) -> list[Array]:
        """Return this rank's summed gradients, when every exchange that was started is done."""

    @abstractmethod
    def changed_arrays(self) -> list[Array]:
        """Return all that `start_step` changes on this rank, weights and momentum, to be copied and put back."""

    def collect_masters(self) -> None:
        """Let `exact` of every parameter be there, until the next step. All ranks call, between steps."""

    @abstractmethod
    def collect_momentum(self) -> Iterator[tuple[Parameter, Array]]:
        """Yield the momentum of every parameter, to be read at once. All ranks iterate to the end, between steps."""

    @abstractmethod
    def set_momentum(self, values: Callable[[Parameter], Array]) -> None:
        """Give every parameter the momentum `values(parameter)`, of its shape, for the next step."""

    @abstractmethod
    def _start_exchange(self, flat: Array) -> Pending[T]:
        """Start to sum a bucket."""

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
        self._pending = []
        for bucket in range(len(self._buckets)):
            self._start(bucket)

    def _on_grad_ready(self, parameter: Parameter) -> None:
        bucket = self._bucket_of[id(parameter)]
        self._missing[bucket] -= 1
        if self._missing[bucket] == 0:
            self._backend.each_time(partial(self._start, bucket))  # crosses under the rest of backward

    def _start(self, bucket: int) -> None:
        self._missing[bucket] = 0  # a backward that is replayed tells of no single gradients
        with about(f"bucket {bucket}"):
            self._pending.append((bucket, self._start_exchange(self._buckets[bucket])))


class AllReduceSync(GradSync[Pending[Array]]):
    """Every rank gets the summed gradients and makes the whole update itself."""

    def __init__(
        self,
        parameters: list[Parameter],
        comm: Communicator,
        backend: Backend,
        make_optimizer: MakeOptimizer,
        bucket_bytes: int = 4 << 20,
        wire_dtype: WireDtype = "auto",
    ) -> None:
        self._wire = Wire(comm, wire_dtype)
        super().__init__(parameters, comm, backend, bucket_bytes, comm.size if self._wire.rounds else 1)
        self._optimizer = make_optimizer(parameters)

    def start_step(self, lr: float, grad_scale: float = 1.0, skip: Array | None = None) -> Pending[None]:
        self.wait()
        self._optimizer.step(lr, grad_scale, skip)
        return Done(None)

    def sums(self) -> list[Array]:
        self.wait()
        return self._buckets or [parameter.grad for parameter in self.parameters]

    def changed_arrays(self) -> list[Array]:
        weights = [array for p in self.parameters for array in (p.data, p.master) if array is not None]
        return weights + self._optimizer.velocities

    def wait(self) -> None:
        """Return when every gradient is the sum over ranks."""
        returning = []
        for bucket, pending in self._pending:
            with about(f"bucket {bucket}"):
                returning.append(pending.wait())
        for pending in returning:
            pending.wait()
        self._pending = []

    def collect_momentum(self) -> Iterator[tuple[Parameter, Array]]:
        yield from zip(self.parameters, self._optimizer.velocities, strict=True)

    def set_momentum(self, values: Callable[[Parameter], Array]) -> None:
        for parameter, velocity in zip(self.parameters, self._optimizer.velocities, strict=True):
            velocity[...] = values(parameter)

    def _start_exchange(self, flat: Array) -> Pending[Pending[Array]]:
        return self._wire.start_all_reduce(flat)


def starts_of(parameters: list[Parameter]) -> list[int]:
    """Return at which element of their bucket the parameters start."""
    ends = np.cumsum([prod(p.shape) for p in parameters]).tolist()
    return [0, *ends[:-1]]


def group_parameters(parameters: list[Parameter], bucket_bytes: int) -> list[list[Parameter]]:
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
