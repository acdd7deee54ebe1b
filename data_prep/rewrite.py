"""A data set made from the samples of finished ones, in other shards: the core of `reshard` and `merge`.

Nothing is decoded or encoded again and the sources are only read. Shards get their names when they are complete and on
disk, the manifest is written last, and the same sources and options give the same bytes.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_prep.check_shard import add_up
from data_prep.finish import find_duplicates
from data_prep.progress import Reporter
from data_prep.write_shard import ShardTask, write_shard
from owt_mpi.data.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    STATISTICS_NAME,
    DataError,
    ImageShape,
    Manifest,
    OddFile,
    ShardEntry,
    SplitEntry,
)
from owt_mpi.data.shard_format import shard_counts, shard_files
from owt_mpi.data.shard_record import read_record
from owt_mpi.data.shard_writer import ShardPlan, write_mean_image
from owt_mpi.disk import sha256_of
from owt_mpi.input_file import one_line


@dataclass(frozen=True)
class SplitOrder:
    """Sample i of a split is sample `samples[i]` of the same split of source `sources[i]`; in `num_shards` shards."""

    sources: np.ndarray
    samples: np.ndarray
    num_shards: int


@dataclass(frozen=True)
class Rewrite:
    """What the new data set is. `options` say how it came about, for its manifest."""

    folders: tuple[Path, ...]
    manifests: tuple[Manifest, ...]
    splits: dict[str, SplitOrder]
    class_names: tuple[str, ...]
    class_titles: tuple[str, ...]
    image_shape: ImageShape
    seed: int
    options: dict[str, Any]

    @property
    def identity(self) -> str:
        """A hash of all that decides the new shards."""
        digest = hashlib.sha256()
        for manifest in self.manifests:
            for split in manifest.splits.values():
                digest.update("".join(shard.sha256 for shard in split.shards).encode())
        told = [FORMAT_VERSION, self.class_names, self.image_shape, self.seed, self.options]
        digest.update(json.dumps(told, sort_keys=True).encode())
        for name, order in self.splits.items():
            digest.update(f"{name} {order.num_shards}".encode())
            digest.update(np.stack([order.sources, order.samples]).astype("<i8").tobytes())
        return digest.hexdigest()


def rewrite(plan: Rewrite, out: Path, num_workers: int, reporter: Reporter) -> Manifest:
    """Write the new data set into `out`, or what is missing of it, and return its manifest.

    ValueError if `out` holds something else, DataError or OSError if a source is damaged or the disk is full.
    """
    if out.resolve() in [folder.resolve() for folder in plan.folders]:
        raise ValueError(f"{out} is a source as well; choose another folder: sources are never changed")
    if (out / MANIFEST_NAME).exists():
        there = Manifest.read(out)
        if there.options.get("identity") != plan.identity:
            raise ValueError(f"{out} holds another data set; choose another folder, or remove it")
        reporter.say(f"{out} is there already")
        return there
    out.mkdir(parents=True, exist_ok=True)
    tasks = list(_tasks(plan, out))
    kept = _finished(tasks, out, reporter)
    entries = dict(kept)
    left = [task for task in tasks if task.plan.file not in kept]
    with reporter.track("images", sum(len(task.samples) for task in left)) as advance:
        for task, entry in _run(left, num_workers):
            entries[task.plan.file] = entry
            advance(len(task.samples), 0)
    return _write_manifest(plan, out, tasks, entries)


def _tasks(plan: Rewrite, out: Path) -> Iterator[ShardTask]:
    """Yield what each new shard is made from."""
    identity = plan.identity
    labels = tuple(tuple(map(plan.class_names.index, manifest.class_names)) for manifest in plan.manifests)
    for split, order in plan.splits.items():
        counts = shard_counts(len(order.samples), order.num_shards)
        totals = [
            add_up([read_record(folder / shard.file).sums for shard in manifest.splits[split].shards])
            for folder, manifest in zip(plan.folders, plan.manifests, strict=True)
            if split in manifest.splits and manifest.storage == "jpeg"
        ]
        first = 0
        for shard, count in enumerate(counts):
            rows = slice(first, first + count)
            yield ShardTask(
                folders=plan.folders,
                out=out,
                plan=ShardPlan(
                    split, shard, order.num_shards, count, plan.manifests[0].storage, plan.image_shape,
                    plan.class_names, identity,
                ),
                sources=order.sources[rows],
                samples=order.samples[rows],
                labels=labels,
                share=(first, first + count, len(order.samples)),
                encoded_sums=add_up(totals) if totals else None,
                skipped=_skipped(plan.manifests, split) if shard == 0 else (),
            )  # fmt: skip
            first += count


def _skipped(manifests: Sequence[Manifest], split: str) -> tuple[OddFile, ...]:
    return tuple(odd for manifest in manifests if split in manifest.splits for odd in manifest.splits[split].skipped)


def _finished(tasks: Sequence[ShardTask], out: Path, reporter: Reporter) -> dict[str, ShardEntry]:
    """Return the entries of the shards that an interrupted run has finished, by file; remove what it left otherwise."""
    plans = {task.plan.file: task.plan for task in tasks}
    for name in (f"{MANIFEST_NAME}.tmp", f"{STATISTICS_NAME}.tmp"):
        (out / name).unlink(missing_ok=True)
    entries = {}
    for split in {task.plan.split for task in tasks}:
        for path in shard_files(out, split):
            if path.suffix == ".tmp":
                path.unlink()
                continue
            try:
                record = read_record(path)
            except DataError as error:
                reporter.warn(f"a shard is removed and made again: {error}")
                path.unlink()
                continue
            if path.name not in plans or record.source != plans[path.name].source:
                raise ValueError(f"{out} holds {path.name} of another data set; choose another folder, or remove it")
            histogram = np.bincount(record.labels, minlength=len(record.class_names)).tolist()
            entries[path.name] = ShardEntry(path.name, len(record.labels), sha256_of(path), tuple(histogram))
    return entries


def _run(tasks: Sequence[ShardTask], num_workers: int) -> Iterator[tuple[ShardTask, ShardEntry]]:
    if num_workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, write_shard(task)
        return
    with ProcessPoolExecutor(min(num_workers, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(write_shard, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_manifest(plan: Rewrite, out: Path, tasks: Sequence[ShardTask], entries: dict[str, ShardEntry]) -> Manifest:
    splits, hashes = {}, {}
    for split in plan.splits:
        files = [task.plan.file for task in tasks if task.plan.split == split]
        records = [read_record(out / file) for file in files]
        odd_files = sorted((odd for record in records for odd in record.odd_files), key=lambda odd: odd.name)
        splits[split] = SplitEntry.of_shards([entries[file] for file in files], odd_files)
        hashes[split] = np.concatenate([record.source_sha256 for record in records])
        if split == "train":
            sums = add_up([record.sums for record in records])
    mean = sums.mean_image(splits["train"].count)
    notes = [note for manifest in plan.manifests for note in manifest.source_notes]
    manifest = Manifest(
        class_names=plan.class_names,
        image_shape=plan.image_shape,
        splits=splits,
        statistics=sums.statistics(),
        seed=plan.seed,
        storage=plan.manifests[0].storage,
        class_titles=plan.class_titles,
        mean_image=None if mean is None else write_mean_image(out, mean),
        duplicates=find_duplicates(out, splits, hashes),
        source_notes=tuple(notes),
        options={**plan.options, "identity": plan.identity},
    )
    manifest.write(out)
    return manifest


def run_command(
    name: str, make_plan: Callable[[Reporter], Rewrite], out: Path, num_workers: int | None, summary: Path | None
) -> int:
    """Do what the command `name` was asked to, and return its exit status."""
    reporter = Reporter(Console())
    try:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"--workers is {num_workers}; choose 1 or more")
        manifest = rewrite(make_plan(reporter), out, num_workers or len(os.sched_getaffinity(0)), reporter)
        if summary is not None:
            splits = {
                split: {"images": entry.count, "shards": len(entry.shards)} for split, entry in manifest.splits.items()
            }
            told = {"out": str(out), "splits": splits, "duplicates": len(manifest.duplicates)}
            summary.write_text(json.dumps({**told, "warnings": reporter.warnings}, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        return 3 if isinstance(error, DataError | OSError) else 2
    found = ", ".join(f"{split} {entry.count} images" for split, entry in manifest.splits.items())
    reporter.say(f"{out}: {found}, {len(manifest.class_names)} classes")
    return 0
