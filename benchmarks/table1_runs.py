"""Trainings of the benchmark table1: those that are not in the file of results yet, some at once."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

from benchmarks.table1_cases import Case, Setup, arguments, key

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Result:
    """What the last validation said, as shares and nats an image, and how long the training took."""

    case: Case
    cross_entropy: float
    top1_error: float
    images: int
    seconds: float


def read_results(file: Path, setup: Setup) -> dict[Case, Result]:
    """Return the results of this setup. A line that was cut off is none."""
    found: dict[Case, Result] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        case = Case(**content["case"])
        if content["setup"] == key(setup, case)["setup"]:
            found[case] = Result(case, **content["result"])
    return found


def newest_data(file: Path, name: str) -> str:
    """Return what the newest result of shards called `name` says of its data. ValueError if there is none."""
    found = ""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError, LookupError, TypeError):
            data = str(json.loads(line)["setup"]["data"])
            found = data if data.rpartition(" ")[0] == name else found
    if not found:
        raise ValueError(f"--results {file}: no result of {name} is in it; train first, or give another file or --data")
    return found


def append_result(file: Path, setup: Setup, result: Result) -> None:
    """Append a line, on disk when this returns, even behind one that was cut off."""
    told = {name: getattr(result, name) for name in ("cross_entropy", "top1_error", "images", "seconds")}
    with file.open("ab+") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            if out.read(1) != b"\n":
                out.write(b"\n")
        out.write(json.dumps({**key(setup, result.case), "result": told}).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


@dataclass
class Runner:
    """Trains cases, `jobs` at once."""

    setup: Setup
    shards: Path
    file: Path
    jobs: int
    _processes: set["subprocess.Popen[str]"] = field(default_factory=set)
    _is_over: Event = field(default_factory=Event)

    def run(self, cases: Sequence[Case], results: dict[Case, Result]) -> list[str]:
        """Train the cases and add their results; return what went wrong, one line a case."""
        errors: list[str] = []
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                waiting = {pool.submit(self._train, case): case for case in cases}
                for number, future in enumerate(as_completed(waiting), start=1):
                    case = waiting.pop(future)
                    try:
                        result = future.result()
                    except RuntimeError as error:
                        errors.append(f"{case}: {error}")
                        said = str(error)
                    else:
                        append_result(self.file, self.setup, result)
                        results[case] = result
                        said = f"top-1 error {result.top1_error:.2%}, {result.seconds:.0f} s"
                    left = describe_time(seconds_left(list(waiting.values()), results, self.jobs))
                    print(f"{number}/{len(cases)} {case}: {said}; {left} left", file=sys.stderr, flush=True)
            finally:
                self._is_over.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._processes):
                    process.terminate()
        return errors

    def _train(self, case: Case) -> Result:
        """Return the result of a training. RuntimeError, with what it said last, if it failed."""
        if self._is_over.is_set():
            raise RuntimeError("not begun")
        with tempfile.TemporaryDirectory(prefix="table1-") as folder:
            run_dir, start = Path(folder) / "run", time.monotonic()
            command = [sys.executable, "-m", "owt_mpi.train", *arguments(case, self.setup, self.shards, run_dir)]
            process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._processes.add(process)
            try:
                said = process.communicate()[1]
            finally:
                self._processes.discard(process)
            if process.returncode:
                last = (said.strip().splitlines() or ["it said nothing"])[-1]
                raise RuntimeError(f"ended with code {process.returncode}: {last}")
            score = _last_validation(run_dir / "metrics.jsonl")
        return Result(case, score["loss"], 1 - score["top1"], score["images"], time.monotonic() - start)


def _last_validation(file: Path) -> dict[str, Any]:
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    validations = [record for record in records if record["kind"] == "validation"]
    if not validations:
        raise RuntimeError("there are no validation images")
    return dict(validations[-1])


def seconds_left(cases: Sequence[Case], results: dict[Case, Result], jobs: int) -> float | None:
    """Return the time that `cases` will take, by the mean of those like each; None where nothing is known yet."""
    if not results:
        return None
    by_kind: dict[tuple[int, bool], list[float]] = {}
    for case, result in results.items():
        by_kind.setdefault((case.ranks, case.is_check), []).append(result.seconds)
    mean = fmean(result.seconds for result in results.values())
    return sum(fmean(by_kind.get((case.ranks, case.is_check), [mean])) for case in cases) / jobs


def describe_time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
