"""What a finished shard tells besides its pixels: for a build that goes on after an interruption, and for checks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.data.manifest import REBUILD, DataError, OddFile, check_version
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_file import COUNT_DTYPE, IMAGE_DTYPE, LABEL_DTYPE, naming
from owt_mpi.plain_hdf5.reader import PlainHdf5
from owt_mpi.plain_hdf5.source import Hdf5Error


@dataclass(frozen=True)
class ShardRecord:
    """All of a shard but its images. `sums` are over its pixels; `source` says what it was built from, and how."""

    split: str
    shard: int
    num_shards: int
    storage: str
    source: str
    class_names: tuple[str, ...]
    labels: np.ndarray  # (n,)
    names: tuple[str, ...]  # class/file name
    source_sha256: np.ndarray  # (n, 32) uint8
    sums: PixelSums
    odd_files: tuple[OddFile, ...]


def read_record(path: Path) -> ShardRecord:
    """Return what the shard `path` holds besides its images. DataError if it is no whole shard of this version."""
    try:
        with naming(path), PlainHdf5(path) as file:
            check_version(path, file.attributes.get("format_version"))
            return ShardRecord(
                split=str(file.attributes["split"]),
                shard=int(file.attributes["shard"]),
                num_shards=int(file.attributes["num_shards"]),
                storage=str(file.attributes["storage"]),
                source=str(file.attributes["source"]),
                class_names=_strings(file, "classes"),
                labels=_array(file, "labels", LABEL_DTYPE, 1),
                names=_strings(file, "names"),
                source_sha256=_array(file, "source_sha256", IMAGE_DTYPE, 2),
                sums=_read_sums(file),
                odd_files=_read_odd_files(file),
            )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); {REBUILD}") from error


def write_odd_files(file: Any, odd_files: Sequence[OddFile]) -> None:
    """Write the notes on odd files to an open shard: JSON in UTF-8, as the manifest has it."""
    text = json.dumps([asdict(odd) for odd in odd_files], ensure_ascii=False)
    file["odd_files"] = np.frombuffer(text.encode(), np.uint8)


def _read_sums(file: PlainHdf5) -> PixelSums:
    count, total = _array(file, "pixel_count", COUNT_DTYPE, 0), _array(file, "channel_sum", COUNT_DTYPE, 1)
    products = _array(file, "channel_products", COUNT_DTYPE, 2)
    image = _array(file, "image_sum", COUNT_DTYPE, 3) if "image_sum" in file.names else None
    if products.shape != 2 * total.shape or (image is not None and image.shape[2:] != total.shape):
        raise Hdf5Error("has sums over other numbers of channels")
    squares = zip(total.tolist(), np.diag(products).tolist(), strict=True)
    if count < 1 or any(each < 0 or each * each > square * int(count) for each, square in squares):
        raise Hdf5Error("has sums that no pixels have")
    return PixelSums(int(count), total, products, image)


def _read_odd_files(file: PlainHdf5) -> tuple[OddFile, ...]:
    content = json.loads(_array(file, "odd_files", IMAGE_DTYPE, 1).tobytes())
    return tuple(OddFile(str(odd["name"]), str(odd["reason"]), str(odd["fate"])) for odd in content)


def _strings(file: PlainHdf5, name: str) -> tuple[str, ...]:
    texts = file.array(name).read()
    if texts.ndim != 1 or texts.dtype.kind != "S":
        raise Hdf5Error(f"has {name!r} of type {texts.dtype} with {texts.ndim} axes, and no texts")
    return tuple(text.decode() for text in texts.tolist())


def _array(file: PlainHdf5, name: str, dtype: np.dtype[Any], num_axes: int) -> np.ndarray:
    """Return a whole dataset. Hdf5Error unless it is of that type and has so many axes."""
    array = file.array(name)
    if array.dtype != dtype or len(array.shape) != num_axes:
        raise Hdf5Error(f"has {name!r} of type {array.dtype} and shape {array.shape}, not {dtype} with {num_axes} axes")
    return array.read()
