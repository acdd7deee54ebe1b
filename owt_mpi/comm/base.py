"""The contract of a communicator: collectives that are started, then waited for.

All reductions are sums. All ranks of a communicator start its collectives in the same order, and ranks that share
several communicators start the collectives of all of them in one order (a transport may run them one after another).
Arrays must be C-contiguous, of dtype float32, float64, an integer type or bool; a bool array is moved as it is and
summed as uint8. From `start_x(array)` until `wait()` returns, the caller does not modify `array`; the Pending keeps
every buffer alive that the transport may still touch. Blocking is `.wait()` at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray
T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """A collective under way."""

    def wait(self) -> T_co:
        """Block until this rank's part is done and return the result; later calls return it again."""
        ...


class Done(Generic[T]):
    """A Pending whose result is there already."""

    def __init__(self, result: T) -> None:
        self._result = result

    def wait(self) -> T:
        """Return the result."""
        return self._result


class Then(Generic[T, R]):
    """A Pending whose result is `function` of another's result, called by the first wait()."""

    def __init__(self, pending: Pending[T], function: Callable[[T], R]) -> None:
        self._pending: Pending[T] | None = pending
        self._function = function
        self._result: R

    def wait(self) -> R:
        """Return the result."""
        if self._pending is not None:
            self._result = self._function(self._pending.wait())
            self._pending = None
        return self._result


class PeerFailure(RuntimeError):
    """Another rank failed, so the collective that this rank waits for will never complete."""


class Communicator(Protocol):
    """An ordered group of ranks. `size` is the K of the formulas."""

    rank: int
    size: int
    label: str

    def dup(self, label: str) -> "Communicator":
        """Return a communicator of the same ranks whose collectives never match this one's. All ranks call."""
        ...

    def split(self, color: int, key: int, label: str) -> "Communicator":
        """Return the communicator of the ranks that gave the same `color` >= 0, by (key, rank). All ranks call."""
        ...

    def split_by_node(self, label: str) -> "Communicator":
        """Return the communicator of the ranks that share memory with this one, in rank order. All ranks call."""
        ...

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        """Every rank gets the sum over ranks, in `out` (which may be x itself: in place) or in a new array."""
        ...

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Every rank gets the ranks' blocks joined along `axis`, in rank order. Adjoint: reduce_scatter."""
        ...

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Rank r gets block r (of `size` equal ones along `axis`) of the sum over ranks. Adjoint: all_gather."""
        ...

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Every rank gets the ranks' rows (along axis 0) in rank order; rank r gives num_rows[r] of them, or none.

        Adjoint: reduce_scatter_rows with the same `num_rows`.
        """
        ...

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Rank r gets num_rows[r] rows (along axis 0) of the sum over ranks, after those of the ranks before it."""
        ...

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        """Every rank gets root's x. Off the root, x gives shape and dtype and is left alone. Adjoint: reduce."""
        ...

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        """Root gets the sum over ranks, the others None. Adjoint: broadcast."""
        ...

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        """Rank r gets block r (along `split_axis`) of every rank's x, joined along `concat_axis`.

        Adjoint: all_to_all with the two axes exchanged.
        """
        ...

    def all_gather_object(self, value: T) -> list[T]:
        """Return every rank's `value` (small, picklable), in rank order. Blocking."""
        ...

    def barrier(self) -> None:
        """Return when every rank has called."""
        ...


def block_of(x: Array, axis: int, index: int, count: int) -> Array:
    """Return block `index` of `count` equal blocks of x along `axis`, as a view. ValueError if they are not equal."""
    length = x.shape[axis]
    if length % count:
        raise ValueError(
            f"axis {axis} of shape {tuple(x.shape)} has {length} elements, which {count} ranks cannot share equally; "
            f"make it a multiple of {count}"
        )
    step = length // count
    where: list[Any] = [slice(None)] * x.ndim
    where[axis] = slice(index * step, (index + 1) * step)
    return x[tuple(where)]


def check_contiguous(x: Array, name: str = "x") -> None:
    """Raise ValueError unless x is C-contiguous: MPI sends memory order, silently."""
    flags = getattr(x, "flags", None)
    if flags is not None and not flags.c_contiguous:
        raise ValueError(f"{name} of shape {tuple(x.shape)} is not C-contiguous; pass numpy.ascontiguousarray({name})")


def check_array(x: Array, name: str = "x") -> None:
    """Raise ValueError unless x is C-contiguous and of a dtype that every transport moves and sums."""
    check_contiguous(x, name)
    dtype = np.dtype(x.dtype)
    if not dtype.isnative or not (dtype.kind in "biu" or dtype in (np.float32, np.float64)):
        raise ValueError(
            f"{name} has dtype {dtype}, which the transports cannot sum; "
            "convert it to float32, float64, an integer type or bool"
        )


def check_axis(x: Array, axis: int, name: str = "axis") -> int:
    """Return `axis` counted from the front. ValueError if x has no such axis."""
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name} {axis} is not an axis of shape {tuple(x.shape)}; give one in 0..{x.ndim - 1}")
    return axis % int(x.ndim)


def check_rows(x: Array, num_rows: Sequence[int], size: int, expected: int) -> None:
    """Raise ValueError unless `num_rows` has a number for each of `size` ranks and x has `expected` rows."""
    if len(num_rows) != size or min(num_rows) < 0:
        raise ValueError(
            f"num_rows is {list(num_rows)}, but needs a number of rows, 0 or more, for each of {size} ranks"
        )
    if x.ndim < 1 or x.shape[0] != expected:
        raise ValueError(f"x of shape {tuple(x.shape)} should have {expected} rows, by num_rows {list(num_rows)}")


def check_root(root: int, size: int) -> None:
    """Raise ValueError unless `root` is one of `size` ranks."""
    if not 0 <= root < size:
        raise ValueError(f"root {root} is not a rank of this communicator of {size}; give one in 0..{size - 1}")


def check_out(x: Array, out: Array) -> None:
    """Raise ValueError unless `out` can take the sum of the ranks' x."""
    check_contiguous(out, "out")
    dtype = summand(x).dtype
    if tuple(out.shape) != tuple(x.shape) or out.dtype != dtype:
        raise ValueError(
            f"out is {out.dtype} {tuple(out.shape)}, but the sum of x is {dtype} {tuple(x.shape)}; make it like the sum"
        )


def summand(x: Array) -> Array:
    """Return x as it is summed: a bool array as a view of uint8, any other array itself."""
    return x.view(np.uint8) if x.dtype == np.bool_ else x
