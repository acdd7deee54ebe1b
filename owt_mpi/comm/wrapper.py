"""A communicator around another that sees every call: what checks and watches collectives is made of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from owt_mpi.comm.base import Array, Communicator, Pending, T


@dataclass(frozen=True)
class Call:
    """A collective as all ranks that take part must call it: what is equal on them, and nothing that may differ."""

    kind: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(self.arguments)})"


class CommunicatorWrapper(ABC):
    """`inner`, every call of which goes through `_start`, or through `_run` where it blocks."""

    def __init__(self, inner: Communicator) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner = inner

    @abstractmethod
    def _start(self, call: Call, start: Callable[[], Pending[T]]) -> Pending[T]:
        """Return start(), or a Pending around it."""

    @abstractmethod
    def _run(self, call: Call, run: Callable[[], T]) -> T:
        """Return run(), which blocks."""

    @abstractmethod
    def _wrap(self, inner: Communicator) -> Communicator:
        """Return the wrapper of what dup or split made of the inner communicator. All its ranks call."""

    def dup(self, label: str) -> Communicator:
        return self._wrap(self._run(Call("dup", (repr(label),)), lambda: self._inner.dup(label)))

    def split(self, color: int, key: int, label: str) -> Communicator:
        return self._wrap(self._run(Call("split", (repr(label),)), lambda: self._inner.split(color, key, label)))

    def split_by_node(self, label: str) -> Communicator:
        call = Call("split_by_node", (repr(label),))
        return self._wrap(self._run(call, lambda: self._inner.split_by_node(label)))

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        return self._start(_call("all_reduce", x), lambda: self._inner.start_all_reduce(x, out))

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start(_call("all_gather", x, axis=axis), lambda: self._inner.start_all_gather(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start(_call("reduce_scatter", x, axis=axis), lambda: self._inner.start_reduce_scatter(x, axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        call = _rows_call("all_gather_rows", x, num_rows)
        return self._start(call, lambda: self._inner.start_all_gather_rows(x, num_rows))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        call = _rows_call("reduce_scatter_rows", x, num_rows)
        return self._start(call, lambda: self._inner.start_reduce_scatter_rows(x, num_rows))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        return self._start(_call("broadcast", x, root=root), lambda: self._inner.start_broadcast(x, root))

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        return self._start(_call("reduce", x, root=root), lambda: self._inner.start_reduce(x, root))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        call = _call("all_to_all", x, split_axis=split_axis, concat_axis=concat_axis)
        return self._start(call, lambda: self._inner.start_all_to_all(x, split_axis, concat_axis))

    def all_gather_object(self, value: T) -> list[T]:
        return self._run(Call("all_gather_object"), lambda: self._inner.all_gather_object(value))

    def barrier(self) -> None:
        self._run(Call("barrier"), self._inner.barrier)


def _call(kind: str, x: Array, **options: int) -> Call:
    words = [f"{name}={value}" for name, value in options.items()]
    return Call(kind, (str(x.dtype), str(tuple(x.shape)), *words))


def _rows_call(kind: str, x: Array, num_rows: Sequence[int]) -> Call:
    """Name the shape of a row alone: ranks may give different numbers of them."""
    return Call(kind, (str(x.dtype), f"rows of {tuple(x.shape[1:])}", f"num_rows={list(num_rows)}"))
