"""Writes one shard: under a temporary name, its images in any order; it gets its own name complete and on disk.

The same samples give the same bytes: contiguous datasets of fixed types in one order, and no times.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import h5py
import numpy as np

from owt_mpi.data.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    STATISTICS_NAME,
    ImageShape,
    OddFile,
    ShardEntry,
)
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_file import COUNT_DTYPE, IMAGE_DTYPE, LABEL_DTYPE, SIZE_DTYPE
from owt_mpi.data.shard_format import MEAN_IMAGE, shard_name
from owt_mpi.data.shard_record import write_odd_files
from owt_mpi.disk import sha256_of, sync_file, sync_folder, write_whole
from owt_mpi.plain_hdf5.reader import LIBVER
from owt_mpi.plain_hdf5.writer import MemoryHdf5

_COPY_BYTES = 1 << 22


@dataclass(frozen=True)
class ShardPlan:
    """Which shard it is, how its images are stored, and what it is built from.

    `num_rows` is the number of samples meant for it; those that are never written leave no gap. `source` is a hash of
    the source's listing and of the options.
    """

    split: str
    shard: int
    num_shards: int
    num_rows: int
    storage: str
    image_shape: ImageShape
    class_names: tuple[str, ...]
    source: str

    @property
    def file(self) -> str:
        """The name of the shard's file."""
        return shard_name(self.split, self.shard, self.num_shards)


@dataclass(frozen=True)
class SampleRecord:
    """What a shard keeps of a sample besides its pixels. `size` is the (h, w) of the stored image."""

    name: str  # class/file name
    label: int
    source_sha256: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class PixelFile:
    """Where the raw images of a shard under way are; picklable, so that worker processes write them themselves."""

    path: Path
    offset: int
    image_bytes: int

    def open(self) -> BinaryIO:
        """Open the file for `write`."""
        return self.path.open("r+b", buffering=0)

    def write(self, file: BinaryIO, row: int, image: np.ndarray) -> None:
        """Store an image (h, w, c) uint8 in the opened file."""
        assert image.nbytes == self.image_bytes
        assert image.dtype == IMAGE_DTYPE
        file.seek(self.offset + row * self.image_bytes)
        _write_all(file, np.ascontiguousarray(image).data.cast("B"))


class ShardWriter:
    """Takes the samples of one shard. A context manager: leaving it without `commit` removes the temporary files.

    OSError where the disk is full.
    """

    def __init__(self, folder: Path, plan: ShardPlan) -> None:
        self._folder = folder
        self._plan = plan
        self._token = secrets.token_hex(4)  # an earlier build that still dies does not write into this one's file
        self._records: list[SampleRecord | None] = [None] * plan.num_rows
        self._pieces: list[tuple[int, int]] = [(0, 0)] * plan.num_rows  # of each row in the file: offset, bytes
        self._end = 0
        self._path = self._temporary("")
        self.pixels: PixelFile | None = None  # of a raw shard
        self._path.touch(exist_ok=False)
        if plan.storage == "raw":
            height, width, channels = plan.image_shape
            assert height is not None, "raw images have one size"
            assert width is not None
            image_bytes = height * width * channels
            _, offset, _ = self._around(plan.num_rows, plan.num_rows * image_bytes, lambda file: None)
            self.pixels = PixelFile(self._path, offset, image_bytes)

    def write(self, row: int, record: SampleRecord, image: np.ndarray | bytes) -> None:
        """Store a sample: its pixels (h, w, c) uint8 for raw storage, the bytes of its file for jpeg."""
        if isinstance(image, bytes):
            assert self._plan.storage == "jpeg"
            with self._path.open("ab", buffering=0) as file:
                _write_all(file, memoryview(image))
            self._pieces[row] = (self._end, len(image))
            self._end += len(image)
        else:
            assert self.pixels is not None
            with self.pixels.open() as file:
                self.pixels.write(file, row, image)
        self.record(row, record)

    def record(self, row: int, record: SampleRecord) -> None:
        """Note a sample whose image is stored already: `pixels` wrote it."""
        assert self._records[row] is None, f"row {row} is written twice"
        assert 0 <= record.label < len(self._plan.class_names)
        self._records[row] = record
        if self.pixels is not None:
            self._pieces[row] = (self.pixels.offset + row * self.pixels.image_bytes, self.pixels.image_bytes)

    def commit(self, sums: PixelSums, odd_files: Sequence[OddFile] = ()) -> ShardEntry:
        """Bring the shard to the disk, name it, and return its entry for the manifest.

        `sums` are those over the pixels of its images. Rows that were not written are left out.
        """
        rows = [row for row, record in enumerate(self._records) if record is not None]
        records = [record for record in self._records if record is not None]
        assert records, f"{self._plan.file}: no sample was written"
        pieces = [self._pieces[row] for row in rows]
        head, offset, tail = self._around(
            len(rows),
            sum(length for _, length in pieces),
            lambda file: self._fill(file, rows, records, sums, odd_files),
        )
        path = self._path
        if self.pixels is None or len(rows) < self._plan.num_rows:
            path = self._temporary("packed")
            self._pack(path, pieces, offset)
        with path.open("r+b", buffering=0) as file:
            _write_all(file, memoryview(head))
            file.seek(0, os.SEEK_END)
            _write_all(file, memoryview(tail))
        sync_file(path)
        labels = [record.label for record in records]
        histogram = np.bincount(labels, minlength=len(self._plan.class_names)).tolist()
        entry = ShardEntry(self._plan.file, len(records), sha256_of(path), tuple(histogram))
        path.rename(self._folder / self._plan.file)
        sync_folder(self._folder)
        self.abandon()
        return entry

    def abandon(self) -> None:
        """Remove the temporary files."""
        for purpose in ("", "packed"):
            self._temporary(purpose).unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abandon()

    def _temporary(self, purpose: str) -> Path:
        return self._folder / f"{self._plan.file}.{self._token}{purpose}.tmp"

    def _around(self, num_images: int, num_bytes: int, fill: Callable[[Any], None]) -> tuple[bytes, int, bytes]:
        """Return what a shard's file holds before its images, their offset, and what comes after them.

        `fill` gives the open file all but its images, which come first. The file is made in memory, where its images
        are a hole that takes no room: on a full disk HDF5 fails in ways that cannot be told from damage.
        """
        plan = self._plan
        raw = plan.storage == "raw"
        shape = (num_images, *filter(None, plan.image_shape)) if raw else (num_bytes,)
        with MemoryHdf5() as memory:
            attributes = {
                "format": FORMAT_NAME, "format_version": FORMAT_VERSION, "split": plan.split, "shard": plan.shard,
                "num_shards": plan.num_shards, "storage": plan.storage, "source": plan.source,
            }  # fmt: skip
            for name, value in attributes.items():
                memory.file.attrs[name] = value
            offset = memory.place("images" if raw else "bytes", shape, IMAGE_DTYPE)
            fill(memory.file)
            pieces = list(memory.around())
        head = b"".join(content for position, content in pieces if position < offset)
        return head, offset, b"".join(content for position, content in pieces if position > offset)

    def _pack(self, path: Path, pieces: Sequence[tuple[int, int]], offset: int) -> None:
        """Write the images of the rows that there are to `path`, end to end."""
        with self._path.open("rb") as source, path.open("xb", buffering=_COPY_BYTES) as target:
            target.seek(offset)
            for start, length in pieces:
                source.seek(start)
                target.write(source.read(length))

    def _fill(
        self, file: Any, rows: Sequence[int], records: Sequence[SampleRecord], sums: PixelSums,
        odd_files: Sequence[OddFile],
    ) -> None:  # fmt: skip
        """Write all that a shard has besides its images."""
        file["labels"] = np.array([record.label for record in records], LABEL_DTYPE)
        _write_strings(file, "names", [record.name for record in records])
        hashes = b"".join(record.source_sha256 for record in records)
        file["source_sha256"] = np.frombuffer(hashes, np.uint8).reshape(len(records), -1)
        _write_strings(file, "classes", self._plan.class_names)
        if self._plan.storage == "jpeg":
            lengths = [self._pieces[row][1] for row in rows]
            file["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(COUNT_DTYPE)
            file["sizes"] = np.array([record.size for record in records], SIZE_DTYPE)
        file["pixel_count"] = np.array(sums.count, COUNT_DTYPE)
        file["channel_sum"] = sums.total.astype(COUNT_DTYPE)
        file["channel_products"] = sums.products.astype(COUNT_DTYPE)
        if sums.image is not None:
            file["image_sum"] = sums.image.astype(COUNT_DTYPE)
        write_odd_files(file, odd_files)


def write_mean_image(folder: Path, mean: np.ndarray) -> str:
    """Write the mean of the training images (h, w, c), whole or not at all, and return the file's name."""
    in_memory = {"driver": "core", "backing_store": False}  # as shards are
    with h5py.File(STATISTICS_NAME, "w", libver=LIBVER, **in_memory) as file:
        file[MEAN_IMAGE] = mean.astype("<f8")
        file.flush()
        content = file.id.get_file_image()
    write_whole(folder / STATISTICS_NAME, content)
    return STATISTICS_NAME


def _write_strings(file: Any, name: str, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    length = max(map(len, encoded))
    file[name] = np.array(encoded, h5py.string_dtype("utf-8", max(length, 1)))


def _write_all(file: Any, content: memoryview) -> None:
    """Write to an unbuffered file, which may take a part only."""
    while content:
        content = content[file.write(content) :]
