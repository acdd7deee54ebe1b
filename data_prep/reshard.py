"""Write a finished data set again in another number of shards: `python -m data_prep.reshard --help`.

Sample i stays sample i, so training sees the same batches. Exit status: 0 written or there already, 2 wrong options, 3
unusable data or a full disk.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from data_prep.rewrite import Rewrite, SplitOrder, run_command
from owt_mpi.data.manifest import Manifest


@dataclass(frozen=True)
class Options:
    """Write a finished data set again in another number of shards. Sample i stays sample i."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The data set. It is only read."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write."""
    shards: int
    """Number of files of the training images; other splits get as many as go with it, so that files are as large."""
    workers: int | None = None
    """Number of processes; by default one for each CPU."""
    json: Path | None = None
    """Write a summary to this file."""


def plan_reshard(options: Options) -> Rewrite:
    """Return what the new data set is. ValueError for a number of shards that cannot be."""
    manifest = Manifest.read(options.folder)
    train = manifest.splits["train"].count
    if not 1 <= options.shards <= train:
        raise ValueError(f"--shards is {options.shards}; {train} training images fill 1 to {train} shards")
    splits = {}
    for split, entry in manifest.splits.items():
        num_shards = options.shards if split == "train" else -(-entry.count * options.shards // train)
        splits[split] = SplitOrder(np.zeros(entry.count, np.int64), np.arange(entry.count), num_shards)
    return Rewrite(
        folders=(options.folder,),
        manifests=(manifest,),
        splits=splits,
        class_names=manifest.class_names,
        class_titles=manifest.class_titles,
        image_shape=manifest.image_shape,
        seed=manifest.seed,
        options={"resharded": manifest.options, "shards": options.shards},
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; wrong syntax exits with 2."""
    options = tyro.cli(
        Options,
        prog="python -m data_prep.reshard",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return run_command("reshard", lambda reporter: plan_reshard(options), options.out, options.workers, options.json)


if __name__ == "__main__":
    sys.exit(main())
