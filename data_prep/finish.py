"""The end of a build: from the finished shards to the manifest. Nothing is decoded again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.plan import BuildPlan
from owt_mpi.data.manifest import Manifest, OddFile, ShardEntry, SplitEntry
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_record import read_record
from owt_mpi.data.shard_writer import write_mean_image


def finish(
    out: Path,
    plan: BuildPlan,
    entries: dict[int, ShardEntry],
    *,
    class_titles: dict[str, str],
    source_notes: Sequence[str],
    seed: int,
    options: dict[str, Any],
) -> Manifest:
    """Write the mean image and the manifest of the finished shards, and return the manifest."""
    splits, hashes = {}, {}
    statistics = mean = None
    numbers = iter(range(plan.num_shards))
    for split in plan.splits:
        files = [entries[next(numbers)] for _ in split.counts]
        sums, odd_files, hashes[split.split] = _read_shards(out, plan, files)
        splits[split.split] = SplitEntry.of_shards(files, odd_files)
        if split.split == "train":
            statistics = sums.statistics()
            mean = sums.mean_image(splits["train"].count)
    assert statistics is not None
    manifest = Manifest(
        class_names=plan.class_names,
        image_shape=plan.recipe.image_shape,
        splits=splits,
        statistics=statistics,
        seed=seed,
        storage=plan.recipe.storage,
        class_titles=tuple(class_titles.get(name, "") for name in plan.class_names) if class_titles else (),
        mean_image=None if mean is None else write_mean_image(out, mean),
        duplicates=find_duplicates(out, splits, hashes),
        source_notes=tuple(source_notes),
        options=options,
    )
    manifest.write(out)
    return manifest


def _read_shards(
    out: Path, plan: BuildPlan, entries: Sequence[ShardEntry]
) -> tuple[PixelSums, list[OddFile], np.ndarray]:
    """Return the sums over the pixels of some shards, their odd files by name, the hashes (n, 32) of their sources."""
    height, width, channels = plan.recipe.image_shape
    sums = PixelSums.zero(channels, None if height is None or width is None else (height, width))
    odd_files: list[OddFile] = []
    hashes = []
    for entry in entries:
        record = read_record(out / entry.file)
        sums.add(record.sums)
        odd_files += record.odd_files
        hashes.append(record.source_sha256)
    return sums, sorted(odd_files, key=lambda odd: odd.name), np.concatenate(hashes)


def find_duplicates(
    out: Path, splits: dict[str, SplitEntry], hashes: dict[str, np.ndarray]
) -> tuple[tuple[str, ...], ...]:
    """Return the names of samples with the same source bytes, "split/class/file name", each group sorted."""
    together = np.concatenate(list(hashes.values()))
    keys = np.ascontiguousarray(together).view(f"V{together.shape[1]}")[:, 0]
    _, groups, counts = np.unique(keys, return_inverse=True, return_counts=True)
    positions = np.flatnonzero(counts[groups] > 1)
    if not positions.size:
        return ()
    names = _names(out, splits, positions)
    by_group: dict[int, list[str]] = {}
    for position, group in zip(positions.tolist(), groups[positions].tolist(), strict=True):
        by_group.setdefault(group, []).append(names[position])
    return tuple(sorted(tuple(sorted(group)) for group in by_group.values()))


def _names(out: Path, splits: dict[str, SplitEntry], positions: np.ndarray) -> dict[int, str]:
    """Return the names of the samples at some positions in all splits laid end to end."""
    names = {}
    first = 0
    for split, entry in splits.items():
        for shard in entry.shards:
            here = positions[(positions >= first) & (positions < first + shard.count)].tolist()
            if here:
                of_shard = read_record(out / shard.file).names
                names.update({position: f"{split}/{of_shard[position - first]}" for position in here})
            first += shard.count
    return names
