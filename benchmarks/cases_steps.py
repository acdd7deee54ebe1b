"""The rows of vs_pytorch that are training steps beside PyTorch's: images a second, and memory."""

import functools
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.cases import WARM_UP, Measured, Setting, Side, per_second
from benchmarks.contestant import Command, Contestant, take_turns
from benchmarks.machine import under_mpirun
from owt_mpi.backends.precision import Precision, compute_dtype
from owt_mpi.backends.select import select_backend

CORES = 2
LAYOUTS = {"channels-last": ("--channels-last",), "default layout": ()}


@dataclass(frozen=True)
class Steps:
    """Training steps of `model`: `batch` images of each of `ranks` processes of `threads` threads."""

    model: str
    ranks: int
    threads: int
    batch: int
    crop: int
    classes: int
    precision: Precision = "fp32"

    def __str__(self) -> str:
        batch = f"{self.ranks} x {self.batch}" if self.ranks > 1 else str(self.batch)
        threads = f"{self.ranks} x {self.threads} thread{'s' * (self.threads > 1)}"
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{self.model} {self.crop}x{self.crop}, {threads}, batch {batch}{precision}"

    @property
    def arguments(self) -> list[str]:
        """What every worker is told."""
        numbers = {"batch": self.batch, "threads": self.threads, "crop": self.crop, "classes": self.classes}
        told = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
        return ["--model", self.model, "--precision", self.precision, *told]


@dataclass(frozen=True)
class Taken:
    """What a contestant's steps took, and the memory of its largest process."""

    what: str
    is_ours: bool
    precision: Precision
    seconds: tuple[float, ...]
    peak_bytes: int
    about: Mapping[str, str]


def ours(steps: Steps, scheme: str, *more: str) -> list[Command]:
    """Return what starts our workers."""
    command = [sys.executable, "-m", "benchmarks.worker_ours", *steps.arguments, "--scheme", scheme, *more]
    env = {"OMP_NUM_THREADS": str(steps.threads)}
    return [(command, env)] if steps.ranks == 1 else [under_mpirun(command, env, steps.ranks)]


def theirs(steps: Steps, layout: str) -> list[Command]:
    """Return what starts PyTorch's, several with the environment that torchrun would give each."""
    command = [sys.executable, "-m", "benchmarks.worker_pytorch", *steps.arguments, *LAYOUTS[layout]]
    env = {"OMP_NUM_THREADS": str(steps.threads)}
    if steps.ranks == 1:
        return [(command, env)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {**env, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(steps.ranks)}
    return [(command, {**job, "RANK": str(rank)}) for rank in range(steps.ranks)]


@functools.cache  # rows may be about the same steps
def take(setting: Setting, steps: Steps, own: tuple[Precision, ...] = ("fp32",)) -> tuple[Taken, ...]:
    """Let us, once for each precision in `own`, and PyTorch with each layout take the steps in turns."""
    scheme = f"({setting.scheme})" if steps.ranks > 1 else ""
    ddp = "DDP, " if steps.ranks > 1 else ""
    entries = [(f"owt_mpi {scheme}".strip(), each, ours(replace(steps, precision=each), setting.scheme))
               for each in own]  # fmt: skip
    entries += [(f"PyTorch {ddp}{layout}", steps.precision, theirs(steps, layout)) for layout in LAYOUTS]
    with ExitStack() as stack:
        contestants = [stack.enter_context(Contestant(name, commands, steps.ranks)) for name, _, commands in entries]
        take_turns(contestants, setting.repeats, WARM_UP)
        return tuple(
            Taken(name, i < len(own), precision, tuple(each.seconds), each.peak_bytes, each.about)
            for i, ((name, precision, _), each) in enumerate(zip(entries, contestants, strict=True))
        )


def _speeds(setting: Setting, steps: Steps) -> Measured:
    """Return images a second of all processes, ours and PyTorch's with the faster layout."""
    mine, *others = take(setting, steps)
    return _measured(steps, mine, _faster(others))


def _measured(steps: Steps, mine: Taken, best: Taken) -> Measured:
    images = steps.ranks * steps.batch
    sides = [Side(each.what, per_second(images, each.seconds)) for each in (mine, best)]
    return Measured(str(steps), "images/s", *sides, versions={**mine.about, **best.about})


def one_process(setting: Setting) -> Measured:
    sizes = setting.sizes
    return _speeds(setting, Steps("alexnet", 1, CORES, sizes.batch, sizes.crop, sizes.classes))


def two_ranks(setting: Setting) -> Measured:
    return _speeds(setting, _alexnet_on_two(setting))


def two_ranks_few_images(setting: Setting) -> Measured:
    return _speeds(setting, replace(_alexnet_on_two(setting), batch=setting.sizes.small))


def vgg11(setting: Setting) -> Measured:
    return _speeds(setting, replace(_alexnet_on_two(setting), model="vgg11", batch=setting.sizes.vgg))


def memory(setting: Setting) -> Measured:
    """Return what the largest rank has had resident when all steps are done; PyTorch's with the layout that needs less.

    These are the steps of `two_ranks`.
    """
    steps = _alexnet_on_two(setting)
    mine, *others = take(setting, steps)
    best = min(others, key=lambda each: each.peak_bytes)
    sides = [Side(each.what, (float(each.peak_bytes),)) for each in (mine, best)]
    num_steps = WARM_UP + setting.repeats
    case = f"peak memory (VmHWM) of a rank, {num_steps} steps of {steps}"
    return Measured(case, "bytes", *sides, versions={**mine.about, **best.about})


def half_beside_own_float(setting: Setting) -> Measured:
    return _half(setting, "our fp32")


def half_beside_pytorch(setting: Setting) -> Measured:
    return _half(setting, "PyTorch")


def _half(setting: Setting, against: str) -> Measured:
    """Return our bf16 beside our fp32, or beside PyTorch's autocast, all taken in the same turns."""
    sizes = setting.sizes
    steps = Steps("alexnet", 1, CORES, sizes.batch, sizes.crop, sizes.classes, "bf16")
    try:
        select_backend("onednn", compute_dtype("bf16", "float32"))
    except ValueError as error:
        return Measured(str(steps), "images/s", None, None, why_not=f"not available here: {error}")
    taken = take(setting, steps, ("bf16", "fp32"))
    mine = next(each for each in taken if each.is_ours and each.precision == "bf16")
    if against == "our fp32":
        best = next(each for each in taken if each.is_ours and each.precision == "fp32")
        return _measured(steps, mine, replace(best, what="owt_mpi, fp32"))
    best = _faster([each for each in taken if not each.is_ours])
    return _measured(steps, mine, replace(best, what=f"{best.what}, autocast"))


def _faster(taken: Sequence[Taken]) -> Taken:
    return min(taken, key=lambda each: median(each.seconds))


def _alexnet_on_two(setting: Setting) -> Steps:
    sizes = setting.sizes
    return Steps("alexnet", CORES, 1, sizes.large, sizes.crop, sizes.classes)
