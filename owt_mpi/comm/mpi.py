"""The communicator over MPI. The only file that imports mpi4py; no other may call MPI.

MPI is initialised by the first world(), not by the import, and all its calls but abort run on
one CommThread, shared by all communicators of the process. A process that called world() ends by finalise() or
abort(), which guard.run_command sees to; otherwise its launcher takes its end for a failure.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import mpi4py
import numpy as np

mpi4py.rc.initialize = False
mpi4py.rc.finalize = False
from owt_mpi.comm.launcher import LaunchError, check_not_alone  # noqa: E402

try:
    from mpi4py import MPI  # the settings above count at import
except (ImportError, RuntimeError) as error:
    raise LaunchError(
        f"mpi4py finds no MPI library: pip install 'owt_mpi[mpich]', or load your cluster's MPI ({error})".splitlines()[
            0
        ]
    ) from error

from owt_mpi.comm.base import (  # noqa: E402
    Array,
    Communicator,
    Pending,
    T,
    block_of,
    check_axis,
    check_out,
    check_root,
    check_rows,
    summand,
)
from owt_mpi.comm.buffers import (  # noqa: E402
    Scratch,
    check_message,
    counts_of,
    is_leading,
    joined_shape,
    write_blocks,
)
from owt_mpi.comm.comm_thread import CommThread, Task  # noqa: E402
from owt_mpi.comm.mpi_calls import MpiCalls  # noqa: E402
from owt_mpi.comm.serial import SerialCommunicator  # noqa: E402


class MpiCommunicator:
    """One rank of an MPI communicator. Arrays are NumPy's; results are new arrays, `out` apart."""

    def __init__(self, comm: Any, label: str, thread: CommThread, scratch: Scratch) -> None:
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.label = label
        self.calls = MpiCalls(comm, MPI.IN_PLACE)  # for what is submitted
        self._comm = comm
        self._thread = thread
        self._scratch = scratch  # used by calls on the thread alone

    def submit(self, call: Callable[[], T]) -> Pending[T]:
        """Return the pending result of `call`, made on the communication thread."""
        return self._thread.submit(call)

    def dup(self, label: str) -> "MpiCommunicator":
        """Return MPI's duplicate of this communicator."""
        return self._like(self._thread.submit(self._comm.Dup).wait(), label)

    def split(self, color: int, key: int, label: str) -> Communicator:
        """Return the communicator of the ranks that gave the same `color`, ordered by (key, rank). One needs no MPI."""
        assert color >= 0, color
        part = self._thread.submit(lambda: self._comm.Split(color, key)).wait()
        return SerialCommunicator(label) if part.size == 1 else self._like(part, label)

    def split_by_node(self, label: str) -> "MpiCommunicator":
        """Return the communicator of the ranks with which MPI can share memory."""
        call = lambda: self._comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)  # noqa: E731
        return self._like(self._thread.submit(call).wait(), label)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        """Sum, in place where `out` is x."""
        check_message(x)
        in_place = False
        if out is not None:
            check_out(x, out)
            in_place = x.size > 0 and np.may_share_memory(x, out)
            if in_place and x.ctypes.data != out.ctypes.data:
                raise ValueError("x and out overlap in memory; pass the same array, or two that do not overlap")

        def call() -> Array:
            terms = summand(x)
            total = np.empty_like(terms) if out is None else out
            self.calls.all_reduce(total if in_place else terms, total)
            return total

        return self._thread.submit(call)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Join the blocks of MPI_Allgather along `axis`."""
        check_message(x, self.size)
        axis = check_axis(x, axis)

        def call() -> Array:
            blocks, result = self._receive_buffer(x.shape, axis, x.dtype)
            self.calls.all_gather(x, blocks, [x.size] * self.size)
            return self._joined(blocks, axis, result)

        return self._thread.submit(call)

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Sum by MPI_Reduce_scatter_block, after packing x where its blocks are not contiguous."""
        check_message(x)
        axis = check_axis(x, axis)
        block_shape = block_of(x, axis, self.rank, self.size).shape

        def call() -> Array:
            result = np.empty(block_shape, summand(x).dtype)
            self.calls.reduce_scatter(self._packed(summand(x), axis), result, [result.size] * self.size)
            return result

        return self._thread.submit(call)

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Join rows, by the MPI call that fits their counts."""
        check_message(x)
        check_rows(x, num_rows, self.size, num_rows[self.rank])

        def call() -> Array:
            result = np.empty((sum(num_rows), *x.shape[1:]), x.dtype)
            self.calls.all_gather(x, result, counts_of(x, num_rows))
            return result

        return self._thread.submit(call)

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Sum, by the MPI call that fits the counts."""
        check_message(x)
        check_rows(x, num_rows, self.size, sum(num_rows))

        def call() -> Array:
            terms = summand(x)
            result = np.empty((num_rows[self.rank], *x.shape[1:]), terms.dtype)
            self.calls.reduce_scatter(terms, result, counts_of(x, num_rows))
            return result

        return self._thread.submit(call)

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        """Send by MPI_Bcast, from a copy of x on the root."""
        check_message(x)
        check_root(root, self.size)

        def call() -> Array:
            result = x.copy() if self.rank == root else np.empty_like(x)
            self.calls.broadcast(result, root)
            return result

        return self._thread.submit(call)

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        """Sum by MPI_Reduce."""
        check_message(x)
        check_root(root, self.size)

        def call() -> Array | None:
            terms = summand(x)
            result = np.empty_like(terms) if self.rank == root else None
            self.calls.reduce(terms, result, root)
            return result

        return self._thread.submit(call)

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        """Exchange by MPI_Alltoall, packing before and unpacking after where blocks are not contiguous."""
        check_message(x)
        split_axis = check_axis(x, split_axis, "split_axis")
        concat_axis = check_axis(x, concat_axis, "concat_axis")
        block_shape = block_of(x, split_axis, self.rank, self.size).shape

        def call() -> Array:
            blocks, result = self._receive_buffer(block_shape, concat_axis, x.dtype)
            self.calls.all_to_all(self._packed(x, split_axis), blocks)
            return self._joined(blocks, concat_axis, result)

        return self._thread.submit(call)

    def all_gather_object(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order."""
        return cast("list[T]", self._thread.submit(lambda: self._comm.allgather(value)).wait())

    def barrier(self) -> None:
        """Return when every rank has called."""
        self.start_barrier().wait()

    def start_barrier(self) -> Task[None]:
        """Return the task that ends when every rank has called."""
        return self._thread.submit(self._comm.Barrier)

    def _like(self, comm: Any, label: str) -> "MpiCommunicator":
        return MpiCommunicator(comm, label, self._thread, self._scratch)

    def _packed(self, x: Array, axis: int) -> Array:
        """Return x's blocks along `axis`, each contiguous: x itself where it lies so, else the scratch 'send'."""
        if is_leading(x.shape, axis):
            return x
        block_shape = block_of(x, axis, 0, self.size).shape
        blocks = self._scratch.array("send", (self.size, *block_shape), x.dtype)
        for index in range(self.size):
            blocks[index] = block_of(x, axis, index, self.size)
        return blocks

    def _receive_buffer(self, block_shape: tuple[int, ...], axis: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return (blocks to receive into, result): the same memory where joining along `axis` is no work."""
        shape = (self.size, *block_shape)
        result = np.empty(joined_shape(block_shape, axis, self.size), dtype)
        if is_leading(block_shape, axis):
            return result.reshape(shape), result
        return self._scratch.array("receive", shape, dtype), result

    def _joined(self, blocks: Array, axis: int, result: Array) -> Array:
        """Return `result` filled from the received `blocks`."""
        if not is_leading(blocks.shape[1:], axis):
            write_blocks(blocks, axis, result)
        return result


class _Process:
    """MPI in this process: the world, and a duplicate for ending together, which no other collective can match."""

    def __init__(self) -> None:
        self.thread = CommThread()
        if not MPI.Is_initialized():
            # collectives need SERIALIZED; an abort while the communication thread is in one needs MULTIPLE. In the new
            # thread's clean memory: MPICH 5 publishes its buffers whole, and SLURM's pmi2 loses parts of long messages
            self.thread.submit(lambda: MPI.Init_thread(MPI.THREAD_MULTIPLE)).wait()
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise ValueError("this MPI library does not let a second thread call it; build it with MPI_THREAD_MULTIPLE")
        root = MpiCommunicator(MPI.COMM_WORLD, "MPI_COMM_WORLD", self.thread, Scratch())
        self.world = root.dup("world")
        self.control = root.dup("control")


_process: _Process | None = None


def world() -> MpiCommunicator:
    """Return the communicator of all ranks; the first call initialises MPI, and all ranks make it.

    Raises LaunchError where the launcher started several processes that are each alone.
    """
    communicator = initialise().world
    if communicator.size == 1:
        check_not_alone(MPI.Get_library_version().splitlines()[0][:60])
    return communicator


def library() -> str:
    """Return what the MPI library calls itself."""
    return str(MPI.Get_library_version()).splitlines()[0].strip("\0 ")


def initialise() -> _Process:
    """Initialise MPI on the first call and return its state."""
    global _process  # noqa: PLW0603 - a process has one MPI
    if _process is None:
        _process = _Process()
    return _process


def active_world() -> MpiCommunicator | None:
    """Return the world, or None before MPI is initialised and after it is finalised."""
    return None if _process is None else _process.world


def all_arrive_within(seconds: float) -> bool:
    """Return whether all ranks call this within about `seconds` of each other."""
    assert _process is not None
    return _process.control.start_barrier().is_done_within(seconds)


def finalise() -> None:
    """Finish all collectives started and finalise MPI, if it is initialised. All ranks call."""
    global _process  # noqa: PLW0603
    if _process is not None:
        _process.thread.submit(MPI.Finalize)  # on the thread that initialised, as MPI asks
        _process.thread.close()
        _process = None


def abort(code: int) -> NoReturn:
    """End all ranks at once with `code`, from any thread and whatever the ranks are doing."""
    with contextlib.suppress(OSError):  # the library's own message says nothing that the caller has not said
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)
