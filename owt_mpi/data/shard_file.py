"""One shard file: opened, with everything in it checked against the manifest but the images themselves."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from owt_mpi.data.file_array import FileArray
from owt_mpi.data.manifest import REBUILD, DataError, Manifest, ShardEntry, check_version
from owt_mpi.data.read_ahead import will_need

IMAGE_DTYPE = np.dtype(np.uint8)
LABEL_DTYPE = np.dtype("<i4")
SIZE_DTYPE = np.dtype("<i4")  # of a pair (h, w)
COUNT_DTYPE = np.dtype("<i8")  # of offsets and sums
H5PY_ERRORS = (OSError, KeyError, RuntimeError, TypeError, AttributeError, ValueError)  # what it makes of damage inside


@dataclass(frozen=True)
class OpenShard:
    """An open shard: `images` is a memory map, a FileArray, or an h5py dataset where it is chunked or compressed.

    Raw images are (n, h, w, c). Of jpeg storage they are the bytes of all files, and file i is
    images[offsets[i] : offsets[i + 1]].
    """

    images: Any
    labels: np.ndarray
    sizes: np.ndarray  # (n, 2)
    offsets: np.ndarray | None
    file: Any  # what must stay open for `images`, or None
    descriptor: int | None = None  # of the file where `images` are plain bytes in it, at `start`
    start: int = 0

    def will_need(self, rows: np.ndarray) -> None:
        """Have the images of `rows` (rising) brought into memory, where that is any use."""
        if self.descriptor is None:
            return
        if self.offsets is None:
            row_bytes = int(np.prod(self.images.shape[1:]))
            starts, stops = rows * row_bytes, (rows + 1) * row_bytes
        else:
            starts, stops = self.offsets[rows], self.offsets[rows + 1]
        will_need(self.descriptor, self.start + starts, self.start + stops)

    def close(self) -> None:
        """Give the file back."""
        if self.file is not None:
            self.file.close()
        if self.descriptor is not None:
            os.close(self.descriptor)


def open_shard(
    path: Path, entry: ShardEntry, manifest: Manifest, place: tuple[str, int, int], use_maps: bool = True
) -> OpenShard:
    """Return a shard, checked to be the one that the manifest's `entry` describes; see ShardReader for `use_maps`.

    `place` is its split, its number and the number of the split's shards. DataError if it is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; copy the whole folder, or {REBUILD}")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is truncated or not an HDF5 file ({error}); {REBUILD}") from error
    keep = False
    try:
        _check_attributes(path, file, place, manifest.storage)
        labels: np.ndarray = checked_dataset(path, file, "labels", (entry.count,), LABEL_DTYPE)[:]
        _check_labels(path, labels, entry, len(manifest.class_names))
        if manifest.storage == "raw":
            images = checked_dataset(path, file, "images", (entry.count, *manifest.image_shape), IMAGE_DTYPE)
            sizes = np.broadcast_to(np.array(images.shape[1:3], SIZE_DTYPE), (entry.count, 2))
            offsets = None
        else:
            offsets, sizes = _read_index(path, file, entry.count, manifest)
            images = checked_dataset(path, file, "bytes", (int(offsets[-1]),), IMAGE_DTYPE)
        shape, place_in_file = images.shape, images.id.get_offset()
        if place_in_file is None:
            keep = True
            return OpenShard(images, labels, sizes, offsets, file)
    except H5PY_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); {REBUILD}") from error
    finally:
        if not keep:
            file.close()
    if path.stat().st_size < place_in_file + int(np.prod(shape)):
        raise DataError(f"{path} is truncated: {path.stat().st_size} bytes; {REBUILD}")
    mapped = _map(path, place_in_file, shape) if use_maps else None
    read = FileArray(path, place_in_file, shape) if mapped is None else None
    images = read if mapped is None else mapped
    return OpenShard(images, labels, sizes, offsets, read, os.open(path, os.O_RDONLY), place_in_file)


def _check_attributes(path: Path, file: Any, place: tuple[str, int, int], storage: str) -> None:
    check_version(path, file.attrs.get("format_version"))
    split, index, num_shards = (file.attrs.get(name) for name in ("split", "shard", "num_shards"))
    if (split, index, num_shards) != place:
        raise DataError(f"{path} is inside shard {index} of {num_shards} of split {split!r}; {REBUILD}")
    if file.attrs.get("storage") != storage:
        raise DataError(f"{path} has storage {file.attrs.get('storage')!r}, the manifest says otherwise; {REBUILD}")


def _map(path: Path, offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the images as a memory map, None where the file system has none."""
    try:
        return np.memmap(path, IMAGE_DTYPE, "r", offset, shape).view(np.ndarray)  # which is cut in a fifth of the time
    except OSError:
        return None


def _read_index(path: Path, file: Any, count: int, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Return where the encoded files are in `bytes`, (n + 1,), and the sizes (n, 2) of their images."""
    offsets: np.ndarray = checked_dataset(path, file, "offsets", (count + 1,), COUNT_DTYPE)[:]
    sizes: np.ndarray = checked_dataset(path, file, "sizes", (count, 2), SIZE_DTYPE)[:]
    if offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise DataError(f"{path}: its offsets do not rise from 0; {REBUILD}")
    expected = manifest.image_shape[:2]
    if (sizes < 1).any() or (expected != (None, None) and (sizes != np.array(expected)).any()):
        raise DataError(f"{path} has images of other sizes than the manifest says; {REBUILD}")
    return offsets, sizes


def checked_dataset(path: Path, file: Any, name: str, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> Any:
    """Return a dataset of an open file. DataError unless it is there and of this shape and type."""
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
