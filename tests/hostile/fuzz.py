"""Hand mutated inputs of every kind to the program: `python -m tests.hostile.fuzz --inputs 10000 --seed 1`.

Each is accepted, with what it holds in order, or refused by one line and the right exit code. All else is a failure:
another exception, a warning, a crash, more memory or time than the limits. The same seed makes the same inputs.
"""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from owt_mpi.tables import Table, render
from tests.hostile.kinds import COPY, MODULES, kinds_in
from tests.hostile.worker import folder_of, kept_at
from tests.mpi_run import ONE_THREAD, REPO_ROOT

_START_SECONDS = 300  # for a worker to load the program


@dataclass(frozen=True)
class Limits:
    """What an input may take: of memory beside that of a sound one, and of time."""

    memory_mib: int = 1024
    seconds: float = 60.0


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    kind: str
    inputs: int = 0
    refused: int = 0
    harmless: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    most_mib: float = 0.0
    most_seconds: float = 0.0
    slowest: str = ""
    refusals: dict[str, int] = field(default_factory=dict)  # by what refuses

    def add(self, said: dict[str, Any]) -> None:
        """Note what became of one more."""
        self.inputs += 1
        self.most_mib = max(self.most_mib, said.get("mib", 0.0))
        if said["seconds"] > self.most_seconds:
            self.most_seconds, self.slowest = said["seconds"], f"{said['number']}: {said['mutation']}"
        if said["verdict"] == "failure":
            self.failures.append(said)
        else:
            self.refused += said["verdict"] == "refused"
            self.harmless += said["verdict"] == "harmless"
            for use in said["refusals"]:
                self.refusals[use] = self.refusals.get(use, 0) + 1


def fuzz(
    kinds: Sequence[str],
    inputs: int,
    seed: int,
    limits: Limits,
    jobs: int,
    folder: Path,
    first: int = 0,
    modules: Sequence[str] = MODULES,
) -> list[Tally]:
    """Return what becomes of `inputs` inputs of these kinds, as many of each; those from number `first`.

    `folder` gets the sound ones, and those that failed. `modules` define the kinds.
    """
    command = [sys.executable, "-m", "tests.hostile.worker", "--modules", *modules, "--folder", str(folder)]
    build = [*command, "--build", "--", *kinds]
    subprocess.run(build, cwd=REPO_ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL, timeout=300)
    shares = [inputs // len(kinds) + (number < inputs % len(kinds)) for number in range(len(kinds))]
    more = ["--seed", str(seed), "--memory-mib", str(limits.memory_mib)]
    with ThreadPoolExecutor(jobs) as pool:
        work = zip(kinds, shares, strict=True)
        return list(pool.map(lambda each: _fuzz_kind(*each, [*command, *more], limits, folder, first), work))


def _fuzz_kind(kind: str, inputs: int, command: list[str], limits: Limits, folder: Path, first: int) -> Tally:
    tally, number, stop, own = Tally(kind), first, first + inputs, folder_of(folder, kind)
    while number < stop:
        for said in _run_worker([*command, "--inputs", f"{number}:{stop}", "--", kind], limits, number):
            tally.add(said)
            number = said["number"] + 1
            if "died" in said and (own / COPY).exists():  # a worker that goes on moves it away itself
                (own / COPY).rename(kept_at(own, said["number"]))
    return tally


def _run_worker(command: list[str], limits: Limits, number: int) -> Iterator[dict[str, Any]]:
    """Yield what a worker says of each input. A crash or a hang is that of the input under way, and the last it says.

    The first is number `number`, should the worker not get as far.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=REPO_ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as worker,
    ):
        assert worker.stdout is not None
        pipe, began = _Pipe(worker.stdout.fileno()), time.monotonic()
        for said in pipe.messages():
            if said is None:
                os.killpg(worker.pid, signal.SIGKILL)
                yield _ended(number, f"longer than {pipe.limit_seconds} s", time.monotonic() - began)
                return
            if "begins" in said:
                number, began, pipe.limit_seconds = said["begins"], time.monotonic(), limits.seconds
            else:
                yield said
        worker.wait()
        if worker.returncode != 0:
            errors.seek(0)
            text, end = errors.read().decode("utf-8", "replace"), worker.returncode
            if pipe.limit_seconds == _START_SECONDS:
                raise RuntimeError(f"the worker for {command} does not start\n{text}")
            name = signal.Signals(-end).name if end < 0 else f"exit code {end}"
            yield _ended(number, f"the process ends with {name}", time.monotonic() - began, text[-3000:])


def _ended(number: int, why: str, seconds: float, text: str = "") -> dict[str, Any]:
    said = {"number": number, "verdict": "failure", "why": why, "seconds": seconds, "traceback": text, "died": True}
    return {**said, "mutation": "not known, as the worker died: the number makes it again"}


class _Pipe:
    """What a worker says, a line of JSON at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.limit_seconds: float = _START_SECONDS

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """Yield what it says; None, and no more, when nothing has come for `limit_seconds`."""
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            while selector.select(self.limit_seconds):
                received = os.read(self._descriptor, 1 << 16)
                if not received:
                    return
                *lines, buffer = (buffer + received).split(b"\n")
                yield from map(json.loads, lines)
        yield None


def _environment() -> dict[str, str]:
    return {**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "default"}


def table_of(tallies: list[Tally], seed: int) -> Table:
    """Return the tallies as a table, with their sum."""
    lines = [
        [tally.kind, tally.inputs, tally.refused, tally.harmless, len(tally.failures), f"{tally.most_mib:.0f}",
         f"{tally.most_seconds:.1f}"]
        for tally in tallies
    ]  # fmt: skip
    sums = [sum(line[column] for line in lines) for column in range(1, 5)]  # type: ignore[misc]
    most = [max(tally.most_mib for tally in tallies), max(tally.most_seconds for tally in tallies)]
    lines.append(["all", *sums, f"{most[0]:.0f}", f"{most[1]:.1f}"])
    columns = ("kind", "inputs", "refused", "harmless", "failures", "most MiB", "most s")
    return Table(f"Mutated inputs, seed {seed}", columns, [[str(cell) for cell in line] for line in lines], [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="how many, of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each kind, to repeat one")
    parser.add_argument("--kind", action="append", choices=[*kinds_in()], help="only these; may be given several times")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="kinds at a time")
    parser.add_argument("--memory-mib", type=int, default=Limits.memory_mib)
    parser.add_argument("--seconds", type=float, default=Limits.seconds)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that fail; by default they are only told of")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        limits = Limits(arguments.memory_mib, arguments.seconds)
        kinds = arguments.kind or [*kinds_in()]
        tallies = fuzz(kinds, arguments.inputs, arguments.seed, limits, arguments.jobs, Path(folder), arguments.first)
        for tally in tallies if arguments.keep else []:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for each in tally.failures:
                failed = kept_at(folder_of(Path(folder), tally.kind), each["number"])
                place = folder_of(arguments.keep, f"{tally.kind} {each['number']}")
                subprocess.run(["cp", "-aT", "--sparse=always", failed, place], check=False)
    print(render(table_of(tallies, arguments.seed), markdown=False), end="")
    for tally in tallies:
        for each in tally.failures:
            print(
                f"\nFAILURE of {tally.kind} {each['number']}: {each['why']}\n  {each['mutation']}\n{each['traceback']}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(tally) for tally in tallies], indent=1) + "\n", encoding="utf-8")
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
