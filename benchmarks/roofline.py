"""The roofline of a training step: the least time of each kernel on GPUs, and of the exchange on their links.

Worked out from shapes and published peak rates; nothing is measured.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan, SchemeName
from owt_mpi.planner.costs import step_kernels
from owt_mpi.planner.devices import DEVICES, Bound, Device
from owt_mpi.planner.exchange import exchange_seconds, exchanges, layout_of
from owt_mpi.planner.fusing import FUSINGS, Fusing, fused
from owt_mpi.planner.kernel import PRECISIONS, Kernel, PrecisionName, step_bytes, step_flop

FUSED: Fusing = "bias + ReLU"
NUM_RANKS = (2, 4, 8)
SCHEMES: tuple[SchemeName, ...] = ("dp", "a", "b", "c", "d")


@dataclass(frozen=True)
class KernelRow:
    """One kernel on one device in one precision; FLOP and bytes are of all its runs in a step."""

    kernel: str
    precision: PrecisionName
    device: str
    flop: int
    least_bytes: int
    flop_per_byte: float
    bound: Bound
    seconds: float


@dataclass(frozen=True)
class StepRow:
    """A step with one degree of fusing."""

    fused: Fusing
    precision: PrecisionName
    device: str
    flop: int
    least_bytes: int
    seconds: float
    memory_bound_seconds: float
    images_per_second: float


@dataclass(frozen=True)
class ExchangeRow:
    """A scheme on K ranks: the compute of a rank's step, and its exchange with nothing hidden."""

    ranks: int
    scheme: SchemeName
    precision: PrecisionName
    device: str
    link: str
    compute_seconds: float
    received_bytes: dict[str, int]
    exchange_seconds: float


@dataclass(frozen=True)
class Case:
    """What was asked for."""

    model: Model
    images: int
    devices: tuple[Device, ...]
    precisions: tuple[PrecisionName, ...]

    def columns(self) -> Iterator[tuple[PrecisionName, Device]]:
        """Yield the pairs of precision and device, devices of one precision side by side."""
        yield from ((precision, device) for precision in self.precisions for device in self.devices)


def kernels(case: Case, plan: Plan, precision: PrecisionName, fusing: Fusing = FUSED) -> list[Kernel]:
    return fused(step_kernels(case.model, layout_of(plan), case.images, precision), fusing)


def kernel_rows(case: Case) -> list[KernelRow]:
    return [
        KernelRow(
            kernel=f"{kernel.layer} {kernel.work}",
            precision=precision,
            device=device.name,
            flop=kernel.flop * kernel.runs,
            least_bytes=kernel.num_bytes * kernel.runs,
            flop_per_byte=kernel.intensity,
            bound=device.bound(kernel, precision),
            seconds=device.seconds(kernel, precision) * kernel.runs,
        )
        for precision, device in case.columns()
        for kernel in kernels(case, Plan(1), precision)
    ]


def step_rows(case: Case) -> list[StepRow]:
    rows = []
    for precision, device in case.columns():
        for fusing in FUSINGS:
            step = kernels(case, Plan(1), precision, fusing)
            seconds = device.step_seconds(step, precision)
            slow = (kernel for kernel in step if device.bound(kernel, precision) == "memory")
            rows.append(
                StepRow(
                    fused=fusing,
                    precision=precision,
                    device=device.name,
                    flop=step_flop(step),
                    least_bytes=step_bytes(step),
                    seconds=seconds,
                    memory_bound_seconds=device.step_seconds(slow, precision),
                    images_per_second=case.images / seconds,
                )
            )
    return rows


def exchange_rows(case: Case) -> list[ExchangeRow]:
    rows = []
    for precision in case.precisions:
        for plan in (Plan(num_ranks, scheme) for num_ranks in NUM_RANKS for scheme in SCHEMES):
            plan.check(case.model, case.images)
            parts = exchanges(case.model, layout_of(plan), case.images, precision)
            step = kernels(case, plan, precision)
            rows += [
                ExchangeRow(
                    ranks=plan.num_ranks,
                    scheme=plan.scheme,
                    precision=precision,
                    device=device.name,
                    link=link.name,
                    compute_seconds=device.step_seconds(step, precision),
                    received_bytes={part.part: part.received_bytes for part in parts},
                    exchange_seconds=exchange_seconds(parts, link),
                )
                for device in case.devices
                for link in device.links
            ]
    return rows


def kernel_table(case: Case, rows: Sequence[KernelRow], steps: Sequence[StepRow]) -> list[str]:
    """Return the kernels as lines of Markdown, with the step and its images a second below."""
    found = {(row.kernel, row.precision, row.device): row for row in rows}
    totals = {(row.precision, row.device): row for row in steps if row.fused == FUSED}
    headings, first = ["kernel", "GFLOP"], case.devices[0].name
    for precision in case.precisions:
        headings += [f"{precision} MB", f"{precision} FLOP/byte", *_times(case, precision)]
    lines = [headings]
    for name in dict.fromkeys(row.kernel for row in rows):
        cells = [name, f"{found[name, case.precisions[0], first].flop / 1e9:.2f}"]
        for precision in case.precisions:
            row = found[name, precision, first]
            cells += [f"{row.least_bytes / 1e6:.1f}", f"{row.flop_per_byte:.1f}"]
            for device in case.devices:
                row = found[name, precision, device.name]
                cells.append(f"{row.seconds * 1e3:.3f} {row.bound[0]}")
        lines.append(cells)
    total = totals[case.precisions[0], first]
    sums, shares, speeds = ["**step**", f"{total.flop / 1e9:.1f}"], ["of it memory-bound", ""], ["images a second", ""]
    for precision in case.precisions:
        total = totals[precision, first]
        sums += [f"{total.least_bytes / 1e6:.1f}", f"{total.flop / total.least_bytes:.1f}"]
        shares, speeds = [*shares, "", ""], [*speeds, "", ""]
        for device in case.devices:
            total = totals[precision, device.name]
            sums.append(f"{total.seconds * 1e3:.3f}")
            shares.append(f"{total.memory_bound_seconds / total.seconds:.0%}")
            speeds.append(f"{total.images_per_second:,.0f}")
    return _markdown([*lines, sums, shares, speeds])


def fusing_table(case: Case, steps: Sequence[StepRow]) -> list[str]:
    """Return what each degree of fusing leaves to move."""
    found = {(row.fused, row.precision, row.device): row for row in steps}
    headings = ["fused"]
    for precision in case.precisions:
        headings += [f"{precision} MB", f"{precision} saved", *_times(case, precision)]
    lines = [headings]
    for fusing in FUSINGS:
        cells = [f"... {fusing}" if fusing not in FUSINGS[:2] else fusing]
        for precision in case.precisions:
            row, whole = (found[f, precision, case.devices[0].name] for f in (fusing, FUSINGS[0]))
            cells += [f"{row.least_bytes / 1e6:.1f}", f"{1 - row.least_bytes / whole.least_bytes:.1%}"]
            cells += [f"{found[fusing, precision, device.name].seconds * 1e3:.3f}" for device in case.devices]
        lines.append(cells)
    return _markdown(lines)


def exchange_table(case: Case, precision: PrecisionName, rows: Sequence[ExchangeRow]) -> list[str]:
    """Return compute and exchange of each scheme; a star marks the least sum of both for K ranks and a link."""
    rows = [row for row in rows if row.precision == precision]
    links = [(device, link) for device in case.devices for link in device.links]
    headings = ["K", "scheme", "MB received"]
    for device in case.devices:
        headings += [f"{_short(device)} compute ms", *(f"{link.name} ms" for link in device.links)]
    lines = [headings]
    best = {(row.ranks, row.device, row.link): row.scheme for row in sorted(rows, key=_unhidden, reverse=True)}
    for num_ranks, scheme in dict.fromkeys((row.ranks, row.scheme) for row in rows):
        own = {(row.device, row.link): row for row in rows if (row.ranks, row.scheme) == (num_ranks, scheme)}
        cells = [str(num_ranks), scheme, f"{sum(next(iter(own.values())).received_bytes.values()) / 1e6:.1f}"]
        for device, link in links:
            row = own[device.name, link.name]
            if link == device.links[0]:
                cells.append(f"{row.compute_seconds * 1e3:.3f}")
            star = " \\*" if best[num_ranks, device.name, link.name] == scheme else ""
            cells.append(f"{row.exchange_seconds * 1e3:.3f}{star}")
        lines.append(cells)
    return _markdown(lines)


def report(case: Case, steps: Sequence[StepRow], by_kernel: Sequence[KernelRow], moved: Sequence[ExchangeRow]) -> str:
    """Return all tables."""
    size = f"{case.images} images of {case.model.spec.crop} x {case.model.spec.crop}"
    parts = [
        f"{case.model.name}, a step of {size} on one GPU by kernel, bound by compute (c) or by memory (m)",
        *kernel_table(case, by_kernel, steps),
        "",
        "The step by what is fused, each line with those before it",
        *fusing_table(case, steps),
    ]
    legend = "compute of a rank, exchange with nothing hidden, \\* where their sum is least"
    for precision in case.precisions:
        parts += [
            "",
            f"{precision}, K ranks of {case.images} images each: {legend}",
            *exchange_table(case, precision, moved),
        ]
    return "\n".join([line if line.startswith("|") or not line else f"{line}:\n" for line in parts])


def _unhidden(row: ExchangeRow) -> float:
    return row.compute_seconds + row.exchange_seconds


def _times(case: Case, precision: PrecisionName) -> list[str]:
    return [f"{_short(device)} {precision} ms" for device in case.devices]


def _short(device: Device) -> str:
    return device.name.split()[0]


def _markdown(lines: Iterable[Sequence[str]]) -> list[str]:
    heading, *rows = (f"| {' | '.join(cells)} |" for cells in lines)
    return [heading, "|" + "---|" * (heading.count("|") - 1), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="alexnet-owt", help="a shipped network, or FILE.py:FUNCTION")
    parser.add_argument("--batch", type=int, default=128, help="images of a GPU in a step")
    parser.add_argument("--crop", type=int, default=224, help="side of the images")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=["a100", "h100"])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["tf32", "bf16"])
    parser.add_argument("--json", help="also write the rows of all tables to this file")
    args = parser.parse_args()
    try:
        case = make_case(args.model, args.batch, args.crop, args.devices, args.precision)
        steps, by_kernel, moved = step_rows(case), kernel_rows(case), exchange_rows(case)
    except ValueError as error:
        parser.error(str(error))
    print(report(case, steps, by_kernel, moved))
    if args.json:
        tables: dict[str, Sequence[KernelRow | StepRow | ExchangeRow]] = {
            "kernels": by_kernel,
            "steps": steps,
            "exchange": moved,
        }
        content = {name: [asdict(row) for row in rows] for name, rows in tables.items()}
        settings = {"model": case.model.name, "images": case.images, "crop": args.crop}
        Path(args.json).write_text(json.dumps({**settings, **content}, indent=1) + "\n", encoding="utf-8")


def make_case(model: str, images: int, crop: int, devices: Sequence[str], precisions: Sequence[PrecisionName]) -> Case:
    """Return the case. ValueError where a device has no units for a precision, or there is no such model."""
    if images < 1:
        raise ValueError(f"--batch is {images}, but a step needs 1 image or more")
    chosen = tuple(DEVICES[name] for name in devices)
    for precision in precisions:
        for device in chosen:
            device.check(precision)
    return Case(find_builder(model)(InputSpec(crop, 3, 1000)), images, chosen, tuple(precisions))


if __name__ == "__main__":
    main()
