"""The shard format: the one definition of a shard file, for writer and reader. data_prep/README.md describes it.

A data set folder holds `manifest.json` and, for each split, `train-00000-of-00004.h5` and so on. The images of a shard
are one contiguous dataset, plain bytes at a known offset, so they are read with memory maps: random access at the
speed of memory, shared by all ranks of a node through the page cache, safe in threads, and free of HDF5's global lock.
"""

import bisect
import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.data.decode import Crew
from owt_mpi.data.manifest import DataError, Manifest, Statistics
from owt_mpi.data.readers import check_indices
from owt_mpi.data.shard_file import IMAGE_DTYPE, RESTORE, OpenShard, checked_array, naming, open_shard
from owt_mpi.data.shard_record import read_record
from owt_mpi.data.windows import copy_window
from owt_mpi.plain_hdf5.arrays import ChunkedArray, FileArray
from owt_mpi.plain_hdf5.reader import PlainHdf5
from owt_mpi.plain_hdf5.source import Hdf5Error

HASH_BYTES = 32
MEAN_IMAGE = "mean_image"  # the dataset in STATISTICS_NAME
CANNOT_READ = (OSError, Hdf5Error)
_ACCESS: dict[type, str] = {np.ndarray: "memory maps", FileArray: "reads", ChunkedArray: "chunks (slow)"}


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Return the file name of a shard: train-00000-of-00004.h5."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.h5"


def shard_files(folder: Path, split: str, finished: bool = True) -> list[Path]:
    """Return every file in `folder` named like a shard of `split`, of any build: temporary and `finished` ones."""
    named = re.compile(rf"{re.escape(split)}-\d{{5,}}-of-\d{{5,}}\.h5(?P<temporary>\.(\w+\.)?tmp)?")
    matches = ((path, named.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [path for path, match in matches if match is not None and (finished or match["temporary"])]


def shard_counts(num_samples: int, num_shards: int) -> list[int]:
    """Return the number of images of each shard: as equal as can be, the larger ones first."""
    if not 1 <= num_shards <= num_samples:
        raise ValueError(f"{num_samples} images cannot fill {num_shards} shards; choose 1 to {num_samples} shards")
    return [num_samples // num_shards + (index < num_samples % num_shards) for index in range(num_shards)]


class ShardReader:
    """Reads the images of one split by their index in the split. Safe in threads. Everything is checked on opening.

    Open it after any fork. `labels` (n,) int32 are those of the whole split. Where `use_maps` is off, or the file
    system has none, images are read at their places in the file. `num_threads` resize windows, the caller's among them.
    """

    def __init__(self, folder: Path, split: str, use_maps: bool = True, num_threads: int = 1) -> None:
        self._crew = Crew(num_threads)
        self.manifest = Manifest.read(folder)
        self.split = split
        if split not in self.manifest.splits:
            there = ", ".join(map(repr, self.manifest.splits))
            raise DataError(f"{folder} has no split {split!r}, only {there}; rebuild it with --val or --val-fraction")
        self._folder = folder
        self._shards: list[OpenShard] = []
        entries = self.manifest.splits[split].shards
        try:
            for index, entry in enumerate(entries):
                place = (split, index, len(entries))
                self._shards.append(open_shard(folder / entry.file, entry, self.manifest, place, use_maps))
        except BaseException:
            self.close()
            raise
        self._ends = np.cumsum([entry.count for entry in entries])
        self._sizes: np.ndarray = np.concatenate([shard.sizes for shard in self._shards])
        self.labels: np.ndarray = np.concatenate([shard.labels for shard in self._shards])

    @property
    def storage(self) -> str:
        """How the images are stored: "raw" pixels, or the bytes of "jpeg" files."""
        return self.manifest.storage

    @property
    def num_samples(self) -> int:
        """The number of images in the split."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes in the data set."""
        return len(self.manifest.class_names)

    @property
    def num_channels(self) -> int:
        """The number of channels of every image."""
        return self.manifest.image_shape[2]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of one image. DataError if the images differ in size."""
        height, width, channels = self.manifest.image_shape
        if height is None or width is None:
            raise DataError(f"{self._folder}: its images differ in size; build it with --crop centre for one size")
        return height, width, channels

    @property
    def statistics(self) -> Statistics:
        """The moments of the training set's pixels."""
        return self.manifest.statistics

    def describe(self) -> str:
        """Return one line: where the data is, how much, and how it is read."""
        kinds = Counter(_ACCESS[type(shard.images)] for shard in self._shards)
        counted = ", ".join(f"{count} shards by {kind}" for kind, count in sorted(kinds.items()))
        how = counted if len(kinds) > 1 else next(iter(kinds))
        height, width, channels = self.manifest.image_shape
        size = "of many sizes" if height is None else f"{height}x{width}"
        return (
            f"{self._folder}: {self.split}, {self.num_samples} images {size}x{channels}"
            f"{', encoded' * (self.storage == 'jpeg')}, "
            f"{self.num_classes} classes, {len(self._shards)} shards, {how}"
        )

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return the heights and widths (n, 2) int64 of the samples `indices`."""
        check_indices(indices, self.num_samples)
        return np.asarray(self._sizes[indices], np.int64)

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of the images (n, h, w, c) uint8 and labels (n,) int32 of the samples `indices`.

        The images are written to `out` if it is given. For raw storage. IndexError for an index outside the split,
        DataError as from read_windows.
        """
        assert self.storage == "raw", "encoded images are read by `encoded`"
        check_indices(indices, self.num_samples)
        if out is None:
            out = np.empty((len(indices), *self.image_shape), IMAGE_DTYPE)
        for row, place in enumerate(self._places(indices)):
            out[row] = self._image(place)
        self.check_unchanged(indices)
        return out, self.labels[indices]

    def encoded(self, index: int) -> bytes:
        """Return a copy of the image file of sample `index`. For jpeg storage: any format that Pillow reads.

        DataError where it cannot be read.
        """
        number, row = self._place(index)
        shard = self._shards[number]
        assert shard.offsets is not None, "raw images are read by `read`"
        try:
            content: bytes = shard.images[int(shard.offsets[row]) : int(shard.offsets[row + 1])].tobytes()
        except CANNOT_READ as error:
            raise DataError(f"{self.describe_sample(index)} cannot be read: {error}; {RESTORE}") from error
        return content

    def read_windows(self, indices: np.ndarray, windows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write windows of the samples `indices` to `out`, return their labels; see Reader. Only they are copied.

        For raw storage. DataError, naming file and sample, where one cannot be read or its shard has changed.
        """
        assert self.storage == "raw", "encoded images are read by `encoded`"
        check_indices(indices, self.num_samples)
        rows = list(zip(self._places(indices), windows.tolist(), out, strict=True))

        def write(row: int) -> None:
            place, window, target = rows[row]
            copy_window(self._image(place), window, target)

        if (windows[:, 2:] == out.shape[1:3]).all():
            for row in range(len(rows)):  # by one thread: more would fight for Python's lock, not for the memory
                write(row)
        else:
            self._crew.each_row(write, len(rows))
        self.check_unchanged(indices)
        labels: np.ndarray = self.labels[indices]
        return labels

    def will_need(self, indices: np.ndarray) -> None:
        """Have the images of the samples `indices` fetched from the disk; see Reader."""
        check_indices(indices, self.num_samples)
        rising = np.sort(indices)
        shards = np.searchsorted(self._ends, rising, side="right")
        for number in np.unique(shards).tolist():
            shard = self._shards[number]
            shard.will_need(rising[shards == number] - (int(self._ends[number]) - len(shard.labels)))

    def find(self, index: int) -> tuple[Path, int]:
        """Return the shard file that sample `index` is in, and the row that it has there."""
        number, row = self._place(index)
        return self._folder / self.manifest.splits[self.split].shards[number].file, row

    def describe_sample(self, index: int) -> str:
        """Return the file, row and name of sample `index`, the last where it can be read, for messages."""
        path, row = self.find(index)
        try:
            return f"{path}: sample {row}, {read_record(path).names[row]!r}"
        except DataError:
            return f"{path}: sample {row}"

    def check_unchanged(self, indices: np.ndarray) -> None:
        """Raise DataError if the content of a shard of `indices` has changed since it was opened.

        To be called after reading: what was read is then what was opened. A file that was written to is compared with
        the manifest's SHA-256 once, so that one may be touched.
        """
        for number in np.unique(np.searchsorted(self._ends, indices, side="right")).tolist():
            shard, entry = self._shards[number], self.manifest.splits[self.split].shards[number]
            stamp = shard.stamp_now()
            if stamp == shard.stamp or stamp is None:
                continue
            if shard.sha256_now() != entry.sha256:
                raise DataError(f"{self._folder / entry.file} was changed while it was open; {RESTORE}")
            self._shards[number] = dataclasses.replace(shard, stamp=stamp)

    def images_by_shard(self) -> list[Any]:
        """Return what each shard's images are read from: (n, h, w, c) raw, (bytes,) encoded, uint8."""
        return [shard.images for shard in self._shards]

    def read_from(self, copies: Sequence[np.ndarray]) -> None:
        """Read from these copies of the images of the first shards, and no longer from their files."""
        for number, copy in enumerate(copies):
            self._shards[number].close()
            self._shards[number] = dataclasses.replace(self._shards[number], images=copy, file=None)

    def _places(self, indices: np.ndarray) -> list[tuple[int, int]]:
        """Return shard and row, the latter counted from the shard's end, of each of the samples `indices`."""
        shards = np.searchsorted(self._ends, indices, side="right")
        return list(zip(shards.tolist(), (indices - self._ends[shards]).tolist(), strict=True))

    def _image(self, place: tuple[int, int]) -> np.ndarray:
        """Return the image at one of `_places`."""
        shard, row = place
        try:
            image: np.ndarray = self._shards[shard].images[row]
        except CANNOT_READ as error:
            sample = self.describe_sample(int(self._ends[shard]) + row)
            raise DataError(f"{sample} cannot be read: {error}; {RESTORE}") from error
        return image

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} is not in 0 .. {self.num_samples - 1}")
        number = bisect.bisect_right(self._ends, index)
        return number, len(self._shards[number].labels) + index - int(self._ends[number])

    def close(self) -> None:
        """Give the files back; the reader is not used again."""
        self._crew.close()
        for shard in self._shards:
            shard.close()
        self._shards.clear()


def read_mean_image(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """Return the mean of the training images, float64 (h, w, c), None where they differ in size."""
    if manifest.mean_image is None:
        return None
    path = folder / manifest.mean_image
    with naming(path), PlainHdf5(path) as file:
        return checked_array(path, file, MEAN_IMAGE, manifest.image_shape, np.dtype("<f8")).read()
