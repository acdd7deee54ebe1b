"""Bytes a rank receives in a step, for every scheme, number of ranks and size of groups: worked out from shapes."""

import argparse
import json
from pathlib import Path

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.summary import summarise

MODEL, SPEC, IMAGES_PER_RANK = "alexnet-owt", InputSpec(224, 3, 1000), 128
NUM_RANKS = (2, 4, 8)
PARTS = {
    "boundary": "activations to the head and their gradients",
    "head": "activations within the head and their gradients",
    "trunk": "gradients of the trunk",
    "replicas": "gradients of the head",
}

Row = dict[str, str | int]


def plans(num_ranks: int) -> list[Plan]:
    sizes = [size for size in NUM_RANKS if size <= num_ranks]
    return [Plan(num_ranks, "dp"), *(Plan(num_ranks, scheme, size) for size in sizes for scheme in ("c", "d"))]


def row(plan: Plan) -> Row:
    def received(comm: Communicator) -> dict[str, int]:
        model = MODELS[MODEL](SPEC)
        return summarise(model, make_layout(comm, plan), IMAGES_PER_RANK, np.dtype(np.float32)).received_bytes

    parts = run_ranks(plan.num_ranks, received)[0]
    scheme = "a, b, c" if plan.scheme == "c" else plan.scheme  # the three move the same bytes, in other portions
    row: Row = {"ranks": plan.num_ranks, "scheme": scheme, "group_size": plan.ranks_sharing_head}
    return {**row, **{part: parts[name] for part, name in PARTS.items()}, "total": sum(parts.values())}


def rows() -> list[Row]:
    return [row(plan) for num_ranks in NUM_RANKS for plan in plans(num_ranks)]


def markdown(rows: list[Row]) -> str:
    lines = ["| K | scheme | G | boundary | head | trunk | replicas | total |", "|---|---|---|---|---|---|---|---|"]
    for each in rows:
        megabytes = [f"{int(each[column]) / 1e6:.1f}" for column in (*PARTS, "total")]
        cells = [str(each["ranks"]), str(each["scheme"]), str(each["group_size"]), *megabytes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="also write the rows, in bytes, to this file")
    args = parser.parse_args()
    table = rows()
    print(f"{MODEL}, {IMAGES_PER_RANK} images a rank, float32; MB a rank receives in a step\n")
    print(markdown(table))
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
