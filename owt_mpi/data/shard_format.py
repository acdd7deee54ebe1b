"""The shard format: the one definition of a shard file, for writer and reader.

A data set folder holds `manifest.json` and, for each split, `train-00000-of-00004.h5` and so on. A shard has the
contiguous datasets `images` (n, h, w, c) uint8 and `labels` (n,) int32 and the attributes checked below. Contiguous
datasets are plain bytes at a known offset, so images are read with memory maps: random access at the speed of memory,
shared by all ranks of a node through the page cache, safe in threads, and free of HDF5's global lock.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from owt_mpi.data.manifest import (
    FORMAT_NAME,
    FORMAT_VERSION,
    REBUILD,
    DataError,
    Manifest,
    ShardEntry,
    SplitEntry,
    Statistics,
    check_version,
    sync_folder,
)
from owt_mpi.data.readers import check_indices

IMAGE_DTYPE = np.dtype(np.uint8)
LABEL_DTYPE = np.dtype("<i4")
_TEMPORARY = ".tmp"


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Return the file name of a shard: train-00000-of-00004.h5."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.h5"


def shard_files(folder: Path, split: str) -> list[Path]:
    """Return every file in `folder` named like a shard of `split`, finished or temporary, of any build."""
    return sorted(path for end in ("", _TEMPORARY) for path in folder.glob(f"{split}-[0-9]*-of-[0-9]*.h5{end}"))


def shard_counts(num_samples: int, num_shards: int) -> list[int]:
    """Return the number of images of each shard: as equal as can be, the larger ones first."""
    if not 1 <= num_shards <= num_samples:
        raise ValueError(f"{num_samples} images cannot fill {num_shards} shards; choose 1 to {num_samples} shards")
    return [num_samples // num_shards + (index < num_samples % num_shards) for index in range(num_shards)]


class SplitWriter:
    """Writes the shards of one split, images in any order; they get their names in `commit`, complete and on disk.

    A context manager: leaving it without `commit` removes the temporary files.
    """

    def __init__(
        self, folder: Path, split: str, counts: list[int], image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        self._folder = folder
        self._num_classes = num_classes
        self._names = [shard_name(split, index, len(counts)) for index in range(len(counts))]
        self._ends = np.cumsum(counts)
        self._images: list[np.memmap] = []
        self._labels: list[np.memmap] = []
        try:
            for index, count in enumerate(counts):
                self._create_shard(split, index, (count, *image_shape))
        except BaseException:
            self._remove()
            raise

    def write(self, position: int, image: np.ndarray, label: int) -> None:
        """Store `image` (h, w, c) uint8 as sample `position` of the split."""
        shard = int(np.searchsorted(self._ends, position, side="right"))
        within = position - int(self._ends[shard])  # negative: counted from the shard's end
        assert image.dtype == IMAGE_DTYPE
        assert image.shape == self._images[shard].shape[1:]
        self._images[shard][within] = image
        self._labels[shard][within] = label

    def commit(self, skipped: tuple[str, ...] = ()) -> SplitEntry:
        """Bring the shards to the disk, name them, and return their entry for the manifest."""
        entries = []
        for name, images, labels in zip(self._names, self._images, self._labels, strict=True):
            assert labels.min() >= 0, f"{name}: a sample was not written"
            images.flush()
            labels.flush()
            temporary = self._folder / (name + _TEMPORARY)
            _sync_file(temporary)
            histogram = tuple(np.bincount(labels, minlength=self._num_classes).tolist())
            entries.append(ShardEntry(name, len(labels), sha256_of(temporary), histogram))
        for name in self._names:
            (self._folder / (name + _TEMPORARY)).rename(self._folder / name)
        sync_folder(self._folder)
        return SplitEntry(sum(entry.count for entry in entries), tuple(entries), skipped)

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def _create_shard(self, split: str, index: int, shape: tuple[int, int, int, int]) -> None:
        path = self._folder / (self._names[index] + _TEMPORARY)
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # so that the bytes have an offset before they are written
        with h5py.File(path, "w", locking=False) as file:
            file.attrs["format"] = FORMAT_NAME
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["split"] = split
            file.attrs["shard"] = index
            file.attrs["num_shards"] = len(self._names)
            images = file.create_dataset("images", shape, IMAGE_DTYPE, dcpl=early)
            labels = file.create_dataset("labels", shape[:1], LABEL_DTYPE, dcpl=early)
            offsets = images.id.get_offset(), labels.id.get_offset()
        with path.open("r+b") as reserved:  # a full disk is an error here; under a memory map it would be a signal
            os.posix_fallocate(reserved.fileno(), 0, path.stat().st_size)
        self._images.append(np.memmap(path, IMAGE_DTYPE, "r+", offsets[0], shape))
        self._labels.append(np.memmap(path, LABEL_DTYPE, "r+", offsets[1], shape[:1]))
        self._labels[-1][:] = -1

    def _remove(self) -> None:
        self._images.clear()
        self._labels.clear()
        for name in self._names:
            (self._folder / (name + _TEMPORARY)).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Shard:
    """An open shard: `images` is a memory map, or an h5py dataset where the images are chunked or compressed."""

    images: Any
    labels: np.ndarray
    file: Any  # the h5py file that must stay open for `images`, or None


class ShardReader:
    """Reads the images of one split by their index in the split. Safe in threads. Everything is checked on opening.

    Open it after any fork. `labels` (n,) int32 are those of the whole split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.manifest = Manifest.read(folder)
        self.split = split
        if split not in self.manifest.splits:
            there = ", ".join(map(repr, self.manifest.splits))
            raise DataError(f"{folder} has no split {split!r}, only {there}; rebuild it with --val or --val-fraction")
        self._folder = folder
        self._shards: list[_Shard] = []
        entries = self.manifest.splits[split].shards
        try:
            for index, entry in enumerate(entries):
                self._shards.append(
                    _open_shard(folder / entry.file, entry, self.manifest, (split, index, len(entries)))
                )
        except BaseException:
            self.close()
            raise
        self._ends = np.cumsum([entry.count for entry in entries])
        self.labels: np.ndarray = np.concatenate([shard.labels for shard in self._shards])

    @property
    def num_samples(self) -> int:
        """The number of images in the split."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes in the data set."""
        return len(self.manifest.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of one image."""
        return self.manifest.image_shape

    @property
    def statistics(self) -> Statistics:
        """The moments of the training set's pixels."""
        return self.manifest.statistics

    def describe(self) -> str:
        """Return one line: where the data is, how much, and how it is read."""
        mapped = sum(shard.file is None for shard in self._shards)
        how = "memory maps" if mapped == len(self._shards) else f"{mapped} memory maps, the others by h5py (slow)"
        height, width, channels = self.image_shape
        return (
            f"{self._folder}: {self.split}, {self.num_samples} images {height}x{width}x{channels}, "
            f"{self.num_classes} classes, {len(self._shards)} shards, {how}"
        )

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of the images (n, h, w, c) uint8 and labels (n,) int32 of the samples `indices`.

        The images are written to `out` if it is given. IndexError for an index outside the split.
        """
        check_indices(indices, self.num_samples)
        if out is None:
            out = np.empty((len(indices), *self.image_shape), IMAGE_DTYPE)
        shards = np.searchsorted(self._ends, indices, side="right")
        for row, (shard, index) in enumerate(zip(shards.tolist(), indices.tolist(), strict=True)):
            images = self._shards[shard].images
            out[row] = images[len(images) + index - int(self._ends[shard])]
        return out, self.labels[indices]

    def close(self) -> None:
        """Give the files back; the reader is not used again."""
        for shard in self._shards:
            if shard.file is not None:
                shard.file.close()
        self._shards.clear()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open_shard(path: Path, entry: ShardEntry, manifest: Manifest, place: tuple[str, int, int]) -> _Shard:
    if not path.is_file():
        raise DataError(f"{path} is missing; copy the whole folder, or {REBUILD}")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is truncated or not an HDF5 file ({error}); {REBUILD}") from error
    keep = False
    try:
        check_version(path, file.attrs.get("format_version"))
        split, index, num_shards = (file.attrs.get(name) for name in ("split", "shard", "num_shards"))
        if (split, index, num_shards) != place:
            raise DataError(f"{path} is inside shard {index} of {num_shards} of split {split!r}; {REBUILD}")
        shape = (entry.count, *manifest.image_shape)
        images = _dataset(path, file, "images", shape, IMAGE_DTYPE)
        labels: np.ndarray = _dataset(path, file, "labels", shape[:1], LABEL_DTYPE)[:]
        _check_labels(path, labels, entry, len(manifest.class_names))
        offset = images.id.get_offset()
        if offset is None:
            keep = True
            return _Shard(images, labels, file)
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError) as error:  # what h5py makes of damage inside
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); {REBUILD}") from error
    finally:
        if not keep:
            file.close()
    if path.stat().st_size < offset + int(np.prod(shape)):
        raise DataError(f"{path} is truncated: {path.stat().st_size} bytes; {REBUILD}")
    return _Shard(np.memmap(path, IMAGE_DTYPE, "r", offset, shape), labels, None)


def _dataset(path: Path, file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if name not in file:
        raise DataError(f"{path} has no dataset {name!r}; {REBUILD}")
    dataset = file[name]
    if dataset.shape != shape or dataset.dtype != dtype:
        raise DataError(
            f"{path}: {name} is {dataset.dtype} {dataset.shape}, the manifest says {dtype} {shape}; {REBUILD}"
        )
    return dataset


def _check_labels(path: Path, labels: np.ndarray, entry: ShardEntry, num_classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise DataError(f"{path} has the label {wrong[0]}, but there are {num_classes} classes; {REBUILD}")
    if tuple(np.bincount(labels, minlength=num_classes).tolist()) != entry.class_histogram:
        raise DataError(f"{path} has other numbers of images of each class than the manifest says; {REBUILD}")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
