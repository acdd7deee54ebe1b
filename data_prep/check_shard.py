"""One shard, checked from end to end: what a worker process of `verify` does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owt_mpi.data.decode import BROKEN, decode_window, silence_pillow
from owt_mpi.data.manifest import DataError, Manifest, ShardEntry
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_file import OpenShard, open_shard
from owt_mpi.data.shard_record import ShardRecord, read_record
from owt_mpi.disk import sha256_of

_IMAGES = 64  # whose sums are taken at a time


@dataclass(frozen=True)
class ShardCheck:
    """What was found in a shard. `sums` are those that it holds, None where they cannot be read."""

    file: str
    num_bytes: int
    problems: tuple[str, ...]
    names: tuple[str, ...]
    sums: PixelSums | None


def check_shard(folder: Path, manifest: Manifest, entry: ShardEntry, place: tuple[str, int, int]) -> ShardCheck:
    """Return what is found in the shard of `entry`; `place` is its split, its number and how many the split has.

    Of the `manifest` classes, storage and shape count.
    """
    path = folder / entry.file
    num_bytes = path.stat().st_size if path.is_file() else 0
    problems = []
    if path.is_file() and sha256_of(path) != entry.sha256:
        problems.append("its bytes are not those that were written: the SHA-256 differs from the manifest's")
    try:
        record = read_record(path)
        shard = open_shard(path, entry, manifest, place)
    except (DataError, OSError) as error:
        return ShardCheck(entry.file, num_bytes, (*problems, str(error)), (), None)
    try:
        problems += _check_record(record, manifest)
        problems += _check_images(shard, record, manifest)
    finally:
        shard.close()
    return ShardCheck(entry.file, num_bytes, tuple(problems), record.names, record.sums)


def add_up(sums: Sequence[PixelSums]) -> PixelSums:
    """Return the sums over all pixels of shards, one or more; without a sum of images where these differ in size."""
    shapes = {None if each.image is None else each.image.shape[:2] for each in sums}
    whole = PixelSums.zero(len(sums[0].total), shapes.pop() if len(shapes) == 1 else None)
    for each in sums:
        whole.add(each)
    return whole


def _check_record(record: ShardRecord, manifest: Manifest) -> Iterator[str]:
    if record.class_names != manifest.class_names:
        yield "its classes are not the manifest's"
        return
    if not len(record.names) == len(record.source_sha256) == len(record.labels):
        yield f"it has {len(record.labels)} labels, {len(record.names)} names and {len(record.source_sha256)} hashes"
        return
    for name, label in zip(record.names, record.labels.tolist(), strict=True):
        if name.rpartition("/")[0] != manifest.class_names[label]:
            yield f"sample {name} has the label of class {manifest.class_names[label]}"


def _check_images(shard: OpenShard, record: ShardRecord, manifest: Manifest) -> Iterator[str]:
    """Say which images cannot be decoded, and whether raw images have the sums that the shard says."""
    channels = manifest.image_shape[2]
    if shard.offsets is None:
        sums, there = PixelSums.zero(channels, shard.images.shape[1:3]), record.sums
        for start in range(0, len(shard.images), _IMAGES):
            sums.add_images(shard.images[start : start + _IMAGES])
        parts = ("count", "total", "products", "image")
        if not all(np.array_equal(getattr(sums, part), getattr(there, part)) for part in parts):
            yield "its pixels do not have the sums that it says"
        return
    silence_pillow()
    for row, (height, width) in enumerate(shard.sizes.tolist()):
        content = shard.images[int(shard.offsets[row]) : int(shard.offsets[row + 1])].tobytes()
        try:
            decode_window(content, (0, 0, height, width), np.empty((height, width, channels), np.uint8))
        except BROKEN as error:
            yield f"sample {record.names[row]} cannot be decoded: {error}"
