"""cuDNN's plans for the convolutions of the models that come with owt_mpi, on GPUs that need not be there."""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.described_gpus import GPUS, load_driver_or_stand_in
from owt_mpi.autograd import Tensor, symbolic
from owt_mpi.backends.base import Pair, Shape
from owt_mpi.backends.cudnn import default_workspace_bytes
from owt_mpi.backends.cudnn_graphs import Conv, Device, Limits, NoPlanError, Plan, Precision, find_plans, make_graph
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import symbolic_context
from owt_mpi.ops.conv2d import Conv2dOp

BATCHES = (128, 16)
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
SPECS = {"cifar-quick": InputSpec(32, 3, 10), "small": InputSpec(28, 1, 10)}  # the others see ImageNet
IMAGENET = InputSpec(224, 3, 1000)

OPERATIONS: dict[str, dict[str, object]] = {
    "forward + bias + ReLU": {"operation": "conv2d", "bias": True, "relu": True},
    "forward + bias": {"operation": "conv2d", "bias": True},
    "gradient of x": {"operation": "conv2d_grad_x"},
    "gradient of w": {"operation": "conv2d_grad_w"},
}


@dataclass(frozen=True)
class Geometry:
    """A convolution without what it is computed in."""

    x: Shape
    w: Shape
    y: Shape
    stride: Pair
    pad: Pair

    def conv(self, operation: str, precision: Precision) -> Conv:
        return Conv(**{**vars(self), **OPERATIONS[operation]}, precision=precision)


@dataclass(frozen=True)
class Case:
    gpu: str
    precision: Precision
    operation: str
    geometry: Geometry
    layers: tuple[str, ...]  # MODEL.LAYER


@dataclass(frozen=True)
class Result:
    """What cuDNN offers for a case: how many plans, and the one that it puts first. Or why there is none."""

    case: Case
    num_plans: int = 0
    engine: str = ""
    workspace_bytes: int = 0
    tensor_cores: bool = False
    fused: bool = True
    refused: str = ""


def convolutions(batch: int) -> dict[Geometry, tuple[str, ...]]:
    """Return the different convolutions of all models, with the layers that they are."""
    found: dict[Geometry, tuple[str, ...]] = {}
    for model_name, build in MODELS.items():
        spec = SPECS.get(model_name, IMAGENET)
        layers: list[tuple[str, Tensor]] = []
        context = symbolic_context(batch, lambda name, y, layers=layers: layers.append((name, y)))
        build(spec).trunk(symbolic((batch, spec.crop, spec.crop, spec.channels)), context)
        for layer, y in layers:
            if isinstance(y.creator, Conv2dOp):
                x, w = (each.shape for each in y.creator.inputs[:2])
                geometry = Geometry(x, w, y.shape, y.creator.stride, y.creator.pad)
                found[geometry] = (*found.get(geometry, ()), f"{model_name}.{layer.rpartition('.')[2]}")
    return found


def cases(gpus: Iterable[str] = GPUS, batches: Iterable[int] = BATCHES) -> list[Case]:
    """Return every convolution of every model with every operation, precision and GPU."""
    return [
        Case(gpu, precision, operation, geometry, layers)
        for gpu in gpus
        for precision in PRECISIONS
        for batch in batches
        for geometry, layers in convolutions(batch).items()
        for operation in OPERATIONS
    ]


def results(
    cases: list[Case], num_processes: int, workspace_bytes: int | None = None, deterministic: bool = False
) -> list[Result]:
    """Return what cuDNN offers for each case, asked for in processes of their own: a stand-in for the driver stays."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, spawn, load_driver_or_stand_in) as pool:
        ask = partial(result, workspace_bytes=workspace_bytes, deterministic=deterministic)
        return list(pool.map(ask, cases, chunksize=32))


def result(case: Case, workspace_bytes: int | None, deterministic: bool) -> Result:
    """Return what cuDNN offers for the case; for use in a process that has a driver or a stand-in for one."""
    gpu = GPUS[case.gpu]
    conv, device = case.geometry.conv(case.operation, case.precision), gpu.device()
    limits = Limits(default_workspace_bytes(gpu.memory) if workspace_bytes is None else workspace_bytes, deterministic)
    try:
        plans = list(find_plans(conv, device, limits))
    except (ValueError, NoPlanError) as error:
        return Result(case, refused=str(error))
    first = plans[0]
    return Result(
        case,
        len(plans),
        first.engine,
        first.workspace_bytes,
        uses_tensor_cores(first, conv, device, limits),
        not first.bias_and_relu_left,
    )


def uses_tensor_cores(plan: Plan, conv: Conv, device: Device, limits: Limits) -> bool:
    """Return whether the plan is struck out where tensor cores are excluded: a plan itself does not tell."""
    import cudnn

    built = conv._replace(bias=False, relu=False) if plan.bias_and_relu_left else conv
    try:
        make_graph(built, device, limits, ("TENSOR_CORE",)).build_plan_at_index(plan.index)
    except cudnn.cudnnGraphNotSupportedError:
        return True
    return False


def summary_table(results: list[Result]) -> str:
    lines = [
        "| GPU | precision | graphs | plans of a graph | tensor cores | bias, ReLU apart | largest workspace, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpu, precision in dict.fromkeys((each.case.gpu, each.case.precision) for each in results):
        group = [each for each in results if (each.case.gpu, each.case.precision) == (gpu, precision)]
        built = [each for each in group if not each.refused]
        if not built:
            lines.append(f"| {gpu} | {precision} | {len(group)} | refused | | | |")
            continue
        counts = [each.num_plans for each in built]
        shares = [sum(each.tensor_cores for each in built), sum(not each.fused for each in built)]
        workspace = max(each.workspace_bytes for each in built) / 1e6
        refused = f", {len(group) - len(built)} refused" * (len(built) < len(group))
        cells = [f"{len(group)}{refused}", f"{min(counts)} to {max(counts)}", *map(str, shares), f"{workspace:.0f}"]
        lines.append(f"| {gpu} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def model_table(results: list[Result], model: str, batch: int, gpu: str) -> str:
    """Return the plans put first for a model's layers: engine, workspace in MB, * for tensor cores."""
    lines = [f"| layer | operation | {' | '.join(PRECISIONS)} |", "|---|---" + "|---" * len(PRECISIONS) + "|"]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for each in results:
        case = each.case
        if case.gpu != gpu or case.geometry.x[0] != batch:
            continue
        for layer in case.layers:
            name, _, layer_name = layer.partition(".")
            if name == model:
                row = cells.setdefault((layer_name, case.operation), {})
                star, apart = "*" * each.tensor_cores, " apart" * (not each.fused)
                text = f"{each.engine.partition('_')[0]}{star}{apart} {each.workspace_bytes / 1e6:.0f}"
                row[case.precision] = "refused" if each.refused else text
    for (layer_name, operation), row in sorted(cells.items(), key=lambda item: item[0][0]):
        lines.append(f"| {layer_name} | {operation} | {' | '.join(row[each] for each in PRECISIONS)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", nargs="+", choices=GPUS, default=list(GPUS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="images a rank")
    parser.add_argument("--model", choices=MODELS, default="alexnet-owt", help="whose layers are listed one by one")
    parser.add_argument("--workspace-mib", type=int, help="the most a plan may use; default: 1/16 of the memory")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--json", help="also write all cases to this file")
    args = parser.parse_args()
    workspace_bytes = None if args.workspace_mib is None else args.workspace_mib << 20
    table = results(cases(args.gpus, args.batches), os.cpu_count() or 1, workspace_bytes, args.deterministic)
    print(f"convolutions of all models, batches of {' and '.join(map(str, args.batches))}\n\n{summary_table(table)}")
    for gpu in args.gpus:
        print(
            f"\n{args.model}, {args.batches[0]} images, {gpu}: engine put first, its workspace in MB, * tensor cores\n"
        )
        print(model_table(table, args.model, args.batches[0], gpu))
    if args.json:
        Path(args.json).write_text(json.dumps([asdict(each) for each in table], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
