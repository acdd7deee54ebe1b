"""How the ranks' launches find each other, and what data they move when their streams run."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.fake_cupy.blocks import LOCK, Use
from tests.fake_cupy.engine import Stream


class NcclError(RuntimeError):
    """cupy.cuda.nccl.NcclError."""


@dataclass(frozen=True)
class Primitive:
    """One call: its `facts` are the numbers it was given (counts, types, root or peer), the last the root or peer."""

    kind: str
    facts: tuple[int, ...]
    stream: Stream
    source: Use | None
    target: Use | None


@dataclass
class _Match:
    """The launches of all ranks that belong together, and what they had to send when the first of them ran."""

    launches: "dict[int, Launch]" = field(default_factory=dict)
    sent: dict[int, list[Any]] | None = None


class Group:
    """The ranks of one NCCL communicator."""

    def __init__(self, size: int, join_seconds: float) -> None:
        self.size = size
        self._joining = threading.Barrier(size)
        self._seconds = join_seconds
        self._changed = threading.Condition()
        self._matches: dict[int, _Match] = {}
        self._num_posted = [0] * size

    def join(self, rank: int, size: int) -> None:
        """Return when all ranks have joined, as ncclCommInitRank does."""
        if size != self.size or not 0 <= rank < size:
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: rank {rank} of {size} in a group of {self.size}")
        self._joining.wait(self._seconds)

    def post(self, launch: "Launch") -> _Match:
        """Return the match of this rank's next launch, when all ranks have posted theirs."""
        with self._changed:
            number = self._num_posted[launch.rank]
            self._num_posted[launch.rank] += 1
            match = self._matches.setdefault(number, _Match())
            match.launches[launch.rank] = launch
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: len(match.launches) == self.size, self._seconds):
                raise NcclError(f"launch {number} of ranks {sorted(match.launches)} alone: the others do not come")
        return match


class Launch:
    """One rank's part in a collective, or in a group of them."""

    def __init__(self, group: Group, rank: int, primitives: list[Primitive]) -> None:
        self.rank, self.primitives = rank, primitives
        self._group, self._match = group, _Match()
        self.stream = primitives[0].stream
        assert all(each.stream is self.stream for each in primitives), "one stream a group"
        self.number = 0

    def post(self) -> None:
        """Enqueue it, and return when all ranks have theirs (real ranks need not wait for that)."""
        sources = [each.source for each in self.primitives if each.source is not None]
        targets = [each.target for each in self.primitives if each.target is not None]
        with LOCK:
            self.stream._enqueue(self._run, sources, targets)
            self.number = self.stream._num_enqueued
        self._match = self._group.post(self)
        self._check()

    def _check(self) -> None:
        """Raise NcclError unless the ranks' launches fit together."""
        if self.primitives[0].kind in ("send", "recv"):
            return  # each receive looks for its send
        calls = {
            tuple((each.kind, each.facts) for each in launch.primitives) for launch in self._match.launches.values()
        }
        if len(calls) > 1:
            raise NcclError(f"ranks disagree: {sorted(calls)}")

    def _run(self) -> None:
        """Move the data, when this stream has come so far; all ranks' streams come so far first."""
        match = self._match
        if match.sent is None:
            assert len(match.launches) == self._group.size, "it runs before all ranks have posted theirs"
            for other in match.launches.values():
                other.stream._run_to(other.number - 1)
            match.sent = {
                rank: [None if each.source is None else each.source[1].copy() for each in launch.primitives]
                for rank, launch in match.launches.items()
            }
        for index, each in enumerate(self.primitives):
            if each.target is not None:
                each.target[1][...] = self._received(index, each, match.sent)

    def _received(self, index: int, each: Primitive, sent: dict[int, list[Any]]) -> np.ndarray:
        ranks = range(self._group.size)
        if each.kind == "broadcast":
            return np.asarray(sent[each.facts[-1]][index])
        if each.kind == "recv":
            return self._sent_by_peer(index, each, sent)
        if each.kind == "allGather":
            return np.concatenate([sent[rank][index] for rank in ranks])
        total = np.sum([sent[rank][index] for rank in ranks], axis=0, dtype=sent[0][index].dtype)
        if each.kind == "reduceScatter":
            return np.asarray(np.split(total, self._group.size)[self.rank])
        return np.asarray(total)

    def _sent_by_peer(self, index: int, each: Primitive, sent: dict[int, list[Any]]) -> np.ndarray:
        """Return what the peer's send for this receive holds: the first goes to the first, and so on."""
        *facts, peer = each.facts
        earlier = sum(other.kind == "recv" and other.facts[-1] == peer for other in self.primitives[:index])
        sends = [
            (other.facts, values)
            for other, values in zip(self._match.launches[peer].primitives, sent[peer], strict=True)
            if other.kind == "send" and other.facts[-1] == self.rank
        ]
        assert earlier < len(sends), f"rank {peer} sends rank {self.rank} too little"
        other_facts, values = sends[earlier]
        assert list(other_facts[:-1]) == facts, f"a send of {other_facts[:-1]} meets a receive of {facts}"
        return np.asarray(values)
