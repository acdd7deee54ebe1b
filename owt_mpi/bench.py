"""Measure the training of a network on the machine at hand: `python -m owt_mpi.bench --gpu --json FILE`."""

import json
import platform
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owt_mpi import __version__
from owt_mpi.backends.at_hand import convolution_ways, device_name, driver
from owt_mpi.backends.base import Backend
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.precision import Precision, compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.backends.threads import default_num_threads
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit, agree, run_command
from owt_mpi.comm.placement import local_rank
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.start import on_ranks
from owt_mpi.comm.transport import Transport, open_transport
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.data.loader import Batch
from owt_mpi.measure.conformance import compare
from owt_mpi.measure.convolutions import measure_convolutions
from owt_mpi.measure.options import BenchOptions
from owt_mpi.measure.pytorch_step import PyTorchStep, why_not
from owt_mpi.measure.report import Report
from owt_mpi.measure.roof import find_roof
from owt_mpi.measure.schemes import measure_schemes
from owt_mpi.measure.step import (
    Contestant,
    ReplayedStep,
    make_trainer,
    measure_parts,
    measure_step,
    planned_kernels,
    random_batch,
)
from owt_mpi.nn.model import Builder, InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel_options import ParallelOptions

DESCRIPTION = """Measure the training of a network on the machine at hand.

Conformance: every operation of the backend against the reference. Convolutions: the vendor's library against plain
matrix products. Step: a training step of one rank, beside PyTorch's where that is installed, and by its operations,
with FLOP, least bytes and the share of what the GPU could do. Schemes: a step on all ranks by every scheme, with what
is hidden of the exchange. docs/gpu-results.md explains the columns. Exit code 1: an operation does not conform.

Examples:
  python -m owt_mpi.bench --gpu --precision fp32 tf32 bf16 fp16 --json results.json --markdown
  mpirun -n 4 python -m owt_mpi.bench --gpu --ranks 2 4 --measure schemes
  python -m owt_mpi.bench --model small --crop 16 --classes 10 --virtual-ranks 2"""

CHANNELS = 3


@dataclass(frozen=True)
class Bench:
    """What everything is measured with in one precision on one rank."""

    options: BenchOptions
    precision: Precision
    builder: Builder
    spec: InputSpec
    backend: Backend
    local_rank: int
    num_threads: int


def main() -> int:
    """Parse the command line, measure, and return the exit code."""
    with usage_errors():
        options = parse_options(BenchOptions(), sys.argv[1:], "python -m owt_mpi.bench", DESCRIPTION)
        options.check()
        find_builder(options.model)
    on_ranks(
        options.virtual_ranks,
        lambda world, sharing: run_bench(options, world, sharing, _library(is_mpi=not options.virtual_ranks)),
    )
    return 0


def _library(is_mpi: bool) -> str:
    """Return what moves arrays between the ranks."""
    if not is_mpi:
        return "none: ranks are threads"
    from owt_mpi.comm.mpi import library  # which has started by now

    return library()


def run_bench(options: BenchOptions, world: Communicator, ranks_sharing_cores: int, mpi: str) -> Report:
    """Measure, print and keep the report on rank 0, and return it. All ranks of `world` call.

    `ranks_sharing_cores` of them run on this rank's cores; `mpi` is the library that moves arrays between them.
    CollectiveExit with 1 if an operation does not conform, with 2 if the options are wrong.
    """
    error: Exception | None = None
    try:
        gpu_number = 0 if options.virtual_ranks else local_rank(world)
        for precision in options.precision:  # what cannot be had is said before anything is measured
            _set_up(options, precision, world, gpu_number, ranks_sharing_cores)
    except (ValueError, OSError) as caught:
        error = caught
    agree(world, error, USAGE_ERROR)
    report = Report({})
    for precision in options.precision:
        # again: a GPU computes float32 as the backend that was made last says, in TF32 or not, for all threads
        world.barrier()
        bench, reason = _set_up(options, precision, world, gpu_number, ranks_sharing_cores)
        world.barrier()
        transport = _open_transport(bench, world)
        if precision == options.precision[0]:
            report.facts = _facts(bench, reason, world.size, mpi, transport.description)
        elif reason != report.facts["backend"]:
            report.facts[f"backend for {precision}"] = reason
        with np.errstate(over="ignore", invalid="ignore"):  # of halves; the loss of every step is looked at
            _measure(bench, transport.comm, report)
    if "schemes" in options.measure and world.size == 1:
        report.remark("schemes: one rank was started; mpirun -n K or --virtual-ranks K has more")
    failures = [f"{row.operation} in {row.precision}" for row in report.conformance if not row.passes]
    failed = world.all_gather_object(failures)[0]
    if world.rank == 0:
        print(report.text(options.markdown), end="", flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    if failed:
        raise CollectiveExit(1, f"error: {'; '.join(failed)}: not what the reference computes, see the table")
    return report


def _measure(bench: Bench, comm: Communicator, report: Report) -> None:
    """Fill in what is measured in one precision. All ranks of `comm` call."""
    options = bench.options
    if comm.rank == 0:
        _measure_alone(bench, report)
    if "schemes" in options.measure and comm.size > 1:
        for num_ranks in options.ranks or (comm.size,):
            case = (bench.builder, bench.spec, options.batch, num_ranks)
            report.schemes += measure_schemes(*case, comm, bench.backend, options.repeats, bench.precision)


def _set_up(
    options: BenchOptions, precision: Precision, world: Communicator, gpu_number: int, ranks_sharing_cores: int
) -> tuple[Bench, str]:
    """Return what to measure with, and why it computes as it does. ValueError if it cannot be had."""
    if max(options.ranks, default=1) > world.size:
        raise ValueError(
            f"--ranks are {options.ranks}, but {world.size} were started; start mpirun -n {max(options.ranks)}"
        )
    workspace_bytes = int(options.workspace_mib * 2**20) if options.workspace_mib else None
    cudnn = CudnnOptions(options.cudnn_autotune, options.deterministic, workspace_bytes)
    choice, dtype = "cuda" if options.gpu else options.backend, compute_dtype(precision, "float32")
    backend, reason = select_backend(choice, dtype, gpu_number, cudnn, precision == "tf32")
    num_threads = options.threads or default_num_threads(ranks_sharing_cores)
    backend.set_num_threads(num_threads)
    spec = InputSpec(options.crop, CHANNELS, options.classes)
    builder = find_builder(options.model)
    builder(spec)
    return Bench(options, precision, builder, spec, backend, gpu_number, num_threads), reason


def _open_transport(bench: Bench, world: Communicator) -> Transport:
    """Return what moves arrays between the ranks. All ranks call; CollectiveExit if it cannot be had."""
    error: Exception | None = None
    try:
        transport = open_transport(world, bench.backend, ParallelOptions(transport=bench.options.transport))
    except ValueError as caught:
        error = caught
    agree(world, error, USAGE_ERROR)
    return transport


def _facts(bench: Bench, reason: str, num_ranks: int, mpi: str, transport: str) -> dict[str, str]:
    """Return what the report says of machine and case."""
    options, model = bench.options, bench.builder(bench.spec)
    size = f"{options.batch} images of {options.crop} x {options.crop} a rank"
    return {
        "device": device_name(bench.backend),
        "backend": reason,
        "driver": driver(bench.backend),
        "ranks": f"{num_ranks}, threads a rank: {bench.num_threads}",
        "MPI": mpi,
        "transport": transport,
        "network": f"{model.name}, {model.loss} loss, {sum(p.size for p in model.parameters()):,} parameters; {size}",
        "precision": ", ".join(options.precision),
        "repeats": str(options.repeats),
        "software": f"owt_mpi {__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
        "taken": time.strftime("%Y-%m-%d"),
    }


def _measure_alone(bench: Bench, report: Report) -> None:
    """Fill in what is measured on one rank."""
    options, backend, precision = bench.options, bench.backend, bench.precision
    roof, repeats, model = find_roof(report.facts["device"], precision), options.repeats, bench.builder(bench.spec)
    if roof is None:
        report.remark(f"the device's peak rates in {precision} are not described here, so no share of a roof is given")
    if "conformance" in options.measure:
        report.conformance += compare(backend, precision)
    if "convolutions" in options.measure:
        ways = convolution_ways(backend, bench.local_rank)
        report.convolutions += measure_convolutions(model, options.batch, ways, roof, repeats, precision)
    if "step" in options.measure:
        comm = open_transport(SerialCommunicator(), backend, ParallelOptions()).comm
        kernels = planned_kernels(model, options.batch, precision)
        batch = random_batch(bench.spec, options.batch, 0, backend, precision)
        with ExitStack() as stack:
            others: list[Contestant] = [stack.enter_context(other) for other in _pytorch(bench, model, report)]
            others += _replayed(bench, comm, batch, report)
            trainer = make_trainer(bench.builder, bench.spec, options.batch, Plan(1), comm, backend, precision)
            report.steps += measure_step(trainer, batch, kernels, roof, repeats, others, precision)
        del trainer, others  # their memory is for the next
        report.parts += measure_parts(bench.builder, bench.spec, comm, backend, batch, roof, repeats, precision)


def _replayed(bench: Bench, comm: Communicator, batch: Batch, report: Report) -> list[ReplayedStep]:
    """Return our step with --cuda-graph, none where there is no GPU or, with a remark on the reason, it cannot be."""
    if bench.backend.device is None:
        return []
    try:
        case = (bench.builder, bench.spec, bench.options.batch, Plan(1))
        trainer = make_trainer(*case, comm, bench.backend, bench.precision, cuda_graph=True)
    except ValueError as error:
        report.remark(f"no step with --cuda-graph: {error}")
        return []
    return [ReplayedStep(trainer, batch)]


def _pytorch(bench: Bench, model: Model, report: Report) -> list[PyTorchStep]:
    """Return PyTorch's step of the same network, none, with a remark on the reason, where it cannot be had."""
    reason = why_not(model)
    if reason is None:
        device = "cpu" if bench.backend.device is None else "cuda"
        try:
            case = (bench.options.model, bench.spec, bench.options.batch)
            return [PyTorchStep(*case, device, bench.num_threads, bench.precision)]
        except RuntimeError as error:
            reason = str(error)
    report.remark(f"no step of PyTorch's: {reason}")
    return []


if __name__ == "__main__":
    run_command(main)
