"""The shard format: the one definition of a shard file, for writer and reader. data_prep/README.md describes it.

A data set folder holds `manifest.json` and, for each split, `train-00000-of-00004.h5` and so on. The images of a shard
are one contiguous dataset, plain bytes at a known offset, so they are read with memory maps: random access at the
speed of memory, shared by all ranks of a node through the page cache, safe in threads, and free of HDF5's global lock.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from owt_mpi.data.manifest import (
    REBUILD,
    DataError,
    Manifest,
    ShardEntry,
    Statistics,
    check_version,
)
from owt_mpi.data.readers import check_indices

IMAGE_DTYPE = np.dtype(np.uint8)
LABEL_DTYPE = np.dtype("<i4")
SIZE_DTYPE = np.dtype("<i4")  # of a pair (h, w)
COUNT_DTYPE = np.dtype("<i8")  # of offsets and sums
HASH_BYTES = 32
MEAN_IMAGE = "mean_image"  # the dataset in STATISTICS_NAME
H5PY_ERRORS = (OSError, KeyError, RuntimeError, TypeError, AttributeError, ValueError)  # what it makes of damage inside


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


@dataclass(frozen=True)
class _Shard:
    """An open shard: `images` is a memory map, or an h5py dataset where it is chunked or compressed.

    Raw images are (n, h, w, c). Of jpeg storage they are the bytes of all files, and file i is
    images[offsets[i] : offsets[i + 1]].
    """

    images: Any
    labels: np.ndarray
    sizes: np.ndarray  # (n, 2)
    offsets: np.ndarray | None
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
        mapped = sum(shard.file is None for shard in self._shards)
        how = "memory maps" if mapped == len(self._shards) else f"{mapped} memory maps, the others by h5py (slow)"
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

        The images are written to `out` if it is given. IndexError for an index outside the split. For raw storage.
        """
        assert self.storage == "raw", "encoded images are read by `encoded`"
        check_indices(indices, self.num_samples)
        if out is None:
            out = np.empty((len(indices), *self.image_shape), IMAGE_DTYPE)
        shards = np.searchsorted(self._ends, indices, side="right")
        for row, (shard, index) in enumerate(zip(shards.tolist(), indices.tolist(), strict=True)):
            images = self._shards[shard].images
            out[row] = images[len(images) + index - int(self._ends[shard])]
        return out, self.labels[indices]

    def encoded(self, index: int) -> bytes:
        """Return a copy of the image file of sample `index`. For jpeg storage: any format that Pillow reads."""
        check_indices(np.array([index]), self.num_samples)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        assert shard.offsets is not None, "raw images are read by `read`"
        row = len(shard.labels) + index - int(self._ends[number])
        content: bytes = shard.images[int(shard.offsets[row]) : int(shard.offsets[row + 1])].tobytes()
        return content

    def close(self) -> None:
        """Give the files back; the reader is not used again."""
        for shard in self._shards:
            if shard.file is not None:
                shard.file.close()
        self._shards.clear()


def read_mean_image(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """Return the mean of the training images, float64 (h, w, c), None where they differ in size."""
    if manifest.mean_image is None:
        return None
    path = folder / manifest.mean_image
    try:
        with h5py.File(path, "r", locking=False) as file:
            mean: np.ndarray = _dataset(path, file, MEAN_IMAGE, manifest.image_shape, np.dtype("<f8"))[:]
            return mean
    except H5PY_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is missing or damaged ({type(error).__name__}: {error}); {REBUILD}") from error


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
        if file.attrs.get("storage") != manifest.storage:
            raise DataError(f"{path} has storage {file.attrs.get('storage')!r}, the manifest says otherwise; {REBUILD}")
        labels: np.ndarray = _dataset(path, file, "labels", (entry.count,), LABEL_DTYPE)[:]
        _check_labels(path, labels, entry, len(manifest.class_names))
        if manifest.storage == "raw":
            images = _dataset(path, file, "images", (entry.count, *manifest.image_shape), IMAGE_DTYPE)
            sizes = np.broadcast_to(np.array(images.shape[1:3], SIZE_DTYPE), (entry.count, 2))
            offsets = None
        else:
            offsets, sizes = _read_index(path, file, entry.count, manifest)
            images = _dataset(path, file, "bytes", (int(offsets[-1]),), IMAGE_DTYPE)
        shape, place_in_file = images.shape, images.id.get_offset()
        if place_in_file is None:
            keep = True
            return _Shard(images, labels, sizes, offsets, file)
    except H5PY_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); {REBUILD}") from error
    finally:
        if not keep:
            file.close()
    if path.stat().st_size < place_in_file + int(np.prod(shape)):
        raise DataError(f"{path} is truncated: {path.stat().st_size} bytes; {REBUILD}")
    return _Shard(np.memmap(path, IMAGE_DTYPE, "r", place_in_file, shape), labels, sizes, offsets, None)


def _read_index(path: Path, file: Any, count: int, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Return where the encoded files are in `bytes`, (n + 1,), and the sizes (n, 2) of their images."""
    offsets: np.ndarray = _dataset(path, file, "offsets", (count + 1,), COUNT_DTYPE)[:]
    sizes: np.ndarray = _dataset(path, file, "sizes", (count, 2), SIZE_DTYPE)[:]
    if offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise DataError(f"{path}: its offsets do not rise from 0; {REBUILD}")
    expected = manifest.image_shape[:2]
    if (sizes < 1).any() or (expected != (None, None) and (sizes != np.array(expected)).any()):
        raise DataError(f"{path} has images of other sizes than the manifest says; {REBUILD}")
    return offsets, sizes


def _dataset(path: Path, file: Any, name: str, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> Any:
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
