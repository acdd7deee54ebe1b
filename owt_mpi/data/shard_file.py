"""One shard file: opened, with everything in it checked against the manifest but the images themselves."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from owt_mpi.data.bus_errors import explain, forget
from owt_mpi.data.manifest import REBUILD, DataError, Manifest, ShardEntry, check_version
from owt_mpi.data.read_ahead import will_need
from owt_mpi.disk import sha256_of
from owt_mpi.plain_hdf5.arrays import FileArray
from owt_mpi.plain_hdf5.reader import Array, PlainHdf5
from owt_mpi.plain_hdf5.source import Hdf5Error

IMAGE_DTYPE = np.dtype(np.uint8)
LABEL_DTYPE = np.dtype("<i4")
SIZE_DTYPE = np.dtype("<i4")  # of a pair (h, w)
COUNT_DTYPE = np.dtype("<i8")  # of offsets and sums
RESTORE = "restore it; a training run goes on by --run-dir and --resume auto"


class Stamp(NamedTuple):
    """What changes with a file's content, and sometimes without: its length, and when it was last written to."""

    num_bytes: int
    written_ns: int

    @classmethod
    def of(cls, descriptor: int) -> "Stamp":
        """Return the stamp of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class OpenShard:
    """An open shard: `images` is a memory map, a FileArray, or a ChunkedArray where it is chunked or compressed.

    Raw images are (n, h, w, c). Of jpeg storage they are the bytes of all files, and file i is
    images[offsets[i] : offsets[i + 1]]. `stamp` tells whether the file is as it was when it was opened.
    """

    images: Any
    labels: np.ndarray
    sizes: np.ndarray  # (n, 2)
    offsets: np.ndarray | None
    file: PlainHdf5 | None  # None where `images` are a copy
    start: int | None = None  # of `images` in the file where they are plain bytes in it
    stamp: Stamp | None = None

    def stamp_now(self) -> Stamp | None:
        """Return the stamp of the file as it is, None where images are a copy."""
        return None if self.file is None else Stamp.of(self.file.descriptor)

    def sha256_now(self) -> str:
        """Return the SHA-256 of the open file, which may have lost its name."""
        assert self.file is not None
        return sha256_of(Path(f"/proc/self/fd/{self.file.descriptor}"))

    def will_need(self, rows: np.ndarray) -> None:
        """Have the images of `rows` (rising) brought into memory, where that is any use."""
        if self.file is None or self.start is None:
            return
        if self.offsets is None:
            row_bytes = int(np.prod(self.images.shape[1:]))
            starts, stops = rows * row_bytes, (rows + 1) * row_bytes
        else:
            starts, stops = self.offsets[rows], self.offsets[rows + 1]
        will_need(self.file.descriptor, self.start + starts, self.start + stops)

    def close(self) -> None:
        """Give the file back."""
        if self.file is not None:
            self.file.close()
            if isinstance(self.images, np.ndarray):
                forget(self.images)


def open_shard(
    path: Path, entry: ShardEntry, manifest: Manifest, place: tuple[str, int, int], use_maps: bool = True
) -> OpenShard:
    """Return a shard, checked to be the one that the manifest's `entry` describes; see ShardReader for `use_maps`.

    `place` is its split, its number and the number of the split's shards. DataError if it is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; copy the whole folder, or {REBUILD}")
    with naming(path):
        file = PlainHdf5(path)
    try:
        with naming(path):
            _check_attributes(path, file, place, manifest.storage)
            labels = checked_array(path, file, "labels", (entry.count,), LABEL_DTYPE).read()
            _check_labels(path, labels, entry, len(manifest.class_names))
            if manifest.storage == "raw":
                stored = checked_array(path, file, "images", (entry.count, *manifest.image_shape), IMAGE_DTYPE)
                sizes = np.broadcast_to(np.array(stored.shape[1:3], SIZE_DTYPE), (entry.count, 2))
                offsets = None
            else:
                offsets, sizes = _read_index(path, file, entry.count, manifest)
                stored = checked_array(path, file, "bytes", (int(offsets[-1]),), IMAGE_DTYPE)
        start = stored.offset if isinstance(stored, FileArray) else None
        mapped = _map(path, start, stored.shape) if use_maps and start is not None else None
        images, stamp = stored if mapped is None else mapped, Stamp.of(file.descriptor)
        shard = OpenShard(images, labels, sizes, offsets, file, start, stamp)
    except BaseException:
        file.close()
        raise
    if mapped is not None:
        explain(mapped, lambda byte: _describe_fault(path, shard, byte))
    return shard


def _describe_fault(path: Path, shard: OpenShard, byte: int) -> str:
    """Return why byte `byte` of a mapped shard's images cannot be read."""
    if shard.offsets is None:
        row = byte // max(int(np.prod(shard.images.shape[1:])), 1)
    else:
        row = int(np.searchsorted(shard.offsets, byte, side="right")) - 1
    stamp = shard.stamp_now()
    if stamp is not None and stamp.num_bytes <= (shard.start or 0) + byte:
        why = f"the file was cut to {stamp.num_bytes} bytes while it was open"
    else:
        why = "its disk or file system failed"
    return f"{path}: sample {row} cannot be read: {why}; {RESTORE}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make a DataError, with the file's name and the way out, of what is wrong with the structure of `path`."""
    try:
        yield
    except Hdf5Error as error:
        raise DataError(f"{path} {error}; {REBUILD}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); {REBUILD}") from error


def _check_attributes(path: Path, file: PlainHdf5, place: tuple[str, int, int], storage: str) -> None:
    check_version(path, file.attributes.get("format_version"))
    split, index, num_shards = (file.attributes.get(name) for name in ("split", "shard", "num_shards"))
    if (split, index, num_shards) != place:
        raise DataError(f"{path} is inside shard {index} of {num_shards} of split {split!r}; {REBUILD}")
    if file.attributes.get("storage") != storage:
        raise DataError(
            f"{path} has storage {file.attributes.get('storage')!r}, the manifest says otherwise; {REBUILD}"
        )


def _map(path: Path, offset: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the images as a memory map, None where the file system has none."""
    try:
        return np.memmap(path, IMAGE_DTYPE, "r", offset, shape).view(np.ndarray)  # which is cut in a fifth of the time
    except OSError:
        return None


def _read_index(path: Path, file: PlainHdf5, count: int, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Return where the encoded files are in `bytes`, (n + 1,), and the sizes (n, 2) of their images."""
    offsets = checked_array(path, file, "offsets", (count + 1,), COUNT_DTYPE).read()
    sizes = checked_array(path, file, "sizes", (count, 2), SIZE_DTYPE).read()
    if offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise DataError(f"{path}: its offsets do not rise from 0; {REBUILD}")
    expected = manifest.image_shape[:2]
    if (sizes < 1).any() or (expected != (None, None) and (sizes != np.array(expected)).any()):
        raise DataError(f"{path} has images of other sizes than the manifest says; {REBUILD}")
    return offsets, sizes


def checked_array(path: Path, file: PlainHdf5, name: str, shape: tuple[int | None, ...], dtype: np.dtype[Any]) -> Array:
    """Return a dataset of an open file. DataError or Hdf5Error unless it is there and of this shape and type."""
    array = file.array(name)
    if array.shape != shape or array.dtype != dtype:
        raise DataError(f"{path}: {name} is {array.dtype} {array.shape}, the manifest says {dtype} {shape}; {REBUILD}")
    return array


def _check_labels(path: Path, labels: np.ndarray, entry: ShardEntry, num_classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise DataError(f"{path} has the label {wrong[0]}, but there are {num_classes} classes; {REBUILD}")
    if tuple(np.bincount(labels, minlength=num_classes).tolist()) != entry.class_histogram:
        raise DataError(f"{path} has other numbers of images of each class than the manifest says; {REBUILD}")
