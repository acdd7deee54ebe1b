"""The curves of runs as one CSV file, to be opened by any program that has tables."""

import csv
from collections.abc import Sequence
from pathlib import Path

from owt_mpi.seeing.run_folder import Run

COLUMNS = (
    "step", "epoch", "loss", "top1", "top5", "images", "trunk_lr", "head_lr", "images_per_second", "data_wait",
    "exchange_wait", "loss_scale", "skipped_updates",
)  # fmt: skip


def write_csv(file: Path, runs: Sequence[Run]) -> None:
    """Write every record of training and validation to `file`, in the order of steps; cells without a number are empty.

    `seconds` are those of training since the run first began.
    """
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["run", "kind", "seconds", *COLUMNS])
        for run in runs:
            records = [("train", each) for each in run.metrics.train]
            records += [("validation", each) for each in run.metrics.validation]
            for kind, each in sorted(records, key=lambda record: record[1].step):
                numbers = {**each.numbers, "step": each.step}
                writer.writerow([run.name, kind, _cell(each.seconds), *(_cell(numbers.get(name)) for name in COLUMNS)])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
