"""What a run tells: metrics.jsonl for programs, lines or a progress bar for people. On rank 0; elsewhere, nothing."""

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from owt_mpi.comm.guard import STOPPED
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.tensorboard import EventFile


def duration(seconds: float) -> str:
    """Return seconds as 12s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class _LineFile:
    """A file that lines are appended to. ValueError if something else is in its place.

    A line that is half written, as a run was killed or the disk was full, ends before the next one.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._file)
            raise ValueError(f"{path} is no regular file; remove it, or choose another --run-dir")
        self._is_within_line = found.st_size > 0 and os.pread(self._file, 1, found.st_size - 1) != b"\n"

    def append(self, line: str) -> None:
        """Append a line. OSError where the disk fails."""
        content = b"\n" * self._is_within_line + line.encode() + b"\n"
        while content:
            written = os.write(self._file, content)
            self._is_within_line = content[:written][-1:] != b"\n"
            content = content[written:]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _how(error: BaseException | None) -> str:
    """Return in one word how a run ended that ended with `error`, None for none."""
    if error is None:
        return "trained"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "stopped" if getattr(error, "code", None) == STOPPED else "failed"


class Reporter:
    """Prints progress and appends records to `metrics_file`; silent without `active`.

    While the disk is full, records are lost, and that is said. They also go to an event file in `events_folder`, if
    there is one; where that fails, they do no more.

    Prints lines, and keeps a progress bar below them if `progress` is "bar", or "auto" on a terminal. Under mpirun
    "auto" means lines: MPICH gives ranks a pipe, and Open MPI a terminal of its own even if its output is a file.
    """

    def __init__(
        self,
        active: bool,
        metrics_file: Path | None,
        num_steps: int,
        progress: str = "auto",
        events_folder: Path | None = None,
    ) -> None:
        with_bar = progress == "bar" or (progress == "auto" and sys.stdout.isatty() and launcher_rank() is None)
        self._console = Console(highlight=False, soft_wrap=True, quiet=not active, force_terminal=with_bar)
        self._file = _LineFile(metrics_file) if active and metrics_file is not None else None
        self._metrics_file, self._num_lost = metrics_file, 0
        self._events_folder = events_folder if active else None
        self._events: EventFile | None = None
        self._num_steps, self._started = num_steps, time.perf_counter()
        self._first_step = 0
        self._steps_done = 0
        self._has_begun = False
        self._progress: Progress | None = None
        if active and with_bar:
            columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("train", total=num_steps)

    def __enter__(self) -> "Reporter":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            if self._has_begun:
                self.record("end", step=self._steps_done, how=_how(error), why=str(error or ""))
            self._file.close()
        if self._events is not None:
            with self._noting_failure_of_events():
                self._events.close()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def begin_at(self, step: int, **facts: Any) -> None:
        """Count time and steps from here: the run begins, or goes on after `step` steps of an earlier one.

        What the file says of later steps is of a run that was stopped, and is not so any more.
        """
        self._started, self._first_step = time.perf_counter(), step
        self._steps_done, self._has_begun = step, True
        if self._events_folder is not None:
            with self._noting_failure_of_events():
                self._events = EventFile(self._events_folder, step)
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.record("resume" if step else "begin", step=step, num_steps=self._num_steps, time=now, **facts)

    def advance(self, steps_done: int) -> None:
        """Take note of the steps done in all, and move the progress bar."""
        self._steps_done = steps_done
        if self._progress is not None:
            self._progress.update(self._task, completed=steps_done)

    def time_left(self, steps_done: int) -> str:
        """Return how long the remaining steps take at the mean speed so far."""
        elapsed = time.perf_counter() - self._started
        steps_here = max(steps_done - self._first_step, 1)
        return duration(elapsed / steps_here * (self._num_steps - steps_done))

    def record(self, kind: str, **values: Any) -> None:
        """Append one line of JSON to metrics.jsonl: {"kind": ..., "seconds": since the start, ...}."""
        if self._file is not None:
            seconds = round(time.perf_counter() - self._started, 3)
            self._append(self._file, json.dumps({"kind": kind, "seconds": seconds, **values}))
        if self._events is not None:
            with self._noting_failure_of_events():
                self._events.write(kind, values)

    def _append(self, file: _LineFile, line: str) -> None:
        """Append a line; say so where that begins to fail, and where it works again."""
        try:
            file.append(line)
        except OSError as error:
            if self._num_lost == 0:
                self.say(
                    f"WARNING: {self._metrics_file} cannot be written ({error}); the training goes on, and what it "
                    "records is lost until there is room; make room"
                )
            self._num_lost += 1
            return
        if self._num_lost:
            self.say(f"{self._metrics_file} is written again; {self._num_lost} records were lost")
            self._num_lost = 0

    @contextmanager
    def _noting_failure_of_events(self) -> Iterator[None]:
        """Say so where the disk fails within, and write no more events; the run goes on."""
        try:
            yield
        except OSError as error:
            events, self._events = self._events, None
            if events is not None:
                with contextlib.suppress(OSError):
                    events.close()
            self.say(f"no more events for TensorBoard are written to {self._events_folder}: {error}")
