"""The communicator of one rank: every collective is a copy."""

import pickle
from collections.abc import Sequence
from typing import cast

from owt_mpi.comm.base import (
    Array,
    Done,
    Pending,
    T,
    check_array,
    check_axis,
    check_out,
    check_root,
    check_rows,
    summand,
)


class SerialCommunicator:
    """One rank, with the same checks and the same fresh results as a communicator of many."""

    def __init__(self, label: str = "world") -> None:
        self.rank = 0
        self.size = 1
        self.label = label

    def dup(self, label: str) -> "SerialCommunicator":
        """Return another communicator of one rank."""
        return SerialCommunicator(label)

    def split(self, color: int, key: int, label: str) -> "SerialCommunicator":
        """Return another communicator of one rank."""
        assert color >= 0, color
        return SerialCommunicator(label)

    def split_by_node(self, label: str) -> "SerialCommunicator":
        """Return another communicator of one rank."""
        return SerialCommunicator(label)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        """Copy x to `out` or to a new array."""
        check_array(x)
        if out is None:
            return Done(summand(x).copy())
        check_out(x, out)
        out[...] = summand(x)
        return Done(out)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Copy x."""
        check_array(x)
        check_axis(x, axis)
        return Done(x.copy())

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Copy x."""
        check_array(x)
        check_axis(x, axis)
        return Done(summand(x).copy())

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Copy x."""
        check_array(x)
        check_rows(x, num_rows, self.size, num_rows[0])
        return Done(x.copy())

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Copy x."""
        check_array(x)
        check_rows(x, num_rows, self.size, num_rows[0])
        return Done(summand(x).copy())

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        """Copy x."""
        check_array(x)
        check_root(root, self.size)
        return Done(x.copy())

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        """Copy x."""
        check_array(x)
        check_root(root, self.size)
        return Done(summand(x).copy())

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        """Copy x."""
        check_array(x)
        check_axis(x, split_axis, "split_axis")
        check_axis(x, concat_axis, "concat_axis")
        return Done(x.copy())

    def all_gather_object(self, value: T) -> list[T]:
        """Return a copy of `value`, made through pickle as between ranks."""
        return [cast("T", pickle.loads(pickle.dumps(value)))]

    def barrier(self) -> None:
        """Return."""
