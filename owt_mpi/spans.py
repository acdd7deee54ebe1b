"""What a rank does when: a name for what crosses the wire, and spans of time where a trace is wanted.

Both belong to the thread that sets them, so ranks that are threads of one process keep theirs apart.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Row = Literal["compute", "wire", "waits"]


@dataclass(frozen=True)
class Payload:
    """What a collective carries, such as "activations", and the head pass it belongs to, if it does to one."""

    name: str = ""
    head_pass: int | None = None


@dataclass(frozen=True)
class Span:
    """Something a rank did from `begin` to `end`, in seconds of its own clock. `row` is where a viewer shows it."""

    row: Row
    name: str
    begin: float
    end: float
    facts: dict[str, int | float | str] = field(default_factory=dict)


class SpanLog:
    """The spans of one rank; `step` is the training step under way."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.step = 0

    def add(self, row: Row, name: str, begin: float, end: float, **facts: int | float | str) -> None:
        """Keep a span of the step under way."""
        self.spans.append(Span(row, name, begin, end, {"step": self.step, **facts}))


_payload: ContextVar[Payload] = ContextVar("payload", default=Payload())  # noqa: B039 - it is frozen
_log: ContextVar[SpanLog | None] = ContextVar("span log", default=None)


@contextmanager
def about(name: str, head_pass: int | None = None) -> Iterator[None]:
    """Name what the collectives started within carry."""
    token = _payload.set(Payload(name, head_pass))
    try:
        yield
    finally:
        _payload.reset(token)


def payload() -> Payload:
    """Return what a collective started now carries."""
    return _payload.get()


def span_log() -> SpanLog | None:
    """Return the log that this thread's spans go to; None where nothing is traced."""
    return _log.get()


def log_spans_to(log: SpanLog | None) -> None:
    """Send this thread's spans to `log` from now on, or to none."""
    _log.set(log)


@contextmanager
def span(name: str, row: Row = "compute", head_pass: int | None = None) -> Iterator[None]:
    """Keep the time spent within as a span called `name`, where this thread has a log."""
    log = _log.get()
    if log is None:
        yield
        return
    begin = time.perf_counter()
    try:
        yield
    finally:
        facts = {} if head_pass is None else {"pass": head_pass}
        log.add(row, name, begin, time.perf_counter(), **facts)
