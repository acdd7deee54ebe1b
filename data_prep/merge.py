"""Unite two finished data sets: `python -m data_prep.merge --help`.

Exit status: 0 written or there already, 2 wrong options, 3 unusable data or a full disk.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from data_prep.progress import Reporter
from data_prep.rewrite import Rewrite, SplitOrder, run_command
from owt_mpi import rng
from owt_mpi.data.manifest import ImageShape, Manifest

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Options:
    """Unite two finished data sets: classes by their names, splits by theirs, samples in random order."""

    first: Annotated[Path, tyro.conf.arg(metavar="A")]
    """A data set. It is only read."""
    second: Annotated[Path, tyro.conf.arg(metavar="B")]
    """Another, of the same storage, channels and, where it is raw, size."""
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    """The folder to write."""
    seed: int = 0
    """Decides the order of the samples."""
    workers: int | None = None
    """Number of processes; by default one for each CPU."""
    json: Path | None = None
    """Write a summary to this file."""


def plan_merge(options: Options, reporter: Reporter) -> Rewrite:
    """Return what the new data set is. ValueError for data sets that do not go together."""
    folders = (options.first, options.second)
    manifests = (Manifest.read(options.first), Manifest.read(options.second))
    shape = _common_shape(folders, manifests)
    names = tuple(sorted({name for manifest in manifests for name in manifest.class_names}))
    titles: dict[str, str] = {}
    for manifest in reversed(manifests):  # the first one's count
        titles.update(zip(manifest.class_names, manifest.class_titles, strict=False))
    splits = [split for split in SPLITS if any(split in manifest.splits for manifest in manifests)]
    for folder, manifest in zip(folders, manifests, strict=True):
        reporter.say(f"{folder}: {len(manifest.class_names)} of {len(names)} classes")
        for split in splits:
            if split not in manifest.splits:
                reporter.warn(f"{folder} has no split {split!r}: the new one's is that of the other")
    return Rewrite(
        folders=folders,
        manifests=manifests,
        splits={split: _order(split, manifests, options.seed) for split in splits},
        class_names=names,
        class_titles=tuple(titles.get(name, "") for name in names) if titles else (),
        image_shape=shape,
        seed=options.seed,
        options={"merged": [manifest.options for manifest in manifests], "seed": options.seed},
    )


def _common_shape(folders: tuple[Path, ...], manifests: tuple[Manifest, Manifest]) -> ImageShape:
    """Return the shape of all images, without height and width where they differ."""
    first, second = manifests
    differences: dict[str, tuple[Any, Any]] = {
        "storage": (first.storage, second.storage),
        "number of channels": (first.image_shape[2], second.image_shape[2]),
    }
    if first.storage == "raw":
        differences["size"] = (first.image_shape, second.image_shape)
    for what, (one, other) in differences.items():
        if one != other:
            raise ValueError(
                f"{folders[0]} has the {what} {one} and {folders[1]} {other}; build one of them again like the other"
            )
    shapes = {manifest.image_shape for manifest in manifests}
    return shapes.pop() if len(shapes) == 1 else (None, None, manifests[0].image_shape[2])


def _order(split: str, manifests: tuple[Manifest, ...], seed: int) -> SplitOrder:
    """Return the samples of both in random order, in as many shards as they have together."""
    entries = [manifest.splits.get(split) for manifest in manifests]
    sources = np.concatenate([np.full(entry.count if entry else 0, number) for number, entry in enumerate(entries)])
    samples = np.concatenate([np.arange(entry.count if entry else 0) for entry in entries])
    order = rng.permutation(rng.stream_key(seed, "merge", split), len(samples))
    return SplitOrder(sources[order], samples[order], sum(len(entry.shards) for entry in entries if entry))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; wrong syntax exits with 2."""
    options = tyro.cli(
        Options,
        prog="python -m data_prep.merge",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
    )
    return run_command(
        "merge", lambda reporter: plan_merge(options, reporter), options.out, options.workers, options.json
    )


if __name__ == "__main__":
    sys.exit(main())
