"""Faults at random, one a life, until the training is over: `python -m tests.faults.soak --faults 50 --seed 1`.

Ranks and launchers are killed, ranks are stopped, jobs are asked to end, checkpoints are damaged in many ways, and the
disk under the checkpoints is full for a while (root alone can have one that is). The training is started again each
time, and must end with the bits of an undisturbed one; after each life, what must hold is checked (see run.py).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from owt_mpi.tables import Table, render
from tests.faults.run import FaultyRun, Life, send

DISK_BYTES = 4 << 20  # of the disk under the checkpoints, where it can be full
FAULTS = (
    "kill a rank", "kill the launcher", "stop a rank", "SIGTERM", "SIGUSR1", "SIGTERM twice", "damage a checkpoint",
    "fill the disk",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one fault did. `lost_steps` had been reported and are not in the newest whole checkpoint."""

    fault: str
    detail: str
    at_step: int
    lost_steps: int
    exit_code: int
    seconds_to_end: float


class Soak:
    """Strikes one run at random moments, as `seed` says."""

    def __init__(self, run: FaultyRun, seed: int, can_fill_disk: bool) -> None:
        self._run, self._random = run, random.Random(seed)
        self._faults = FAULTS if can_fill_disk else FAULTS[:-1]
        self._mixed: list[str] = []

    def strike_next(self, at_step: int) -> Outcome:
        """Start the training, let the next fault happen after step `at_step` or soon, and return what it did."""
        if not self._mixed:  # each kind comes once before any comes again
            self._mixed = self._random.sample(self._faults, len(self._faults))
        fault, struck_at, detail = self._mixed.pop(), 0.0, ""

        def strike(life: Life) -> None:
            nonlocal struck_at, detail
            threading.Event().wait(self._random.uniform(0, 0.1))  # into a step, an exchange, or a checkpoint's writing
            struck_at = time.monotonic()
            detail = self._strike(fault, life)

        if fault == "fill the disk":
            with self._full_disk():  # until the run has said so
                life = self._run.live(at_step + 3 * self._run.every, strike)
            assert "could not be written" in life.output, life.output
        else:
            life = self._run.live(at_step, strike)
        seconds = time.monotonic() - struck_at if struck_at else 0.0
        self._check_end(fault, detail, life)
        if fault == "damage a checkpoint":
            detail = self._damage()
        lost = max(0, life.last_step - self._run.newest_whole())
        return Outcome(fault, detail, life.last_step, lost, life.process.returncode, seconds)

    def _strike(self, fault: str, life: Life) -> str:
        rank = self._random.randrange(len(life.ranks))
        if fault in ("kill the launcher", "SIGTERM", "SIGUSR1", "SIGTERM twice"):
            number = {"kill the launcher": signal.SIGKILL, "SIGUSR1": signal.SIGUSR1}.get(fault, signal.SIGTERM)
            send(life.process.pid, number)
            if fault == "SIGTERM twice":
                threading.Event().wait(self._random.uniform(0, 0.02))
                send(life.process.pid, number)
            return ""
        send(life.ranks[rank], signal.SIGSTOP if fault == "stop a rank" else signal.SIGKILL)
        return f"rank {rank}"

    def _check_end(self, fault: str, detail: str, life: Life) -> None:
        """Raise AssertionError where a job that could end as it was asked to did not."""
        is_over = life.last_step == self._run.num_steps  # the fault came too late
        code = life.process.returncode
        if fault in ("SIGTERM", "SIGUSR1"):
            assert code in ((0, 85) if is_over else (85,)), life.output
        elif fault != "SIGTERM twice":
            assert code != 0 or is_over, life.output
        if fault == "stop a rank" and not is_over:
            said = next((line for line in life.lines if "--stall-abort-seconds have passed" in line), "")
            assert f"{detail} (seen" in said, life.output

    def _damage(self) -> str:
        """Damage a file of the newest checkpoint that is whole; return what was done to which."""
        step = self._run.newest_whole()
        if step == 0:
            return "there was none yet"
        folder = self._run.checkpoints / f"step-{step:09d}"
        file = self._random.choice(sorted(folder.iterdir()))
        way = self._random.choice(["a bit", "cut", "removed", "zeros", "longer"])
        content = bytearray(file.read_bytes())
        if way == "removed":
            file.unlink()
        else:
            at = self._random.randrange(len(content))
            if way == "a bit":
                content[at] ^= 1 << self._random.randrange(8)
            elif way == "cut":
                del content[at:]
            elif way == "zeros":
                content[at:] = bytes(len(content) - at) if any(content[at:]) else b"\1" * (len(content) - at)
            else:
                content += b"\0"
            file.write_bytes(content)
        assert self._run.newest_whole() < step, f"{file}: {way} was not seen"
        return f"{file.name}: {way}"

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        """Leave no room for a checkpoint."""
        filler = self._run.checkpoints / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass
        try:
            yield
        finally:
            filler.unlink()


def soak(
    folder: Path, ranks: int, epochs: int, every: int, faults: int, seed: int, say: Callable[[str], object]
) -> list[Outcome]:
    """Return what `faults` faults did to a training in `folder`. AssertionError where what must hold does not."""
    run = FaultyRun(folder, ranks, epochs, every)
    run.train_undisturbed()
    with _small_disk(run.checkpoints) as can_fill_disk:
        trouble, outcomes = Soak(run, seed, can_fill_disk), list[Outcome]()
        for number in range(1, faults + 1):
            at_step = max(run.newest_whole() + 1, run.num_steps * number // (faults + 1))
            outcomes.append(trouble.strike_next(at_step))
            say(f"{number}/{faults} {outcomes[-1]}")
        last = run.live(None, lambda life: None)
        assert last.process.returncode == 0, last.output
        assert run.newest_whole() == run.num_steps
        run.assert_same_as_undisturbed()
    return outcomes


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """Make `folder` a small disk of its own, and give whether that was possible."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=50, help="of six steps")
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the runs go; by default a temporary one")
    parser.add_argument("--json", type=Path, help="also write all outcomes to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        outcomes = soak(
            Path(folder) / "soak", args.ranks, args.epochs, args.every, args.faults, args.seed,
            lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
    print_table(outcomes, args)
    if args.json:
        args.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1) + "\n", encoding="utf-8")


def print_table(outcomes: list[Outcome], args: argparse.Namespace) -> None:
    """Print a line for each kind of fault."""
    lines = []
    for fault in sorted({each.fault for each in outcomes}, key=FAULTS.index):
        those = [each for each in outcomes if each.fault == fault]
        codes = sorted({each.exit_code for each in those})
        lines.append([
            fault, str(len(those)), ", ".join(map(str, codes)), str(max(each.lost_steps for each in those)),
            f"{max(each.seconds_to_end for each in those):.1f}",
        ])  # fmt: skip
    table = Table(
        f"{len(outcomes)} faults in a training of {6 * args.epochs} steps on {args.ranks} ranks, a checkpoint every "
        f"{args.every} steps, seed {args.seed}: the bits of an undisturbed training",
        ("fault", "times", "exit codes", "most steps lost", "longest until the job was gone, s"),
        lines,
    )
    print(render(table, markdown=False), end="")


if __name__ == "__main__":
    main()
