"""What a finished shard tells besides its pixels: for a build that goes on after an interruption, and for checks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from owt_mpi.data.manifest import REBUILD, DataError, OddFile, check_version
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_file import H5PY_ERRORS


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
        with h5py.File(path, "r", locking=False) as file:
            check_version(path, file.attrs.get("format_version"))
            image = file["image_sum"][:] if "image_sum" in file else None
            sums = PixelSums(
                int(file["pixel_count"][()]), file["channel_sum"][:], file["channel_products"][:], image
            )  # fmt: skip
            return ShardRecord(
                split=str(file.attrs["split"]),
                shard=int(file.attrs["shard"]),
                num_shards=int(file.attrs["num_shards"]),
                storage=str(file.attrs["storage"]),
                source=str(file.attrs["source"]),
                class_names=_strings(file["classes"]),
                labels=file["labels"][:],
                names=_strings(file["names"]),
                source_sha256=file["source_sha256"][:],
                sums=sums,
                odd_files=_read_odd_files(file),
            )
    except H5PY_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); {REBUILD}") from error


def write_odd_files(file: Any, odd_files: Sequence[OddFile]) -> None:
    """Write the notes on odd files to an open shard: JSON in UTF-8, as the manifest has it."""
    text = json.dumps([asdict(odd) for odd in odd_files], ensure_ascii=False)
    file["odd_files"] = np.frombuffer(text.encode(), np.uint8)


def _read_odd_files(file: Any) -> tuple[OddFile, ...]:
    content = json.loads(file["odd_files"][:].tobytes())
    return tuple(OddFile(str(odd["name"]), str(odd["reason"]), str(odd["fate"])) for odd in content)


def _strings(dataset: Any) -> tuple[str, ...]:
    return tuple(text.decode() for text in dataset[:].tolist())
