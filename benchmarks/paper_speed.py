"""The speedups of the paper's Table 1 beside those that the planner gives for its machine: `paper-8xk20`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.choice import PlanCase, step_timing
from owt_mpi.planner.cluster_files import load_cluster
from owt_mpi.tables import Table, render

IMAGES, EPOCHS, EPOCH_IMAGES = 128, 90, 1_281_167
REPORTED_HOURS = 98.05  # one GPU; figures of the paper are as remembered
REPORTED = {(2, 2 * IMAGES): 1.95, (2, IMAGES): 1.93, (4, 4 * IMAGES): 3.74, (4, IMAGES): 3.66}
REPORTED |= {(8, 8 * IMAGES): 6.25, (8, IMAGES): 6.16}  # (GPUs, images of an update of the head): speedup
SCHEMES = ("dp", "a", "b", "c", "d")
ALTERNATIVES = [Plan(8, scheme, size) for size in (4, 2) for scheme in "abcd"]


@dataclass(frozen=True)
class SpeedRow:
    """Speedups over one GPU by scheme, with a head batch of `head_images`; `reported` is the paper's, of (b)."""

    gpus: int
    head_images: int
    reported: float
    speedups: dict[str, float]

    @property
    def error(self) -> float:
        """How far the planner's (b) is off."""
        return self.speedups["b"] / self.reported - 1


def case(update: HeadUpdate) -> PlanCase:
    builder, spec = find_builder("alexnet-owt"), InputSpec(224, 3, 1000)
    return PlanCase(builder, spec, IMAGES, load_cluster("paper-8xk20"), update=update)


def seconds(plan: Plan, update: HeadUpdate | None = None) -> float:
    return step_timing(case(update or HeadUpdate()), plan).seconds


def speed_rows() -> list[SpeedRow]:
    alone, rows = seconds(Plan(1)), []
    for (gpus, head_images), reported in REPORTED.items():
        is_variable = head_images == IMAGES
        schemes = [scheme for scheme in SCHEMES if scheme in "bcd" or not is_variable]  # which have several passes
        update = HeadUpdate(1 if is_variable else 0)
        speedups = {scheme: gpus * alone / seconds(Plan(gpus, scheme), update) for scheme in schemes}
        rows.append(SpeedRow(gpus, head_images, reported, speedups))
    return rows


def group_speedups() -> dict[str, dict[int, float]]:
    """Return the speedups of 8 GPUs in groups, by scheme and group size."""
    alone, found = seconds(Plan(1)), dict[str, dict[int, float]]()
    for plan in ALTERNATIVES:
        found.setdefault(plan.scheme, {})[plan.group_size] = 8 * alone / seconds(plan)
    return found


def tables(rows: Sequence[SpeedRow], groups: dict[str, dict[int, float]], hours: float) -> list[Table]:
    lines = [
        [
            str(row.gpus),
            f"{row.gpus * IMAGES}, {row.head_images}",
            f"{row.reported:.2f}",
            *(f"{row.speedups[scheme]:.2f}" if scheme in row.speedups else "-" for scheme in SCHEMES),
            f"{row.error:+.1%}",
        ]
        for row in rows
    ]
    headings = ("GPUs", "batch (conv, FC)", "paper", *(f"({s})" if s != "dp" else s for s in SCHEMES), "(b) - paper")
    note = f"One GPU: {hours:.1f} hours for {EPOCHS} epochs; as reported in the paper, {REPORTED_HOURS}."
    spread = [[f"({scheme})", *(f"{found:.2f}" for found in each.values())] for scheme, each in groups.items()]
    return [
        Table("Speedups of Table 1, as reported in the paper, and by the planner", headings, lines, [note]),
        Table("Speedups of 8 GPUs with the head split in groups", ("scheme", "G = 4", "G = 2"), spread),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    rows, groups = speed_rows(), group_speedups()
    hours = EPOCHS * EPOCH_IMAGES / IMAGES * seconds(Plan(1)) / 3600
    print("\n".join(render(table, args.markdown) for table in tables(rows, groups, hours)), end="")
    if args.json:
        content = {"rows": [asdict(row) for row in rows], "groups": groups, "hours": hours}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
