"""Say which scheme and group size to train with on a cluster: `python -m owt_mpi.plan --ranks 64 --cluster NAME`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal

from owt_mpi.comm.guard import run_command
from owt_mpi.comm.start import on_ranks
from owt_mpi.command_line import parse_options, refuse_ranks, usage_errors
from owt_mpi.measure.cluster_run import write_cluster
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.head_update import head_update_of, parse_head_update
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel.wire_format import WireDtype
from owt_mpi.planner.choice import (
    FAMILIES,
    PlanCase,
    PlanRow,
    choose,
    family_of,
    plan_rows,
    reason,
    refuse_memory,
    why_left_out,
)
from owt_mpi.planner.cluster_files import load_cluster
from owt_mpi.planner.kernel import PrecisionName
from owt_mpi.planner.simulation import Disturbances
from owt_mpi.planner.traced_step import SyncOptions
from owt_mpi.seeing.plan_plot import draw_plan
from owt_mpi.seeing.plotting import check_installed
from owt_mpi.tables import Table, milliseconds, render, share

DESCRIPTION = """Say which scheme and which group size to train with on a cluster, how long, and with how much memory.

Nothing is trained: the step of training runs on arrays without numbers, and what it computes and exchanges is played on
simulated ranks of the cluster. docs/scaling.md says what is counted.

Examples:
  python -m owt_mpi.plan --model alexnet-owt --ranks 64 --images-per-rank 128 --cluster dgx-a100 --precision tf32
  python -m owt_mpi.plan --ranks 1 2 4 8 16 32 64 --cluster v100-25gbe --plot scaling.svg
  mpirun -n 2 python -m owt_mpi.plan --measure here.toml --images-per-rank 16
  python -m owt_mpi.plan --ranks 2 --images-per-rank 16 --cluster here.toml --jitter 0.05"""

CHANNELS = 3
_MOST_RANKS = 1024
_SYNC_DEFAULTS = asdict(SyncOptions())
_ENDINGS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class PlanOptions:
    """What is planned."""

    model: str = "alexnet-owt"
    """The network: one that `python -m owt_mpi.train` knows, or your own as FILE.py:FUNCTION."""
    ranks: tuple[int, ...] = (8,)
    """Number of ranks (K). Several: of each, the best of data parallelism, one group of all ranks, and
    smaller groups."""
    images_per_rank: int = 128
    """Images a rank trains on in a step (n)."""
    cluster: str = "dgx-a100"
    """The cluster: dgx-a100, h100-infiniband, paper-8xk20, two-core-epyc, v100-25gbe, or your own as FILE.toml."""
    precision: PrecisionName = "fp32"
    """What products are computed in."""
    groups: tuple[int, ...] = ()
    """Sizes of the groups that share a head (G); none given: all that are possible."""
    node_sums: Literal["flat", "sharded"] = "flat"
    """How sums over ranks of several nodes are made, as in training."""
    trunk_sync: TrunkSync = "all-reduce"
    """How ranks that hold the same weights keep them the same, as in training."""
    wire_dtype: WireDtype = "auto"
    """Type in which their gradients cross, as in training."""
    bucket_mib: float = 4.0
    """Size of the pieces in which gradients are summed, as in training."""
    head_update: str = "per-iteration"
    """When the head learns: per-iteration, per-pass or every-N-passes."""
    crop: int = 224
    """Side of the images."""
    classes: int = 1000
    """Number of classes."""
    epochs: int = 0
    """Also say how many hours so many epochs take; 0: of a step alone."""
    dataset_images: int = 1_281_167
    """Images of an epoch: ImageNet's, of 2012."""
    stragglers: int = 0
    """So many ranks, drawn by chance, compute more slowly."""
    straggling: float = 1.5
    """How many times as long they compute."""
    jitter: float = 0.0
    """Stretches of work last longer by chance, by this share of their time times the size of a normal number."""
    slow_link: float = 1.0
    """The first rank's links take so many times as long."""
    seed: int = 0
    """What chance is drawn from."""
    markdown: bool = False
    """Print tables as Markdown."""
    json: str = ""
    """Also write all rows to this file."""
    measure: str = ""
    """Plan nothing: measure the ranks at hand (mpirun -n K) with this network and batch, and write them to this
    FILE.toml, to be given to --cluster. Takes up to a minute."""
    plot: str = ""
    """Also draw them into this file, .png, .svg or .pdf (needs matplotlib)."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.ranks or not all(1 <= ranks <= _MOST_RANKS for ranks in self.ranks):
            raise ValueError(f"--ranks are {list(self.ranks)}; give one number from 1 to {_MOST_RANKS}, or several")
        for name, value in (("images-per-rank", self.images_per_rank), ("crop", self.crop), ("classes", self.classes)):
            if not 1 <= value <= 1 << 20:
                raise ValueError(f"--{name} is {value}, but must be a number from 1 to {1 << 20}")
        for name, value, at_least in (("epochs", self.epochs, 0), ("dataset-images", self.dataset_images, 1)):
            if not at_least <= value <= 1 << 40:
                raise ValueError(f"--{name} is {value}, but must be a number from {at_least} to {1 << 40}")
        if any(size < 2 for size in self.groups):
            raise ValueError(f"--groups are {list(self.groups)}, but ranks share a head in groups of 2 or more")
        if not 0 <= self.stragglers <= min(self.ranks):
            raise ValueError(f"--stragglers is {self.stragglers}, but must be from 0 to the {min(self.ranks)} ranks")
        for name, factor, least in (
            ("straggling", self.straggling, 1.0),
            ("slow-link", self.slow_link, 1.0),
            ("jitter", self.jitter, 0.0),
        ):
            if not (isfinite(factor) and least <= factor <= 1000):
                raise ValueError(f"--{name} is {factor}, but must lie between {least:g} and 1000")
        if not 0 < self.bucket_mib < 1 << 20:
            raise ValueError(f"--bucket-mib is {self.bucket_mib}, but must be a number above 0 and below 2^20")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}, but must be 0 or more")
        self._check_files()

    def _check_files(self) -> None:
        for name, file in (("json", self.json), ("plot", self.plot), ("measure", self.measure)):
            if file and not Path(file).resolve().parent.is_dir():
                raise ValueError(f"--{name} {file}: there is no folder {Path(file).resolve().parent}")
        if self.measure and not self.measure.endswith(".toml"):
            raise ValueError(f"--measure {self.measure} must end in .toml")
        if self.plot:
            if Path(self.plot).suffix not in _ENDINGS:
                raise ValueError(f"--plot {self.plot} does not say a format; let it end in {', '.join(_ENDINGS)}")
            check_installed()


def main() -> int:
    """Parse the command line, plan, and return the exit code."""
    with usage_errors():
        options = parse_options(PlanOptions(), sys.argv[1:], "python -m owt_mpi.plan", DESCRIPTION)
        options.check()
        if not options.measure:
            refuse_ranks("a plan is made by one process, but {size} ranks were started; run it without mpirun")
        case = make_case(options)
        if options.measure:
            cases = (Path(options.measure), case.builder, case.spec, case.images, case.precision)
            on_ranks(0, lambda world, sharing: write_cluster(*cases, world, sharing))
            return 0
        by_ranks = {ranks: plan_rows(case, ranks, options.groups) for ranks in options.ranks}
        for rows in by_ranks.values():
            refuse_memory(case, rows)
    chosen = {ranks: choose(rows) for ranks, rows in by_ranks.items()}
    for ranks, rows in by_ranks.items():
        if len(by_ranks) == 1:
            said = [reason(rows, chosen[ranks]), why_left_out(case, ranks, options.groups)]
            hours = [_hours(options, row) for row in rows]
            print(render(_with_hours(options, _table(case, rows, said), hours), options.markdown), end="")
    if len(by_ranks) > 1:
        hours = [_hours(options, row) for row in chosen.values()]
        print(render(_with_hours(options, _scaling_table(case, by_ranks), hours), options.markdown), end="")
    everything = [row for rows in by_ranks.values() for row in rows]
    if options.json:
        choices = [row.options for row in chosen.values()]
        content = {"options": asdict(options), "rows": [asdict(row) for row in everything], "chosen": choices}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        draw_plan(everything, _title(case), Path(options.plot))
    return 0


def make_case(options: PlanOptions) -> PlanCase:
    """Return what is planned. ValueError if there is no such model, cluster or update."""
    spec = InputSpec(options.crop, CHANNELS, options.classes)
    builder = find_builder(options.model)
    builder(spec)
    straggling = options.straggling if options.stragglers else 1.0
    chance = Disturbances(options.stragglers, straggling, options.jitter, options.slow_link, options.seed)
    update = head_update_of(parse_head_update(options.head_update), 1)
    cluster = replace(load_cluster(options.cluster), sums_by_level=options.node_sums == "sharded")
    sync = SyncOptions(options.trunk_sync, options.wire_dtype, options.bucket_mib)
    return PlanCase(builder, spec, options.images_per_rank, cluster, options.precision, update, chance, sync)


def _hours(options: PlanOptions, row: PlanRow) -> float:
    return options.epochs * options.dataset_images / row.images_per_second / 3600


def _with_hours(options: PlanOptions, table: Table, hours: Sequence[float]) -> Table:
    """Return the table with a last column of the hours of all epochs, if any are planned."""
    if not options.epochs:
        return table
    lines = [[*line, f"{each:,.2f}"] for line, each in zip(table.lines, hours, strict=True)]
    return replace(table, headings=(*table.headings, f"hours of {options.epochs} epochs"), lines=lines)


def _title(case: PlanCase) -> str:
    name = case.builder(case.spec).name
    kept = asdict(case.sync)
    more = [f"{option.replace('_', ' ')} {value}" for option, value in kept.items() if value != _SYNC_DEFAULTS[option]]
    return ", ".join([name, f"{case.images} images a rank", case.precision, *more, case.cluster.name])


def _notes(case: PlanCase) -> list[str]:
    fitted = [f"Fitted, not published: {case.cluster.fitted}."] if case.cluster.fitted else []
    return ["Simulated from a description, not measured.", *fitted]


def _table(case: PlanCase, rows: Sequence[PlanRow], said: Sequence[str]) -> Table:
    """Return every scheme and group size on one number of ranks."""
    ranks = rows[0].ranks
    return Table(
        f"{_title(case)}, K = {ranks}",
        ("scheme", "G", "ms a step", "computing", "exposed", "images/s", "efficiency", "GB a rank", "MB received"),
        [
            [
                row.scheme,
                str(row.group_size),
                milliseconds(row.seconds),
                milliseconds(row.compute_seconds),
                milliseconds(row.exposed_seconds),
                f"{row.images_per_second:,.0f}",
                share(row.efficiency, 1.0),
                f"{row.memory_bytes / 1e9:.2f}{'' if row.fits else ' (too much)'}",
                f"{row.received / 1e6:,.1f}",
            ]
            for row in rows
        ],
        [*filter(None, said), *_notes(case)],
    )


def _scaling_table(case: PlanCase, by_ranks: dict[int, list[PlanRow]]) -> Table:
    """Return the best of each way to spread the head, for each number of ranks."""
    lines = []
    for ranks, rows in by_ranks.items():
        best = choose(rows)
        lines.append(
            [str(ranks), *(_cell(rows, family) for family in FAMILIES), best.options, share(best.efficiency, 1.0)]
        )
    headings = ("K", *(f"{family}, ms" for family in FAMILIES), "choice", "efficiency")
    return Table(_title(case), headings, lines, _notes(case))


def _cell(rows: Sequence[PlanRow], family: str) -> str:
    found = [row for row in rows if family_of(row) == family and row.fits]
    if not found:
        return "-"
    best = min(found, key=lambda row: row.seconds)
    which = {"dp": "", "one group": f" ({best.scheme})"}.get(family, f" ({best.scheme}, {best.group_size})")
    return f"{milliseconds(best.seconds)}{which}"


if __name__ == "__main__":
    run_command(main)
