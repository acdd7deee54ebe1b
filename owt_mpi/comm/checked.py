"""A communicator whose ranks compare what they are about to do before any data moves, for finding mismatches."""

import sys
from collections.abc import Callable
from pathlib import Path

from owt_mpi.comm.base import Communicator, Pending, T
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.place import here
from owt_mpi.comm.wrapper import Call, CommunicatorWrapper
from owt_mpi.spans import about


class _Comparison:
    """The descriptions that the ranks of `comm` exchange, and the number of those before.

    Communicators of the same ranks share one, so that an exchange of two collectives on different ones is seen.
    """

    def __init__(self, comm: Communicator, rank: int) -> None:
        self._comm, self._rank, self._num_compared = comm, rank, 0

    def compare(self, call: Call, label: str) -> None:
        """Raise CollectiveExit on all ranks unless all of them make the same call in the same place."""
        self._num_compared += 1
        what = f"{call} on {label!r}"
        claim = f"{what} in {here()}"
        with about(f"check of {what}"):
            everyone = self._comm.all_gather_object((claim, self._rank, _caller()))
        if any(each != claim for each, _, _ in everyone):
            raise CollectiveExit(1, f"error: {_explain(everyone, self._num_compared)}")


class CheckedCommunicator(CommunicatorWrapper):
    """`inner`, each collective of which fails on all ranks alike, by CollectiveExit, unless they all start it.

    What is compared: the call with dtype, shape and axis or root, the label, and the place (step, phase, pass, layer).
    Ranks that share several communicators are compared across those that have all the ranks of the first. Where the
    orders of a smaller communicator and another one are mixed up, ranks still wait for each other.
    """

    def __init__(self, inner: Communicator, comparison: _Comparison | None = None, world_rank: int = -1) -> None:
        super().__init__(inner)
        self._world_rank = self.rank if comparison is None else world_rank
        self._comparison = comparison or _Comparison(inner.dup(f"{inner.label} check"), self._world_rank)

    def _start(self, call: Call, start: Callable[[], Pending[T]]) -> Pending[T]:
        self._comparison.compare(call, self.label)
        return start()

    def _run(self, call: Call, run: Callable[[], T]) -> T:
        self._comparison.compare(call, self.label)
        return run()

    def _wrap(self, inner: Communicator) -> Communicator:
        comparison = self._comparison
        if inner.size < self.size:
            comparison = _Comparison(inner.dup(f"{inner.label} check"), self._world_rank)
        return CheckedCommunicator(inner, comparison, self._world_rank)


def _explain(everyone: list[tuple[str, int, str]], number: int) -> str:
    """Return what each rank started, ranks that started the same together, the fewest first."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for claim, rank, caller in everyone:
        groups.setdefault(claim, []).append((rank, caller))
    parts = []
    for claim, members in sorted(groups.items(), key=lambda item: (len(item[1]), item[1][0])):
        ranks = ", ".join(str(rank) for rank, _ in members)
        parts.append(f"  rank{'s'[: len(members) > 1]} {ranks} started {claim} ({members[0][1]})")
    return "\n".join(
        [
            f"the ranks disagree on collective {number}, and all must start the same ones in the same order:",
            *parts,
            "look for what depends on the rank: an option, a file, a condition around a collective",
        ]
    )


def _caller() -> str:
    """Return file:line of the innermost call from outside this package."""
    frame = sys._getframe(1)
    package = Path(__file__).parent
    while frame.f_back is not None and Path(frame.f_code.co_filename).parent == package:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
