"""Deferred streams: work runs only when something waits for it, and what is not ordered by then is a recorded error.

On a device, work on one stream runs in order, at any time after it was enqueued; between streams only events order it.
Here the latest possible time is taken: an operation runs when its stream, or an event behind it, is synchronised. What
an operation reads and writes is known when it is enqueued, so that unordered accesses are found whatever the timing.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fake_cupy.blocks import (
    LOCK,
    RACES,
    Access,
    Block,
    CUDARuntimeError,
    Operation,
    RaceError,
    Use,
)


class Current(threading.local):
    """The calling thread's current device, and its current stream on each; a new thread begins anew."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, Stream] = {}
        self.entered: dict[int, list[Stream]] = {}  # by `with`, which does not know of streams made current by use()


CURRENT = Current()
_null_streams: dict[int, "Stream"] = {}


class Stream:
    """cupy.cuda.Stream. Every stream is as strict as a non-blocking one, the null stream too: events alone order."""

    null: "Stream"

    def __init__(self, null: bool = False, non_blocking: bool = False, *, _device: int | None = None) -> None:
        self.device_id = CURRENT.device if _device is None else _device
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._num_enqueued = 0
        self.num_done = 0
        self._after: dict[Stream, int] = {}  # how many operations of other streams are ordered before the next here
        self._capture: Capture | None = None

    @property
    def done(self) -> bool:
        self._refuse_in_capture("a query of its stream")
        return not self._queue

    def use(self) -> "Stream":
        self._check_device()
        CURRENT.streams[self.device_id] = self
        return self

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        self._check_device()
        with LOCK:
            event._stream, event._number, event._after = self, self._num_enqueued, dict(self._after)
            event._capture = self._capture
        return event

    def synchronize(self) -> None:
        self._refuse_in_capture("a synchronisation of its stream")
        self._run_to(self._num_enqueued)

    def wait_event(self, event: "Event") -> None:
        self._check_device()
        stream, number = event._stream, event._number
        if event._capture is not self._capture:
            if self._capture is not None:
                self._capture.is_valid = False
                raise CUDARuntimeError("cudaErrorStreamCaptureIsolation: an event of work that is not captured")
            raise CUDARuntimeError("an event of a capture: the stand-in knows no captures of several streams")
        if stream is None or self._capture is not None:
            return
        with LOCK:
            for other, count in {**event._after, stream: number}.items():
                self._after[other] = max(self._after.get(other, 0), count)
        self._enqueue(lambda: stream._run_to(number))

    def begin_capture(self, mode: int | None = None) -> None:
        """Only the mode that lets the memory pool grow, the default."""
        assert mode is None
        if self is _null_streams.get(self.device_id):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._refuse_in_capture("the begin of another capture")
        self._capture = Capture()

    def end_capture(self) -> "Graph":
        capture, self._capture = self._capture, None
        if capture is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        if not capture.is_valid:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to an error before")
        return Graph._of(capture)

    def is_capturing(self) -> bool:
        return self._capture is not None

    def _refuse_in_capture(self, what: str) -> None:
        if self._capture is not None:
            self._capture.is_valid = False
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while it is captured")

    def __enter__(self) -> "Stream":
        self._check_device()
        CURRENT.entered.setdefault(self.device_id, []).append(self)
        return self.use()

    def __exit__(self, *error: object) -> None:
        """Make current what was entered by `with` before, else the null stream, whatever use() had made current."""
        entered = CURRENT.entered[self.device_id]
        entered.pop()
        CURRENT.streams[self.device_id] = entered[-1] if entered else null_stream(self.device_id)

    def _enqueue(self, run: Callable[[], None], reads: Sequence[Use] = (), writes: Sequence[Use] = ()) -> None:
        """Add an operation. RaceError if it uses what an unordered one may still use."""
        self._check_device()
        if self._capture is not None:
            self._capture.operations.append((run, reads, writes))
            return
        with LOCK:
            for uses, is_write in ((reads, False), (writes, True)):
                for block, view in uses:
                    if block.is_gone:
                        raise CUDARuntimeError("cudaErrorIllegalAddress: memory that went back to the driver")
                    if block.device != self.device_id:
                        raise CUDARuntimeError(f"memory of device {block.device} used on device {self.device_id}")
                    for access in block.pending(view, is_write):
                        if access.stream is not self and self._after.get(access.stream, 0) < access.number:
                            kind = "a write" if access.is_write else "a read"
                            race(f"work on one stream touches memory of which {kind} on another may still run")
            self._num_enqueued += 1
            self._queue.append((self._num_enqueued, run))
            for uses, is_write in ((reads, False), (writes, True)):
                for block, view in uses:
                    block.accesses.append(Access(self, self._num_enqueued, *block.extent(view), is_write))

    def _run_to(self, number: int) -> None:
        with LOCK, np.errstate(all="ignore"):
            while self._queue and self._queue[0][0] <= number:
                count, run = self._queue.popleft()
                run()
                self.num_done = count

    def _check_device(self) -> None:
        if self.device_id != CURRENT.device:
            raise CUDARuntimeError(
                f"stream of device {self.device_id} used while device {CURRENT.device} is the thread's current one"
            )


class Capture:
    """A capture under way: what its stream was given, to be done by every launch and by nothing before."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.is_valid = True


class Graph:
    """cupy.cuda.Graph. It holds addresses: what lies there when it is launched is none of its business."""

    _operations: Sequence[Operation] = ()

    @classmethod
    def _of(cls, capture: Capture) -> "Graph":
        graph = cls()
        graph._operations = tuple(capture.operations)
        return graph

    def launch(self, stream: Stream | None = None) -> None:
        for operation in self._operations:
            (stream or get_current_stream())._enqueue(*operation)


class Event:
    """cupy.cuda.Event."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._stream: Stream | None = None
        self._number = 0
        self._after: dict[Stream, int] = {}
        self._capture: Capture | None = None  # that it was recorded in

    @property
    def done(self) -> bool:
        self._refuse_captured()
        return self._stream is None or self._stream.num_done >= self._number

    def record(self, stream: Stream | None = None) -> None:
        (stream or get_current_stream()).record(self)

    def synchronize(self) -> None:
        self._refuse_captured()
        if self._stream is not None:
            self._stream._run_to(self._number)

    def _refuse_captured(self) -> None:
        if self._capture is not None:
            raise CUDARuntimeError("cudaErrorCapturedEvent: operation not permitted on an event of a capture")


def get_current_stream() -> Stream:
    """Return the calling thread's current stream on its current device."""
    device = CURRENT.device
    stream = CURRENT.streams.get(device)
    return null_stream(device) if stream is None else stream


def null_stream(device: int) -> Stream:
    """Return the stream of a device that is current where no other was made so."""
    with LOCK:
        return _null_streams.setdefault(device, Stream(_device=device))


def check_idle(block: Block, view: np.ndarray, who: str) -> None:
    """Raise RaceError if any work on `view` may still run: the host, which no stream orders, is about to touch it."""
    with LOCK:
        if block.pending(view, is_write=True):
            race(f"{who} touches memory on which work may still run: synchronise its stream first")


def race(what: str) -> Any:
    """Record a race and raise it."""
    RACES.append(what)
    raise RaceError(what)


def reset_thread() -> None:
    """Give the calling thread the current device and streams of a new thread."""
    CURRENT.__init__()  # type: ignore[misc]
