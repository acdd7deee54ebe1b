"""One shard made from samples of finished data sets: what a worker process of `reshard` and `merge` does."""

import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.data.manifest import OddFile, ShardEntry
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import ShardRecord, read_record
from owt_mpi.data.shard_writer import SampleRecord, ShardPlan, ShardWriter


@dataclass(frozen=True)
class ShardTask:
    """Row i is sample `samples[i]` of the same split of `folders[sources[i]]`; `labels` maps each source's labels.

    The sums of encoded images are those of the pixels before they were encoded, known for whole old shards only: a new
    shard gets its share of `encoded_sums`, those of the split, so that all shards add up to them; `share` is which
    samples of how many it has. `skipped` are files to note in it that are no samples.
    """

    folders: tuple[Path, ...]
    out: Path
    plan: ShardPlan
    sources: np.ndarray
    samples: np.ndarray
    labels: tuple[tuple[int, ...], ...]
    share: tuple[int, int, int]
    encoded_sums: PixelSums | None
    skipped: tuple[OddFile, ...]


def write_shard(task: ShardTask) -> ShardEntry:
    """Write the shard and return its entry for the manifest."""
    sources = {source: _Source(task.folders[source], task.plan.split) for source in np.unique(task.sources).tolist()}
    odd_files = list(task.skipped)
    try:
        with ShardWriter(task.out, task.plan) as writer:

            def written() -> Iterator[Any]:
                for row, (source, sample) in enumerate(zip(task.sources.tolist(), task.samples.tolist(), strict=True)):
                    record, odd = sources[source].describe(sample, task.labels[source])
                    image = sources[source].image(sample)
                    writer.write(row, record, image)
                    odd_files.extend(odd)
                    yield image

            if task.encoded_sums is None:
                height, width, channels = task.plan.image_shape
                assert height is not None, "raw images have one size"
                assert width is not None
                sums = PixelSums.zero(channels, (height, width))
                sums.add_images(written())
            else:
                sums = share_of(task.encoded_sums, *task.share)
                deque(written(), maxlen=0)
            return writer.commit(sums, odd_files)
    finally:
        for each in sources.values():
            each.reader.close()


def share_of(sums: PixelSums, first: int, stop: int, count: int) -> PixelSums:
    """Return part first .. stop - 1 of `count` equal parts of `sums`, rounded so that all parts add up to them."""

    def share(whole: np.ndarray) -> np.ndarray:
        each, rest = np.divmod(whole, count)
        return np.asarray(each * (stop - first) + rest * stop // count - rest * first // count)

    image = None if sums.image is None else share(sums.image)
    return PixelSums(int(share(np.array(sums.count))), share(sums.total), share(sums.products), image)


class _Source:
    """A split of a finished data set."""

    def __init__(self, folder: Path, split: str) -> None:
        self.reader = ShardReader(folder, split)
        self._odd_files: dict[str, list[OddFile]] = {}
        for odd in self.reader.manifest.splits[split].odd_files:
            self._odd_files.setdefault(odd.name, []).append(odd)

    def image(self, sample: int) -> np.ndarray | bytes:
        """Return the image as it is stored: pixels (h, w, c), or the bytes of its file."""
        if self.reader.storage == "jpeg":
            return self.reader.encoded(sample)
        images, _ = self.reader.read(np.array([sample]))
        return np.asarray(images[0])

    def describe(self, sample: int, labels: tuple[int, ...]) -> tuple[SampleRecord, list[OddFile]]:
        """Return what is known of a sample besides its image, with its label in the new data set."""
        path, row = self.reader.find(sample)
        record = _record_of(path)
        name, (height, width) = record.names[row], self.reader.sizes(np.array([sample]))[0].tolist()
        return (
            SampleRecord(name, labels[int(record.labels[row])], record.source_sha256[row].tobytes(), (height, width)),
            self._odd_files.get(name, []),
        )


@functools.cache
def _record_of(path: Path) -> ShardRecord:
    return read_record(path)
