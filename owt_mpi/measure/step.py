"""A training step of one rank: as a whole, and by the operations of the backend with what each at least costs."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import Precision, compute_dtype
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.half import carrying_halves
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.measure.roof import Roof, as_one, roof_seconds
from owt_mpi.measure.timed_backend import TimedBackend, TimedCall
from owt_mpi.nn.model import Builder, InputSpec, Model
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.planner.costs import step_kernels
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.fusing import fused
from owt_mpi.planner.kernel import Kernel, Operand, step_bytes, step_flop
from owt_mpi.trainer import Trainer
from owt_mpi.trunk_pass import check_replayable

WARM_UP_STEPS = 2

_OPERATIONS = {
    "conv": "conv2d",
    "bias grad + conv grad_w": "conv2d_grad_w",
    "conv grad_w": "conv2d_grad_w",
    "conv grad_x": "conv2d_grad_x",
    "linear": "linear",
    "linear grad_w": "linear_grad_w",
    "linear grad_x": "linear_grad_x",
    "bias": "add_bias",
    "bias grad": "bias_grad",
    "ReLU": "relu",
    "ReLU grad": "relu_grad",
    "max pool": "max_pool2d",
    "max pool grad": "max_pool2d_grad",
    "average pool": "avg_pool2d",
    "average pool grad": "avg_pool2d_grad",
    "LRN": "lrn",
    "LRN grad": "lrn_grad",
    "dropout": "dropout",
    "dropout grad": "dropout_grad",
    "logistic loss": "logistic_loss",
    "softmax loss": "softmax_loss",
    "momentum SGD": "momentum_sgd",
}
_SUMMED = ("softmax_loss", "momentum_sgd")  # of several calls, or of one a parameter, where the planner counts one
_PARTS_OF = {"softmax_max": "softmax_loss", "softmax_sum": "softmax_loss"}


@dataclass(frozen=True)
class PartRow:
    """The calls of one operation in a step, in one layer where its calls can be told apart by layer.

    FLOP and bytes are None for what the planner does not count.
    """

    operation: str
    layer: str
    calls: int
    seconds: float
    flop: int | None
    least_bytes: int | None
    roof_seconds: float | None
    precision: Precision = "fp32"


@dataclass(frozen=True)
class StepRow:
    """Whole steps, not timed inside: median, fastest, slowest; with what the planner counts for a step of ours."""

    what: str
    images: int
    seconds: float
    fastest: float
    slowest: float
    flop: int | None
    least_bytes: int | None
    roof_seconds: float | None
    precision: Precision = "fp32"


class Contestant(Protocol):
    """Something else that trains: tells what it is, and the seconds of a step."""

    what: str

    def step(self) -> float:
        """Make a step and return its seconds."""
        ...


class ReplayedStep:
    """Our step with --cuda-graph, on the same batch each time: recorded in the second step, replayed from then on."""

    what = "owt_mpi, --cuda-graph"

    def __init__(self, trainer: Trainer, batch: Batch) -> None:
        self._trainer, self._batch, self._num_steps = trainer, batch, 0

    def step(self) -> float:
        self._num_steps += 1
        return step_seconds(self._trainer, self._batch, self._num_steps)


def make_trainer(
    builder: Builder,
    spec: InputSpec,
    images: int,
    plan: Plan,
    comm: Communicator,
    backend: Backend,
    precision: Precision = "fp32",
    cuda_graph: bool = False,
) -> Trainer:
    """Return a trainer of a new model. ValueError if plan, or --cuda-graph, does not fit the model."""
    model = builder(spec)
    plan.check(model, images)
    if cuda_graph:
        check_replayable(model.trunk, virtual_ranks=1)
    config = Config(parallel=ParallelOptions(precision=precision, cuda_graph=cuda_graph))
    layout = make_layout(carrying_halves(comm, compute_dtype(precision, "float32")), plan)
    return Trainer(config, model, layout, backend, images * comm.size)


def random_batch(spec: InputSpec, images: int, rank: int, backend: Backend, precision: Precision = "fp32") -> Batch:
    """Return a rank's part of a batch: random images in `precision` on the device of `backend`, and random labels."""
    rng = np.random.default_rng(rank)
    shape = (images, spec.crop, spec.crop, spec.channels)
    rows = rank * images + np.arange(images)
    labels = rng.integers(0, spec.num_classes, images)
    pixels = rng.standard_normal(shape, dtype=np.float32).astype(compute_dtype(precision, "float32"))
    return Batch(backend.from_host(pixels), labels, rows, rows, None)


def measure_step(
    trainer: Trainer,
    batch: Batch,
    kernels: Sequence[Kernel],
    roof: Roof | None,
    repeats: int,
    others: Sequence[Contestant] = (),
    precision: Precision = "fp32",
) -> list[StepRow]:
    """Return the row of our step, which runs `kernels`, and one of each other's.

    All take steps in turns, after two that are not counted.
    """
    ours, theirs = list[float](), [list[float]() for _ in others]
    for step in range(WARM_UP_STEPS + repeats):
        ours.append(step_seconds(trainer, batch, step))
        for seconds, other in zip(theirs, others, strict=True):
            seconds.append(other.step())
    costs = (step_flop(kernels), step_bytes(kernels), roof_seconds(roof, kernels))
    rows = [_step_row("owt_mpi", len(batch.rows), ours, costs)]
    none = (None, None, None)
    rows += [_step_row(o.what, len(batch.rows), s, none) for o, s in zip(others, theirs, strict=True)]
    return [replace(row, precision=precision) for row in rows]


def step_seconds(trainer: Trainer, batch: Batch, step: int) -> float:
    """Make a step and return its seconds, those of the device's last work included."""
    trainer.backend.synchronize()
    begin = time.perf_counter()
    trainer.train_step(batch, step)
    trainer.backend.synchronize()
    return time.perf_counter() - begin


def measure_parts(
    builder: Builder, spec: InputSpec, comm: Communicator, backend: Backend, batch: Batch, roof: Roof | None,
    repeats: int, precision: Precision = "fp32",
) -> list[PartRow]:  # fmt: skip
    """Return a step by its operations, each waited for, in steps apart from those of `measure_step`.

    Times are medians over steps. The last row, "the rest", is what a step spends outside of the operations.
    """
    timed = TimedBackend(backend)
    kernels = planned_kernels(builder(spec), len(batch.rows), precision)
    trainer = make_trainer(builder, spec, len(batch.rows), Plan(1), comm, timed, precision)
    steps: list[list[TimedCall]] = []
    rests: list[float] = []
    for step in range(WARM_UP_STEPS + repeats):
        timed.calls.clear()
        whole = step_seconds(trainer, batch, step)
        steps.append(list(timed.calls))
        rests.append(whole - sum(call.seconds for call in timed.calls))
    steps, rests = steps[WARM_UP_STEPS:], rests[WARM_UP_STEPS:]
    rows = part_rows(steps, kernels, roof)
    rows.append(PartRow("the rest", "", 0, median(rests), None, None, None))
    return [replace(row, precision=precision) for row in rows]


def planned_kernels(model: Model, images: int, precision: Precision = "fp32") -> list[Kernel]:
    """Return the kernels of a step of one rank, of a `model` without values, as a backend's operations run them.

    Bias and ReLU are in the product, a dropout after them too, unless the product is a convolution; its gradient of b
    is in the call for that of w. Images come normalised.
    """
    kernels = _with_dropout(fused(step_kernels(model, layout_of(Plan(1)), images, precision), "bias + ReLU"))
    merged: list[Kernel] = []
    for kernel in kernels:
        is_pair = bool(merged) and (merged[-1].work, kernel.work) == ("bias grad", "conv grad_w")
        merged.append(as_one([merged.pop(), kernel]) if is_pair else kernel)
    return [kernel for kernel in merged if kernel.layer != "input"]


def _with_dropout(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Return the kernels, each dropout that reads a ReLU in one with that, forward and backward."""
    joined: list[Kernel] = []
    dropped: dict[str, Operand] = {}  # the outputs of such dropouts, by layer
    for kernel in kernels:
        before = joined[-1] if joined else kernel
        first, *_, last = before.work.split(" + ") * 2
        if kernel.work == "dropout" and last == "ReLU" and first != "conv" and kernel.reads[0] in before.writes:
            dropped[kernel.layer] = kernel.writes[0]
            flop = before.other_flop + kernel.other_flop
            joined[-1] = replace(before, work=f"{before.work} + dropout", writes=kernel.writes, other_flop=flop)
        elif kernel.work == "ReLU grad" and before.work == "dropout grad" and before.layer in dropped:
            reads, flop = (*before.reads, dropped[before.layer]), before.other_flop + kernel.other_flop
            joined[-1] = replace(kernel, work="ReLU grad + dropout grad", reads=reads, other_flop=flop)
        else:
            joined.append(kernel)
    return joined


def part_rows(steps: Sequence[Sequence[TimedCall]], kernels: Sequence[Kernel], roof: Roof | None) -> list[PartRow]:
    """Return the rows of steps that made the same calls; the k-th call of an operation is its k-th in `kernels`."""
    times = [_by_operation(calls) for calls in steps]
    planned = _planned_by_operation(kernels)
    rows = []
    for operation in times[0]:
        calls, work = [each[operation] for each in times], planned.get(operation, [])
        seconds = [median(column) for column in zip(*calls, strict=True)]
        if len(work) == len(seconds) and operation not in _SUMMED:
            rows += [_part(operation, w.layer, 1, s, [w], roof) for w, s in zip(work, seconds, strict=True)]
        else:
            rows.append(_part(operation, "", len(seconds), sum(seconds), work * (operation in _SUMMED), roof))
    return rows


def _part(operation: str, layer: str, calls: int, seconds: float, work: Sequence[Kernel], roof: Roof | None) -> PartRow:
    if not work:
        return PartRow(operation, layer, calls, seconds, None, None, None)
    return PartRow(operation, layer, calls, seconds, step_flop(work), step_bytes(work), roof_seconds(roof, work))


def _by_operation(calls: Sequence[TimedCall]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        found[_PARTS_OF.get(call.operation, call.operation)].append(call.seconds)
    return dict(found)


def _planned_by_operation(kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    found: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        operation = _OPERATIONS.get(kernel.work) or _OPERATIONS.get(kernel.work.split(" + ")[0])
        if operation is not None:
            found[operation].append(kernel)
    return dict(found)


def _step_row(
    what: str, images: int, seconds: list[float], costs: tuple[int | None, int | None, float | None]
) -> StepRow:
    counted = seconds[WARM_UP_STEPS:]
    return StepRow(what, images, median(counted), min(counted), max(counted), *costs)
