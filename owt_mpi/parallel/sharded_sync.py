"""The paper's weight synchronisation: each rank updates its 1/K of the weights and sends it to all (section 4).

The momentum is kept for that 1/K alone, and every rank receives as many bytes as in an all-reduce.
"""

from collections.abc import Callable, Iterator
from math import prod

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array, Backend
from owt_mpi.backends.precision import exact_dtype, is_half
from owt_mpi.comm.base import Communicator, Pending, block_of
from owt_mpi.parallel.grad_sync import GradSync, MakeOptimizer, Optimizer, starts_of
from owt_mpi.parallel.wire import Wire
from owt_mpi.parallel.wire_format import WireDtype
from owt_mpi.spans import about


class _WeightBucket:
    """The weights of one bucket in one flat array, of which rank `comm.rank` updates its block."""

    def __init__(
        self, members: list[Parameter], size: int, comm: Communicator, backend: Backend, make_optimizer: MakeOptimizer
    ) -> None:
        self._members, self._backend = members, backend
        self._flat = backend.xp.zeros(size, members[0].dtype)
        self._views: list[Array] = []
        self.own = block_of(self._flat, 0, comm.rank, comm.size)
        first = comm.rank * len(self.own)
        self._segments: list[tuple[slice, Parameter]] = []  # what lies where in `own`
        self._master = backend.xp.zeros(len(self.own), exact_dtype(self.own.dtype)) if is_half(self.own.dtype) else None
        for parameter, start in zip(members, starts_of(members), strict=True):
            assert parameter.data is not None, f"{parameter.name} has no values"
            stop = start + prod(parameter.shape)
            view = self._flat[start:stop].reshape(parameter.shape)
            view[...] = parameter.data
            parameter.set_data(view, backend)
            self._views.append(view)
            part = slice(max(start - first, 0), min(stop - first, len(self.own)))
            if part.start < part.stop:
                segment = Parameter((part.stop - part.start,), parameter.init, parameter.is_bias)
                segment.name = f"rank {comm.rank}'s part of {parameter.name}"
                segment.set_data(self.own[part], backend)
                if self._master is not None and parameter.master is not None:
                    segment.master = self._master[part]
                    segment.master[...] = parameter.master.reshape(-1)[first + part.start - start :][: segment.size]
                self._segments.append((part, segment))
            parameter.master = None
        self._optimizer: Optimizer = make_optimizer([segment for _, segment in self._segments])

    def update_own(self, grad: Array, lr: float, grad_scale: float, skip: Array | None) -> None:
        """Update this rank's block by `grad`, summed over ranks, each parameter's part by that parameter's rule."""
        for parameter, view in zip(self._members, self._views, strict=True):
            assert parameter.data is view, f"{parameter.name} was moved out of its bucket; write into its data instead"
            assert parameter.grad is not None, f"{parameter.name} has no gradient"
            parameter.clear_grad()
            parameter.master = None
        for part, segment in self._segments:
            segment.grad = grad[part]
        self._optimizer.step(lr, grad_scale, skip)

    def changed_arrays(self) -> list[Array]:
        """Return what an update changes on this rank."""
        masters = [] if self._master is None else [self._master]
        return [self._flat, *masters, *self._optimizer.velocities]

    def write(self, weights: Array) -> None:
        """Take over the blocks of all ranks."""
        self._flat[...] = weights

    def start_collect(self, comm: Communicator) -> Pending[Array] | None:
        """Start to collect the master weights of all ranks, None where the weights are not rounded."""
        return None if self._master is None else comm.start_all_gather(self._master)

    def start_collect_momentum(self, comm: Communicator) -> Pending[Array]:
        """Start to collect the momentum of all ranks."""
        own = self._backend.xp.zeros(len(self.own), exact_dtype(self.own.dtype))
        for (part, _), velocity in zip(self._segments, self._optimizer.velocities, strict=True):
            own[part] = velocity
        return comm.start_all_gather(own)

    def cut(self, flat: Array) -> Iterator[tuple[Parameter, Array]]:
        """Yield every parameter with its part of an array that is laid out as the bucket."""
        for parameter, start in zip(self._members, starts_of(self._members), strict=True):
            yield parameter, flat[start : start + prod(parameter.shape)].reshape(parameter.shape)

    def set_momentum(self, values: Callable[[Parameter], Array], rank: int) -> None:
        """Take this rank's part of the momentum `values(parameter)` of every parameter."""
        flat = self._backend.xp.zeros(self._flat.shape, exact_dtype(self.own.dtype))
        for parameter, view in self.cut(flat):
            view[...] = values(parameter)
        own = flat[rank * len(self.own) : (rank + 1) * len(self.own)]
        for (part, _), velocity in zip(self._segments, self._optimizer.velocities, strict=True):
            velocity[...] = own[part]

    def show_masters(self, masters: Array) -> None:
        """Give every parameter its part of `masters`, until the next update."""
        for parameter, master in self.cut(masters):
            parameter.master = master


class ShardedSync(GradSync[Array]):
    """Gradients are reduce-scattered; each rank updates its 1/K of every bucket; the new weights are all-gathered.

    The weights are moved into flat buckets: `parameter.data` becomes a view, to be written into, not replaced. Where
    `wire_dtype` rounds, it rounds gradients alone: weights cross as they are computed with, and stay equal on all ranks
    to the bit. Of float32 master weights a rank keeps its 1/K.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        comm: Communicator,
        backend: Backend,
        make_optimizer: MakeOptimizer,
        bucket_bytes: int = 4 << 20,
        wire_dtype: WireDtype = "auto",
    ) -> None:
        assert comm.size > 1, "one rank has nothing to share"
        super().__init__(parameters, comm, backend, bucket_bytes, multiple=comm.size)
        self._wire = Wire(comm, wire_dtype)
        self._weights = [
            _WeightBucket(members, len(flat), comm, backend, make_optimizer)
            for members, flat in zip(self._members, self._buckets, strict=True)
        ]

    def start_step(self, lr: float, grad_scale: float = 1.0, skip: Array | None = None) -> Pending[None]:
        arriving: list[tuple[_WeightBucket, Pending[Array]]] = []
        for bucket, pending in self._pending:
            weights = self._weights[bucket]
            weights.update_own(pending.wait(), lr, grad_scale, skip)  # under the exchanges of the other buckets
            with about(f"bucket {bucket}"):
                arriving.append((weights, self._comm.start_all_gather(weights.own)))
        self._pending = []
        return _WeightsArriving(arriving)

    def wait(self) -> None:
        for _, pending in self._pending:
            pending.wait()

    def sums(self) -> list[Array]:
        return [pending.wait() for _, pending in self._pending]

    def changed_arrays(self) -> list[Array]:
        return [array for bucket in self._weights for array in bucket.changed_arrays()]

    def collect_masters(self) -> None:
        arriving = [(bucket, bucket.start_collect(self._comm)) for bucket in self._weights]
        for bucket, pending in arriving:
            if pending is not None:
                bucket.show_masters(pending.wait())

    def collect_momentum(self) -> Iterator[tuple[Parameter, Array]]:
        for bucket in self._weights:  # one at a time: whole momentum is K times what a rank has room for
            yield from bucket.cut(bucket.start_collect_momentum(self._comm).wait())

    def set_momentum(self, values: Callable[[Parameter], Array]) -> None:
        for bucket in self._weights:
            bucket.set_momentum(values, self._comm.rank)

    def _start_exchange(self, flat: Array) -> Pending[Array]:
        return self._wire.start_reduce_scatter(flat)


class _WeightsArriving:
    """The all-gathers of the buckets."""

    def __init__(self, arriving: list[tuple[_WeightBucket, Pending[Array]]]) -> None:
        self._arriving = arriving

    def wait(self) -> None:
        for weights, pending in self._arriving:
            weights.write(pending.wait())
        self._arriving = []
