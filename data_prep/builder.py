"""One rank's part of a build: it takes shards, prepares their images in its processes, and finishes each shard."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_prep.convert import CHUNK, Chunk, Converted, Converter, convert_all
from data_prep.plan import BuildPlan, ShardTask
from data_prep.work import WorkQueue
from owt_mpi.data.manifest import DataError, OddFile, ShardEntry
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_record import read_record
from owt_mpi.data.shard_writer import SampleRecord, ShardWriter
from owt_mpi.disk import sha256_of

_ASK_BEFORE = 2  # chunks before a shard's end: rank 0 answers at the end of one of its own


class _Shard:
    """A shard under way."""

    def __init__(self, out: Path, task: ShardTask, skip_errors: bool) -> None:
        self._task = task
        self._skip_errors = skip_errors
        self._labels = {name: label for label, name in enumerate(task.plan.class_names)}
        height, width, channels = task.plan.image_shape
        self._sums = PixelSums.zero(channels, None if height is None or width is None else (height, width))
        self._odd_files: list[OddFile] = []
        self._num_left = task.plan.num_rows
        self.writer = ShardWriter(out, task.plan)

    @property
    def complete(self) -> bool:
        """Whether there are results for all its images."""
        return self._num_left == 0

    def chunks(self) -> Iterator[Chunk]:
        """Yield its images, some at a time."""
        images = self._task.images
        for start in range(0, len(images), CHUNK):
            some = images[start : start + CHUNK]
            rows = tuple(range(start, start + len(some)))
            yield Chunk(self._task.source, rows, some, self.writer.pixels)

    def take(self, results: list[Converted], sums: PixelSums) -> int:
        """Note what became of some images; return how many were rejected. DataError if none may be."""
        for result in results:
            name = str(result.image)
            if result.rejected:
                if not self._skip_errors:
                    raise DataError(
                        f"{self._task.path}: {name}: {result.rejected}; repair it or use --on-error skip"
                    )  # fmt: skip
                self._odd_files.append(OddFile(name, result.rejected, "skipped"))
                continue
            if result.remarks:
                self._odd_files.append(OddFile(name, "; ".join(result.remarks), "kept"))
            label = self._labels[result.image.class_name]
            record = SampleRecord(name, label, result.source_sha256, result.size)
            if result.encoded is None:
                self.writer.record(result.row, record)
            else:
                self.writer.write(result.row, record, result.encoded)
        self._sums.add(sums)
        self._num_left -= len(results)
        return sum(bool(result.rejected) for result in results)

    def finish(self) -> ShardEntry:
        """Bring it to the disk under its name."""
        if self._sums.count == 0:
            raise DataError(f"{self._task.path} has no image for {self._task.plan.file} that can be decoded; check its "
                            "files or choose fewer --shards")  # fmt: skip
        with self.writer:
            return self.writer.commit(self._sums, self._odd_files)


def build_share(
    out: Path, plan: BuildPlan, converter: Converter, queue: WorkQueue, num_workers: int
) -> dict[int, ShardEntry]:
    """Build the shards that `queue` gives this rank and return their entries by number; of kept ones too.

    Shards are finished (hashed, brought to the disk, named) by a thread while the next are prepared. What is not
    finished when an error is raised is removed.
    """
    finishing: dict[int, Future[ShardEntry]] = {}
    under_way: dict[int, _Shard] = {}

    def chunks(finisher: ThreadPoolExecutor) -> Iterator[tuple[int, Chunk]]:
        while (number := queue.take()) is not None:
            if number in plan.kept:
                finishing[number] = finisher.submit(_entry_of, out / plan.shard(number).file, len(plan.class_names))
                continue
            under_way[number] = _Shard(out, plan.task(number), plan.skip_errors)
            of_shard = list(under_way[number].chunks())
            for index, chunk in enumerate(of_shard):
                if index + _ASK_BEFORE >= len(of_shard):
                    queue.ask()
                yield number, chunk

    try:
        with ThreadPoolExecutor(1) as finisher:
            for number, results, sums in convert_all(chunks(finisher), converter, num_workers):
                shard = under_way[number]
                rejected = shard.take(results, sums)
                if shard.complete:
                    finishing[number] = finisher.submit(under_way.pop(number).finish)
                _raise_failed(finishing)
                queue.report(len(results), rejected)
            return {number: future.result() for number, future in finishing.items()}
    finally:
        for shard in under_way.values():
            shard.writer.abandon()


def _raise_failed(finishing: dict[int, Future[ShardEntry]]) -> None:
    for future in finishing.values():
        if future.done():
            future.result()


def _entry_of(path: Path, num_classes: int) -> ShardEntry:
    """Return the entry of a finished shard."""
    labels = read_record(path).labels
    histogram = np.bincount(labels, minlength=num_classes).tolist()
    return ShardEntry(path.name, len(labels), sha256_of(path), tuple(histogram))
