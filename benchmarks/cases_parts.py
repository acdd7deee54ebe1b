"""The rows of vs_pytorch that are parts of a training, beside what bounds each: kernels, copies, a step, imports."""

import functools
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cases import WARM_UP, Measured, Setting, Side, per_second, random_shards
from benchmarks.cases_steps import CORES, Steps, ours
from benchmarks.contestant import REPO_ROOT, Command, Contestant, command_environment, take_turns
from benchmarks.machine import under_mpirun
from data_prep.build_shards import build
from data_prep.options import Options as BuildOptions

FASHION_MNIST = REPO_ROOT / "data_prep" / "fashion_mnist"
LEAD, STEPS = 1, 2  # of a turn: in a step that is timed, the loader makes a batch for the one after


def convolutions(setting: Setting) -> Measured:
    """Return the seconds of all convolutions of a step, in our step and by bare kernels."""
    sizes = setting.sizes
    steps = Steps("alexnet", 1, CORES, sizes.batch, sizes.crop, sizes.classes)
    bare = [sys.executable, "-m", "benchmarks.worker_convolutions", *steps.arguments]
    entries = {
        "in our step": ours(steps, setting.scheme, "--convolutions"),
        "bare oneDNN kernels": [(bare, {"OMP_NUM_THREADS": str(steps.threads)})],
    }
    return _turns(setting, f"convolutions of {steps}", "s", entries, num_workers=1)


def reading_and_training(setting: Setting) -> Measured:
    """Return images a second of two ranks that read theirs, and of two that have the same random ones each time."""
    sizes = setting.sizes
    steps = Steps("alexnet", CORES, 1, sizes.large, sizes.crop, sizes.classes)
    turn = ("--lead", str(LEAD), "--steps", str(STEPS))
    entries = {
        "from shards, augmented": ours(steps, setting.scheme, *turn, "--shards", str(random_shards(setting))),
        "our step, random images": ours(steps, setting.scheme, *turn),
    }
    images = steps.ranks * steps.batch
    return _turns(setting, f"with reading, {steps}", "images/s", entries, num_workers=CORES, amount=images)


def reading(setting: Setting) -> Measured:
    """Return bytes a second of crops that the loader gives on one core, and of a copy of as many bytes there."""
    sizes = setting.sizes
    numbers = {"threads": 1, "images": sizes.read_images, "batch": sizes.read_batch, "crop": sizes.crop, "core": 0}
    told = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]

    def worker(what: str) -> list[Command]:
        command = [sys.executable, "-m", "benchmarks.worker_loader", *told, what, str(random_shards(setting))]
        return [(command, {"OMP_NUM_THREADS": "1"})]

    entries = {"Loader, uint8": worker("ours, Loader, uint8"), "memcpy": worker("memcpy, whole round")}
    case = f"loader, 1 core, {sizes.stored} -> {sizes.crop} crop + flip, uint8"
    amount = sizes.read_images * sizes.crop**2 * 3
    return _turns(setting, case, "bytes/s", entries, num_workers=1, amount=amount)


def start_up(setting: Setting) -> Measured:
    """Return the seconds from the start of the demo until its log tells of step 1, and those of importing PyTorch."""
    shards, run = _demo_shards(setting.folder), setting.folder / "run"
    command, env = under_mpirun(
        [sys.executable, "-m", "owt_mpi.train", "--preset", "demo", "--data", str(shards), "--max-steps", "1",
         "--run-dir", str(run)],
        {}, CORES,
    )  # fmt: skip
    takers = [
        TimedCommand("demo, 2 ranks, until its log has step 1", command, env, " step 1/", run),
        TimedCommand('python -c "import torch"', [sys.executable, "-c", "import torch"], {}),
    ]
    take_turns(takers, setting.repeats, warm_up=1)
    sides = [Side(each.name, tuple(each.seconds)) for each in takers]
    return Measured("start-up to the first step, 2 ranks, demo", "s", *sides)


class TimedCommand:
    """A command that is started anew each time, without the folder it makes: until it tells `text`, or ends."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], text: str = "", makes: Path | None = None
    ) -> None:
        self.name, self.seconds = name, list[float]()
        self._command, self._env, self._text, self._makes = command, env, text, makes

    def step(self) -> float:
        """Return the seconds. RuntimeError, with the output, if the command ends without the text or fails."""
        environment = command_environment(self._env)
        if self._makes is not None:
            shutil.rmtree(self._makes, ignore_errors=True)
        start, seconds, lines = time.perf_counter(), None, list[str]()
        with subprocess.Popen(
            self._command, cwd=REPO_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ) as job:  # fmt: skip
            assert job.stdout is not None
            for line in job.stdout:
                lines.append(line)
                if seconds is None and self._text and self._text in line:
                    seconds = time.perf_counter() - start
        if seconds is None and not self._text:
            seconds = time.perf_counter() - start
        if job.returncode != 0 or seconds is None:
            raise RuntimeError(f"{self.name} ended with code {job.returncode}:\n{''.join(lines)}")
        return seconds


@functools.cache
def _demo_shards(folder: Path) -> Path:
    """Build the demo's shards, as launch/demo.sh does, and return their folder."""
    shards = folder / "fashion_mnist"
    build(BuildOptions(FASHION_MNIST / "train.tar.gz", shards, val=FASHION_MNIST / "test.tar.gz", size=28, channels=1))
    return shards


def _turns(
    setting: Setting, case: str, unit: str, entries: dict[str, list[Command]], num_workers: int, amount: float = 0
) -> Measured:
    """Return what two contestants, ours first, measured in turns: seconds, or `amount` a second."""
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(Contestant(name, commands, num_workers)) for name, commands in entries.items()
        ]
        take_turns(contestants, setting.repeats, WARM_UP)
        versions = {name: fact for each in reversed(contestants) for name, fact in each.about.items()}
        sides = [
            Side(each.name, per_second(amount, each.seconds) if amount else tuple(each.seconds)) for each in contestants
        ]
    return Measured(case, unit, *sides, versions=versions)
