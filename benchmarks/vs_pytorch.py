"""Ours beside PyTorch, and beside what bounds it, on the same cores: `python -m benchmarks.vs_pytorch --help`.

Both sides of each case are alive at once and take turns. More is better in every ratio.
"""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import cases_parts, cases_steps
from benchmarks.cases import QUICK, UNITS, Case, Row, Setting, Sizes, row_of

CaseName = Literal[
    "one-process", "two-ranks", "two-ranks-few-images", "vgg11", "reading-and-training", "memory", "convolutions",
    "loader", "start-up", "bf16", "bf16-pytorch",
]  # fmt: skip
CASES = (
    Case("one-process", 1.15, 1.25, cases_steps.one_process),
    Case("two-ranks", 1.35, 1.45, cases_steps.two_ranks),
    Case("two-ranks-few-images", 1.6, 1.9, cases_steps.two_ranks_few_images),
    Case("vgg11", 1.3, 1.5, cases_steps.vgg11),
    Case("reading-and-training", 0.95, 0.99, cases_parts.reading_and_training, needs_pytorch=False),
    Case("memory", 1.5, 2.0, cases_steps.memory),
    Case("convolutions", 0.95, 0.98, cases_parts.convolutions, needs_pytorch=False),
    Case("loader", 0.5, 0.8, cases_parts.reading, needs_pytorch=False),
    Case("start-up", 1.0, 2.0, cases_parts.start_up),
    Case("bf16", 1.6, None, cases_steps.half_beside_own_float, needs_pytorch=False),
    Case("bf16-pytorch", 1.15, None, cases_steps.half_beside_pytorch),
)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    case: tuple[CaseName, ...] = get_args(CaseName)
    """The rows to measure."""
    repeats: int = 5
    """Turns that count of each side, after one or two that do not."""
    scheme: Literal["c", "d"] = "c"
    """What two ranks of ours train by."""
    quick: bool = False
    """A look whether all runs, in seconds: small images and batches, which say nothing of speed."""
    json: Path | None = None
    """Also write the rows to this file."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.vs_pytorch", description=__doc__)
    chosen = [case for case in CASES if case.name in options.case]
    if options.repeats < 1 or not chosen:
        sys.exit("error: --repeats must be at least 1, and --case must name some")
    if importlib.util.find_spec("torch") is None and any(case.needs_pytorch for case in chosen):
        others = " ".join(case.name for case in CASES if not case.needs_pytorch)
        sys.exit(
            "error: PyTorch is not installed here; pip install 'owt_mpi[peers]', or pip install torch==2.13.0; "
            f"or choose rows that need none: --case {others}"
        )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(QUICK if options.quick else Sizes(), options.repeats, options.scheme, Path(folder))
        for case in chosen:
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            rows.append(row_of(case, setting))
            if options.json is not None:  # each time: what is measured is kept, come what may
                content = json.dumps([asdict(row) for row in rows], indent=1)
                options.json.write_text(content + "\n", encoding="utf-8")
    print_table(rows)


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, and below what they were measured with."""
    table = Table(title=f"Ours and theirs in turns, medians of {rows[0].repeats} (least-largest)", show_lines=True)
    for column in ("case", "unit", "ours", "theirs", "ratio", "goal", "stretch", "ours is", "theirs is"):
        is_number = column in ("ours", "theirs", "ratio", "goal", "stretch")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number)
    for row in rows:
        scale, unit = UNITS[row.unit]
        table.add_row(
            row.case,
            unit,
            _with_range(row.ours, row.ours_range, scale),
            _with_range(row.theirs, row.theirs_range, scale),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            f"{row.goal:g}",
            "" if row.stretch is None else f"{row.stretch:g}",
            row.ours_is,
            row.theirs_is,
        )
    console = Console(width=max(180, Console().width))  # a table cut to fit is no table
    console.print(table)
    versions = dict.fromkeys(pair for row in rows for pair in row.versions.items())
    for name, fact in (("machine", rows[0].machine), *versions):
        console.print(f"{name}: {fact}", highlight=False, soft_wrap=True)


def _with_range(value: float | None, limits: tuple[float, float] | None, scale: float) -> str:
    if value is None or limits is None:
        return "-"
    digits = 1 if value / scale >= 20 else 3
    low, high = (f"{each / scale:.{digits}f}" for each in limits)
    return f"{value / scale:.{digits}f}" + ("" if low == high else f" ({low}-{high})")


if __name__ == "__main__":
    main()
