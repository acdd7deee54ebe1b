"""A trace of a run's first steps: what every rank computed, moved and waited for, on one axis of time.

The file is in the "Trace Event Format" of Chrome's tracing, which ui.perfetto.dev opens: a process for each rank, with
rows for computing, the wire and waits.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        ranks = self._world.all_gather_object(self._log.spans)
        self._log = None
        if self._world.rank == 0:
            write_trace(self._file, ranks, self._offsets)
        error = max(offset.error for offset in self._offsets)
        return (
            f"trace of {self._num_steps} steps in {self._file}, for ui.perfetto.dev; clocks of the ranks agree to "
            f"{error * 1e6:.0f} microseconds"
        )


def write_trace(file: Path, ranks: Sequence[Sequence[Span]], offsets: Sequence[Offset]) -> None:
    """Write the ranks' spans, moved to rank 0's clock and counted from the first; whole or not at all."""
    start = min((s.begin - o.seconds for spans, o in zip(ranks, offsets, strict=True) for s in spans), default=0.0)
    events: list[dict[str, Any]] = []
    for rank, (spans, offset) in enumerate(zip(ranks, offsets, strict=True)):
        events.append({"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}})
        events.append({"ph": "M", "name": "process_sort_index", "pid": rank, "tid": 0, "args": {"sort_index": rank}})
        for tid, row in enumerate(ROWS):
            events.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": tid, "args": {"name": row}})
        for span in spans:
            begin, end = (round((at - offset.seconds - start) * 1e9) for at in (span.begin, span.end))
            events.append(
                {
                    "ph": "X", "name": span.name, "cat": span.row, "pid": rank, "tid": ROWS.index(span.row),
                    "ts": begin / 1e3, "dur": (end - begin) / 1e3, "args": span.facts,
                }
            )  # fmt: skip
    errors = [round(offset.error * 1e6, 3) for offset in offsets]
    content = {"displayTimeUnit": "ms", "otherData": {"clock_error_us": errors}, "traceEvents": events}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(file)
