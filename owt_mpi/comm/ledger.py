"""The wire ledger: what one rank's collectives moved, how long that took, and how much of it the rank stood waiting."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from owt_mpi.spans import payload, span_log

Clock = Callable[[], float]


@dataclass(frozen=True)
class FlowKey:
    """What is added up in one line: a communicator's label, a collective, and the name of what it carries."""

    label: str
    collective: str
    payload: str


@dataclass
class Flow:
    """Sums over calls. Of `seconds` on the wire, `exposed_seconds` passed while the rank stood in a wait."""

    calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0
    exposed_seconds: float = 0.0

    def __add__(self, other: "Flow") -> "Flow":
        return Flow(
            self.calls + other.calls,
            self.sent_bytes + other.sent_bytes,
            self.received_bytes + other.received_bytes,
            self.seconds + other.seconds,
            self.exposed_seconds + other.exposed_seconds,
        )

    @property
    def hidden_share(self) -> float:
        """Share of the seconds on the wire in which the rank did something else; 1 where nothing took time."""
        return 1 - self.exposed_seconds / self.seconds if self.seconds else 1.0


Flows = dict[FlowKey, Flow]


def add_flows(total: Flows, more: Mapping[FlowKey, Flow]) -> None:
    """Add `more` to `total`, line by line."""
    for key, flow in more.items():
        total[key] = total.get(key, Flow()) + flow


def flow_rows(flows: Mapping[FlowKey, Flow]) -> list[dict[str, int | float | str]]:
    """Return the lines as JSON takes them."""
    return [{**asdict(key), **asdict(flow)} for key, flow in flows.items()]


class Transfer:
    """One collective in the ledger, from its start to its first wait. `source` is the Pending it meters."""

    def __init__(self, key: FlowKey, flow: Flow) -> None:
        self.key, self.flow = key, flow
        self.source: object = None
        self.log = span_log()
        self.facts = _facts(key, flow) if self.log is not None else {}

    def interval(self) -> tuple[float, float] | None:
        """Return when the transfer, which is over, began and ended; None where its transport does not tell."""
        began, ended = getattr(self.source, "began", None), getattr(self.source, "ended", None)
        return None if began is None or ended is None else (began, ended)


class Ledger:
    """What the collectives of one rank moved and cost since the last `take`. Used by the rank's own thread alone.

    A collective's seconds are those of its transfer: on the communication thread from the moment its call is made
    until it returns, which includes waiting there for ranks that come later, but not the queue before. Exposed are
    those of them in which the rank stood in a wait, its own or that of a collective queued behind. A transport's
    Pending tells by `began` and `ended`, in seconds of `clock`. `wait_seconds` are all seconds inside waits since the
    ledger was made.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.wait_seconds = 0.0
        self._flows: Flows = {}
        self._under_way: list[Transfer] = []

    def start(self, label: str, collective: str, sent_bytes: int, received_bytes: int) -> Transfer:
        """Count a call and return what `finish` wants after its first wait."""
        key = FlowKey(label, collective, payload().name)
        flow = Flow(1, sent_bytes, received_bytes)
        add_flows(self._flows, {key: flow})
        transfer = Transfer(key, flow)
        self._under_way.append(transfer)
        if transfer.log is not None:
            now = self.clock()
            transfer.log.add("compute", f"start {_name(key)}", now, now, **transfer.facts)
        return transfer

    def finish(self, transfer: Transfer, wait_begin: float, wait_end: float) -> None:
        """Count the seconds of a transfer that was waited for from `wait_begin` to `wait_end`."""
        self.wait_seconds += wait_end - wait_begin
        began, ended = transfer.interval() or (wait_begin, wait_end)  # else it is taken to have moved in the wait
        for ahead in self._under_way[: self._under_way.index(transfer)]:  # what it was queued behind
            ahead.flow.exposed_seconds += _overlap(ahead.interval(), (wait_begin, wait_end))
        flow = transfer.flow
        flow.seconds = ended - began
        flow.exposed_seconds += _overlap((began, ended), (wait_begin, wait_end))
        self._under_way.remove(transfer)
        add_flows(self._flows, {transfer.key: Flow(0, 0, 0, flow.seconds, flow.exposed_seconds)})
        if transfer.log is not None:
            name = _name(transfer.key)
            transfer.log.add("wire", name, began, ended, **transfer.facts)
            transfer.log.add("waits", name, wait_begin, wait_end, **transfer.facts)

    def take(self) -> Flows:
        """Return what was counted since the last call, and begin anew."""
        flows, self._flows = self._flows, {}
        return flows

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out of the flows what happens within."""
        kept = self.take()
        yield
        self._flows = kept


def _name(key: FlowKey) -> str:
    """Return what a trace calls a collective. What it carries comes first: a viewer cuts the name of a short span."""
    call = f"{key.label} {key.collective}"
    return f"{key.payload}, {call}" if key.payload else call


def _facts(key: FlowKey, flow: Flow) -> dict[str, int | float | str]:
    """Return what a trace says of a collective started now."""
    head_pass = payload().head_pass
    facts = {**asdict(key), "sent_bytes": flow.sent_bytes, "received_bytes": flow.received_bytes}
    return facts if head_pass is None else {**facts, "pass": head_pass}


def _overlap(a: tuple[float, float] | None, b: tuple[float, float]) -> float:
    """Return how many seconds the two intervals share."""
    return 0.0 if a is None else max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
