"""Ranks that are threads of one process: for tests, and to try K ranks without MPI.

Sums run over the ranks in rank order, so they are the same bits on every rank and in every run.
"""

import pickle
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, cast

import numpy as np

from owt_mpi.comm.base import (
    Array,
    Communicator,
    PeerFailure,
    Pending,
    T,
    block_of,
    check_array,
    check_axis,
    check_out,
    check_root,
    check_rows,
    summand,
)
from owt_mpi.comm.meetings import Meetings, MeetingTimes


class _Posted(Generic[T]):
    """A collective whose input is posted; the result is computed by the first wait().

    `began` and `ended` are those of its meeting, `ended` None while it is not over.
    """

    def __init__(self, compute: Callable[[], T], times: MeetingTimes, rank: int) -> None:
        self._compute: Callable[[], T] | None = compute
        self._times, self._rank = times, rank
        self._result: T

    @property
    def began(self) -> float:
        return self._times.began[self._rank]

    @property
    def ended(self) -> float | None:
        return self._times.ended

    def wait(self) -> T:
        if self._compute is not None:
            self._result = self._compute()
            self._compute = None
        return self._result


class ThreadCommunicator:
    """One rank of a communicator whose ranks are threads. `members` are its ranks, numbered as in the whole group."""

    def __init__(self, meetings: Meetings, key: Hashable, members: tuple[int, ...], rank: int, label: str) -> None:
        self.rank = rank
        self.size = len(members)
        self.label = label
        self._meetings = meetings
        self._key = key
        self._members = members
        self._num_started = 0

    def dup(self, label: str) -> "ThreadCommunicator":
        """Return a communicator of the same ranks."""
        key = self._next_key()
        self._start(f"dup({label!r})", None, len).wait()
        return ThreadCommunicator(self._meetings, key, self._members, self.rank, label)

    def split(self, color: int, key: int, label: str) -> "ThreadCommunicator":
        """Return the communicator of the ranks that gave the same `color`, ordered by (key, rank)."""
        assert color >= 0, color
        group_key = (self._next_key(), color)
        choices: list[tuple[int, int]] = self._start(f"split({label!r})", (color, key), list).wait()
        ranks = sorted((k, rank) for rank, (c, k) in enumerate(choices) if c == color)
        members = tuple(self._members[rank] for _, rank in ranks)
        return ThreadCommunicator(self._meetings, group_key, members, ranks.index((key, self.rank)), label)

    def split_by_node(self, label: str) -> "ThreadCommunicator":
        """Return a communicator of the same ranks: threads share their memory."""
        return self.dup(label)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        """Post a snapshot of x; `out` is written by wait()."""
        check_array(x)
        if out is None:
            return self._start(f"all_reduce{_describe(x)}", x.copy(), _sum)
        check_out(x, out)

        def sum_into_out(xs: Sequence[Array]) -> Array:
            out[...] = _sum(xs)
            return out

        return self._start(f"all_reduce{_describe(x)}", x.copy(), sum_into_out)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Post a snapshot of x."""
        check_array(x)
        axis = check_axis(x, axis)
        call = f"all_gather{_describe(x, axis=axis)}"
        return self._start(call, x.copy(), lambda xs: np.concatenate(xs, axis=axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Post a snapshot of x."""
        check_array(x)
        axis = check_axis(x, axis)
        block_of(x, axis, self.rank, self.size)
        call = f"reduce_scatter{_describe(x, axis=axis)}"
        return self._start(call, x.copy(), lambda xs: _sum([self._own_block(x, axis) for x in xs]))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Post a snapshot of x."""
        check_array(x)
        check_rows(x, num_rows, self.size, num_rows[self.rank])
        row = x[:1].shape[1:]
        call = f"all_gather_rows({x.dtype}, {row}, num_rows={list(num_rows)})"
        return self._start(call, x.copy(), np.concatenate)

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Post a snapshot of x."""
        check_array(x)
        check_rows(x, num_rows, self.size, sum(num_rows))
        first = sum(num_rows[: self.rank])
        own = slice(first, first + num_rows[self.rank])
        call = f"reduce_scatter_rows{_describe(x)[:-1]}, num_rows={list(num_rows)})"
        return self._start(call, x.copy(), lambda xs: _sum([x[own] for x in xs]))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        """Post a snapshot of x on the root."""
        check_array(x)
        check_root(root, self.size)
        payload = x.copy() if self.rank == root else None
        return self._start(f"broadcast{_describe(x, root=root)}", payload, lambda xs: xs[root].copy())

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        """Post a snapshot of x."""
        check_array(x)
        check_root(root, self.size)
        call = f"reduce{_describe(x, root=root)}"
        return self._start(call, x.copy(), lambda xs: _sum(xs) if self.rank == root else None)

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        """Post a snapshot of x."""
        check_array(x)
        split_axis = check_axis(x, split_axis, "split_axis")
        concat_axis = check_axis(x, concat_axis, "concat_axis")
        block_of(x, split_axis, self.rank, self.size)

        def exchange(xs: Sequence[Array]) -> Array:
            return np.concatenate([self._own_block(x, split_axis) for x in xs], axis=concat_axis)

        return self._start(
            f"all_to_all{_describe(x, split_axis=split_axis, concat_axis=concat_axis)}", x.copy(), exchange
        )

    def all_gather_object(self, value: T) -> list[T]:
        """Return copies of the ranks' values, made through pickle as between processes."""
        pickles: list[bytes] = self._start("all_gather_object", pickle.dumps(value), list).wait()
        return [cast("T", pickle.loads(data)) for data in pickles]

    def barrier(self) -> None:
        """Return when every rank has called."""
        self._start("barrier", None, len).wait()

    def _start(self, call: str, payload: Any, result: Callable[[list[Any]], T]) -> Pending[T]:
        """Return the pending `result` of all ranks' payloads, in rank order."""
        me = self._members[self.rank]
        key = self._next_key()
        self._num_started += 1
        meeting = self._meetings.post(me, key, self._members, f"{call} on {self.label!r}", payload)
        return _Posted(lambda: result(self._meetings.wait(me, meeting)), meeting.times, me)

    def _next_key(self) -> Hashable:
        return (self._key, self._num_started)

    def _own_block(self, x: Array, axis: int) -> Array:
        return block_of(x, axis, self.rank, self.size)


def run_ranks(size: int, fn: Callable[[Communicator], T]) -> list[T]:
    """Return [fn(rank 0's communicator), ...] after running all `size` ranks at once, each in a thread.

    If ranks raise, the others get PeerFailure from what they wait for or start next, and the error of the lowest rank
    that did not merely suffer from another's is raised with a note that names the rank. Ctrl-C stops all ranks at
    their next collective.
    """
    assert size >= 1, size
    meetings = Meetings(size)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = fn(ThreadCommunicator(meetings, "world", tuple(range(size)), rank, "world"))
            meetings.finish(rank)
        except BaseException as error:
            errors[rank] = error
            meetings.fail(f"rank {rank} failed with {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        meetings.fail("the main thread was interrupted")
        for thread in threads:
            if thread.ident is not None:  # it was started
                thread.join()
        raise
    if errors:
        rank = min(errors, key=lambda rank: (isinstance(errors[rank], PeerFailure), rank))
        _add_note(errors[rank], f"raised on rank {rank} of {size} (ranks are threads)")
        raise errors[rank]
    return [results[rank] for rank in range(size)]


def _add_note(error: BaseException, note: str) -> None:
    """Do what error.add_note(note) does; Python 3.10 has no such method."""
    error.__dict__.setdefault("__notes__", []).append(note)


def _describe(x: Array, **options: int) -> str:
    words = [str(x.dtype), str(tuple(x.shape)), *(f"{name}={value}" for name, value in options.items())]
    return f"({', '.join(words)})"


def _sum(xs: Sequence[Array]) -> Array:
    total = summand(xs[0]).copy()
    for x in xs[1:]:
        total += summand(x)
    return total
