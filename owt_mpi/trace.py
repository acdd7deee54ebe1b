"""A trace of a run's first steps: what every rank computed, moved and waited for, on one axis of time.

The file is in the "Trace Event Format" of Chrome's tracing, which ui.perfetto.dev opens: a process for each rank, with
rows for computing, the wire and waits.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.spans import Span, SpanLog, log_spans_to

ROUND_TRIPS = 32
ROWS = ("compute", "wire", "waits")


@dataclass(frozen=True)
class Offset:
    """A rank's clock minus rank 0's, in seconds: surely within `error` of `seconds`."""

    seconds: float
    error: float


def clock_offsets(comm: Communicator, clock: Callable[[], float] = time.perf_counter) -> list[Offset]:
    """Return the offset of every rank's clock. All ranks call.

    No rank leaves a barrier before every rank has come to it. So, of each barrier, rank r's reading after it is later
    than rank 0's before it, and the other way round, which bounds the offset on both sides; the tightest bounds of all
    round trips count. Clocks that drift apart meanwhile show in the error.
    """
    readings = []
    for _ in range(ROUND_TRIPS):
        before = clock()
        comm.barrier()
        readings.append((before, clock()))
    everyone = comm.all_gather_object(readings)
    offsets = [Offset(0.0, 0.0)]
    for each in everyone[1:]:
        pairs = list(zip(each, everyone[0], strict=True))
        least = max(before - after_0 for (before, _), (_, after_0) in pairs)
        most = min(after - before_0 for (_, after), (before_0, _) in pairs)
        offsets.append(Offset((least + most) / 2, abs(most - least) / 2))
    return offsets


class Tracer:
    """Keeps this rank's spans from its making until `finish`, which all ranks call after `num_steps` steps."""

    def __init__(self, world: Communicator, file: Path, num_steps: int) -> None:
        self._world, self._file, self._num_steps = world, file, num_steps
        self._offsets = clock_offsets(world)
        self._log: SpanLog | None = SpanLog()
        log_spans_to(self._log)

    def step_done(self, steps_done: int) -> str | None:
        """Go on to the next step; after the last one write the trace and return a line about it. All ranks call."""
        if self._log is None:
            return None
        self._log.step = steps_done
        if steps_done < self._num_steps:
            return None
        log_spans_to(None)
        error_of_disk = write_trace(self._world, self._file, self._log.spans, self._offsets)
        self._log = None
        if error_of_disk is not None:
            return f"WARNING: {self._file} could not be written ({error_of_disk}); the training goes on without a trace"
        error = max(offset.error for offset in self._offsets)
        return (
            f"trace of {self._num_steps} steps in {self._file}, for ui.perfetto.dev; clocks of the ranks agree to "
            f"{error * 1e6:.0f} microseconds"
        )


def write_trace(comm: Communicator, file: Path, spans: Sequence[Span], offsets: Sequence[Offset]) -> OSError | None:
    """Write every rank's spans, moved to rank 0's clock, counted from the first; whole or not at all. All ranks call.

    Rank 0 alone writes, so `file` need not be seen by the others. It gets their events rank by rank and keeps none: a
    trace of many ranks takes no more memory than that of one. What goes wrong with its disk is returned there.
    """
    own = offsets[comm.rank].seconds
    start = min(comm.all_gather_object(min((span.begin - own for span in spans), default=float("inf"))))
    text = json.dumps(rank_events(comm.rank, spans, own + start)).strip("[]").encode()
    sizes = comm.all_gather_object(len(text))
    errors = [round(offset.error * 1e6, 3) for offset in offsets]
    head = json.dumps({"displayTimeUnit": "ms", "otherData": {"clock_error_us": errors}})
    output = _TraceFile(file) if comm.rank == 0 else None
    if output is not None:
        output.write(f'{head[:-1]}, "traceEvents": ['.encode())
    for rank, size in enumerate(sizes):
        part = np.frombuffer(text, np.uint8) if rank == comm.rank else np.zeros(size, np.uint8)
        sent = comm.start_reduce(part, root=0).wait()  # the others add zeros: so only rank 0 receives
        if output is not None:
            assert sent is not None
            output.write((b",\n" if rank else b"\n") + sent.tobytes())
    if output is None:
        return None
    output.write(b"\n]}\n")
    return output.finished()


class _TraceFile:
    """A file that has its name when it is whole. Its first error is kept, and nothing is written after that."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.{os.getpid()}")
        self._error: OSError | None = None
        self._file: BinaryIO | None = None

    def write(self, content: bytes) -> None:
        """Append `content`."""
        with self._keeping_error():
            if self._error is None:
                self._file = self._file or self._part.open("wb", buffering=0)
                while content:
                    content = content[self._file.write(content) :]

    def finished(self) -> OSError | None:
        """Give the file its name; return what went wrong, None if nothing did."""
        with self._keeping_error():
            if self._file is not None:
                self._file.close()
            if self._error is None:
                self._part.replace(self._path)
        if self._error is not None:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
        return self._error

    @contextmanager
    def _keeping_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error


def rank_events(rank: int, spans: Sequence[Span], zero: float) -> list[dict[str, Any]]:
    """Return a rank's events, counted from `zero` on its own clock.

    Perfetto wants thread ids that differ between processes as well, and takes process 0 for the system's idle one.
    """
    pid, first_tid = rank + 1, rank * len(ROWS) + 1
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": first_tid, "args": {"name": f"rank {rank}"}},
        {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": first_tid, "args": {"sort_index": rank}},
    ]
    for number, row in enumerate(ROWS):
        about = {"pid": pid, "tid": first_tid + number}
        events.append({"ph": "M", "name": "thread_name", **about, "args": {"name": row}})
        events.append({"ph": "M", "name": "thread_sort_index", **about, "args": {"sort_index": number}})
    for span in spans:
        begin, end = (round((at - zero) * 1e9) for at in (span.begin, span.end))
        events.append(
            {
                "ph": "X", "name": span.name, "cat": span.row, "pid": pid, "tid": first_tid + ROWS.index(span.row),
                "ts": begin / 1e3, "dur": (end - begin) / 1e3, "args": span.facts,
            }
        )  # fmt: skip
    return events
