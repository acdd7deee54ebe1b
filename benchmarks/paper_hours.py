"""The hours of the paper's runs, presets `paper-1gpu` to `paper-8gpu`, that the planner gives for each cluster."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper_speed import EPOCH_IMAGES
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.head_update import head_update_of, parse_head_update
from owt_mpi.parallel.layout import images_per_rank
from owt_mpi.planner.choice import PlanCase, step_timing
from owt_mpi.planner.cluster_files import cluster_names, load_cluster
from owt_mpi.preset_files import load_preset
from owt_mpi.tables import Table, render
from owt_mpi.training.setup import make_plan

RANKS = (1, 2, 4, 8)
REPORTED = (98.05, 50.90, 26.78, 15.91)  # as remembered


def hours(cluster: str, ranks: int) -> float:
    """Return the hours of the preset for so many ranks, on the images of ImageNet 2012."""
    config = load_preset(f"paper-{ranks}gpu")
    spec, update = InputSpec(config.model.crop, 3, 1000), parse_head_update(config.parallel.head_update)
    images = images_per_rank(config.batch.global_batch, ranks)
    builder = find_builder(config.model.model)
    case = PlanCase(builder, spec, images, load_cluster(cluster), update=head_update_of(update, 1))
    steps = config.batch.epochs * EPOCH_IMAGES / config.batch.global_batch
    return steps * step_timing(case, make_plan(config, ranks)).seconds / 3600


def table(found: dict[str, Sequence[float]]) -> Table:
    lines = [
        [name, *(f"{each:.2f}" for each in of_ranks), f"{of_ranks[0] / of_ranks[-1]:.2f}"]
        for name, of_ranks in found.items()
    ]
    headings = ("machine", *(f"paper-{ranks}gpu" for ranks in RANKS), "speedup of 8")
    return Table("Hours of 90 epochs in fp32", headings, lines, ["Simulated from descriptions, not measured."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, help="also write the hours to this file")
    args = parser.parse_args()
    clusters = [name for name in cluster_names() if load_cluster(name).device.is_gpu]
    found = {name: [hours(name, ranks) for ranks in RANKS] for name in clusters}
    print(render(table({"the paper, as reported": REPORTED, **found}), args.markdown), end="")
    if args.json:
        content = {name: dict(zip(map(str, RANKS), of_ranks, strict=True)) for name, of_ranks in found.items()}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
