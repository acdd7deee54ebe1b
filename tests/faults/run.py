"""A training that is started again and again, whatever ended it, and what must hold after each of its lives."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from owt_mpi.checkpoint.reader import Checkpoint, first_damage
from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.serial import SerialCommunicator
from tests.command.conftest import write_preset, write_shards
from tests.mpi_run import (
    NO_MPIRUN,
    ONE_THREAD,
    OPEN_MPI_ENV,
    REPO_ROOT,
    descendants,
    ends,
    find_mpirun,
    is_open_mpi,
    kill_tree,
)

STEPS_OF_EPOCH = 6
STALL_SECONDS, STALL_ABORT_SECONDS = 1, 4
LIMIT_SECONDS = 60.0  # of a whole life, on a machine under load: one that takes longer hangs
END_SECONDS = 20.0  # from a run's last line to the end of its job


@dataclass
class Life:
    """One start of the training. `lines` are what it printed.

    `was_stopped_at_end`: it had said all it had to say, and the launcher waited for a rank that was stopped just before
    its exit, which nobody can see.
    """

    process: "subprocess.Popen[str]"
    ranks: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    was_stopped_at_end: bool = False

    @property
    def has_said_all(self) -> bool:
        """Whether it printed the last line of a run that was trained to its end."""
        return bool(self.lines) and self.lines[-1].startswith("run kept in ")

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def last_step(self) -> int:
        """The last step that was reported, 0 if none was."""
        steps = [line.partition(" step ")[2].partition("/")[0] for line in self.lines if _is_step(line)]
        return int(steps[-1]) if steps else 0


class FaultyRun:
    """A training of `epochs` epochs of six steps on `ranks` ranks in `folder`, a checkpoint every `every` steps."""

    def __init__(self, folder: Path, ranks: int, epochs: int, every: int) -> None:
        mpirun = find_mpirun()
        assert mpirun is not None, NO_MPIRUN
        self.folder, self.ranks, self.num_steps = folder, ranks, epochs * STEPS_OF_EPOCH
        folder.mkdir(parents=True, exist_ok=True)
        shards, preset = write_shards(folder / "shards"), write_preset(folder)
        self._command = [
            mpirun, "-n", str(ranks), sys.executable, "-m", "owt_mpi.train", "--preset", str(preset), "--data",
            str(shards), "--epochs", str(epochs), "--backend", "reference", "--log-every", "1", "--layer-stats-every",
            "0", "--stall-seconds", str(STALL_SECONDS), "--stall-abort-seconds", str(STALL_ABORT_SECONDS),
        ]  # fmt: skip
        self.every = every
        self._env = {**os.environ, **ONE_THREAD, **(OPEN_MPI_ENV if is_open_mpi(mpirun) else {})}
        self._right: dict[int, str] = {}  # the digest of what a checkpoint of each step must hold
        self.run_dir = folder / "run"

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    def train_undisturbed(self) -> None:
        """Train once without a fault; what it holds after each step is what every checkpoint must hold."""
        whole = self.folder / "undisturbed"
        command = [*self._command, "--run-dir", str(whole), "--checkpoint-every", "1", "--keep-checkpoints", "100000"]
        done = subprocess.run(
            command, cwd=REPO_ROOT, env=self._env, capture_output=True, text=True, check=False,
            timeout=20 * LIMIT_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self._right = {_step(path): _digest(path) for path in (whole / "checkpoints").glob("step-*")}
        assert len(self._right) == self.num_steps
        assert len(set(self._right.values())) == self.num_steps, "every step changes something"

    def newest_whole(self) -> int:
        """Return the step of the newest checkpoint that is whole, 0 if none is. AssertionError if one is wrong.

        Wrong: it passes for whole, and does not hold what the undisturbed training held after its step.
        """
        newest = 0
        for path in self.checkpoints.glob("step-*"):
            if first_damage(path, SerialCommunicator()) is None:
                step = _step(path)
                assert _digest(path) == self._right[step], f"{path} is whole and wrong"
                newest = max(newest, step)
        return newest

    def live(self, fault_at: int | None, strike: Callable[[Life], None]) -> Life:
        """Start the training, let `strike` happen to it after step `fault_at`, and return when nothing of it is left.

        AssertionError if it does not go on from the newest whole checkpoint, or outlives its limit.
        """
        expected = self.newest_whole()
        given = ["--run-dir", str(self.run_dir), "--checkpoint-every", str(self.every), "--resume", "auto"]
        with subprocess.Popen(
            [*self._command, *given], cwd=REPO_ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            life, printed = Life(process), SimpleQueue[str | None]()
            reader = threading.Thread(target=_read, args=(process, printed))
            reader.start()
            has_struck, shared = fault_at is None, list[Path]()
            try:
                while (line := self._next_line(printed, life)) is not None:
                    life.lines.append(line)
                    if not has_struck and _is_step(line) and life.last_step >= (fault_at or 0):
                        life.ranks = _ranks_of(process.pid)
                        shared = _shared_memory_of(life.ranks)
                        strike(life)
                        has_struck = True
                process.wait(LIMIT_SECONDS)
            except (Empty, subprocess.TimeoutExpired):
                for rank in life.ranks:
                    send(rank, signal.SIGKILL)
                raise AssertionError(f"the job hangs:\n{life.output[-4000:]}") from None
            finally:
                kill_tree(process.pid)  # if it is still there
                reader.join()
        assert all(ends(rank, LIMIT_SECONDS) for rank in life.ranks), f"a rank is left:\n{life.output[-4000:]}"
        for file in shared:
            file.unlink(missing_ok=True)  # killed ranks of MPICH leave theirs behind
        came_from = f"going on from {self.checkpoints}/step-{expected:09d}" if expected else "the run begins"
        assert any(came_from in line for line in life.lines), f"not from step {expected}:\n{life.output[-4000:]}"
        return life

    def _next_line(self, printed: "SimpleQueue[str | None]", life: Life) -> str | None:
        """Return what the job prints next, None at its end. Empty if nothing comes in time."""
        if life.has_said_all and not life.was_stopped_at_end:
            try:
                return printed.get(timeout=END_SECONDS)
            except Empty:
                going = [rank for rank, pid in enumerate(life.ranks) if not _is_stopped(pid)]
                watching = [rank for rank in going if (self.run_dir / "progress" / f"rank-{rank:05d}.json").exists()]
                assert not watching, f"ranks {watching} watch still, and have not missed the one that stopped"
                life.was_stopped_at_end = True
                for rank in life.ranks:
                    send(rank, signal.SIGCONT)
        return printed.get(timeout=LIMIT_SECONDS)

    def assert_same_as_undisturbed(self) -> None:
        """Raise AssertionError unless the weights of the run, which is over, are the undisturbed one's, bit by bit."""
        own, right = (read_weights(folder / "weights.h5") for folder in (self.run_dir, self.folder / "undisturbed"))
        assert own.keys() == right.keys()
        for name, values in right.items():
            np.testing.assert_array_equal(own[name], values, err_msg=name)


def _is_step(line: str) -> bool:
    return line.startswith("epoch ") and " step " in line


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _digest(path: Path) -> str:
    """Return the SHA-256 of all arrays of a checkpoint, with their names."""
    digest = hashlib.sha256()
    with Checkpoint(path) as checkpoint:
        for arrays in (checkpoint.weights, checkpoint.momentum):
            for name in sorted(arrays):
                digest.update(name.encode() + np.ascontiguousarray(arrays[name][...]).tobytes())
    return digest.hexdigest()


def _read(process: "subprocess.Popen[str]", printed: "SimpleQueue[str | None]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        printed.put(line.rstrip("\n"))
    printed.put(None)


def _ranks_of(launcher: int) -> list[int]:
    """Return the ranks' processes under a launcher, by rank."""
    ranks: dict[int, int] = {}
    for pid in descendants(launcher):
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found = [word.partition(b"=")[2] for word in words if word.startswith((b"PMI_RANK=", b"OMPI_COMM_WORLD_RANK="))]
        if found and b"owt_mpi.train" in command:
            ranks.setdefault(int(found[0]), pid)  # parents come first
    return [ranks[rank] for rank in sorted(ranks)]


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _shared_memory_of(ranks: list[int]) -> list[Path]:
    """Return the files in /dev/shm that the ranks of a job share."""
    found = set()
    for pid in ranks:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        found |= {Path(word) for line in lines for word in line.split()[5:6] if word.startswith("/dev/shm/")}
    return sorted(found)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended by itself."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
