"""The manifest of a data set folder: what the shards hold, for writer and reader. Plain JSON, versioned.

Readers ignore keys that they do not know, so a key may be added under the same version; a change of meaning raises it.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_NAME = "owt_mpi.shards"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
REBUILD = "run `python -m data_prep.build_shards` again"


class DataError(ValueError):
    """Data that cannot be used. The message is one line: the file, what is wrong with it, and the way out."""


@dataclass(frozen=True)
class Statistics:
    """Moments of the training set's pixels, in units of the stored 0..255, computed exactly and given as float64.

    `std` and the covariance are those of the population (divided by the number of pixels). Row k of
    `pca_eigenvectors` is the unit eigenvector of `pca_eigenvalues[k]`; eigenvalues fall; the largest component of each
    eigenvector is positive. All have the length c of the image's channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pca_eigenvalues: tuple[float, ...]
    pca_eigenvectors: tuple[tuple[float, ...], ...]

    @classmethod
    def from_moments(cls, mean: np.ndarray, covariance: np.ndarray) -> "Statistics":
        """Return the statistics of pixels with this mean (c,) and covariance (c, c)."""
        eigenvalues, columns = np.linalg.eigh(covariance)
        rows = columns.T[::-1]
        signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])
        return cls(
            mean=tuple(mean.tolist()),
            std=tuple(np.sqrt(np.diag(covariance)).tolist()),
            pca_eigenvalues=tuple(np.maximum(eigenvalues[::-1], 0.0).tolist()),
            pca_eigenvectors=tuple(tuple(row) for row in (rows * signs[:, None]).tolist()),
        )


@dataclass(frozen=True)
class ShardEntry:
    """One shard file: its name in the folder, how many images it has in all and of each class, its SHA-256."""

    file: str
    count: int
    sha256: str
    class_histogram: tuple[int, ...]


@dataclass(frozen=True)
class SplitEntry:
    """The shards of one split in order, and the samples that were left out ("class/name: reason")."""

    count: int
    shards: tuple[ShardEntry, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """All that is known of a data set besides its pixels. A class's index is its position in `class_names`."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # (h, w, c)
    splits: dict[str, SplitEntry]
    statistics: Statistics
    seed: int
    options: dict[str, Any] = field(default_factory=dict)  # what the data set was built from and with

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, whole or not at all. Do it last: it says that the shards are complete."""
        content = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        temporary = folder / f"{MANIFEST_NAME}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / MANIFEST_NAME)
        sync_folder(folder)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest in `folder`. DataError if it is missing, malformed or of another version."""
        path = folder / MANIFEST_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: not a data set, or its build did not finish; {REBUILD}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); {REBUILD}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
            raise DataError(f"{path} is not a manifest of the format {FORMAT_NAME!r}; name a folder of build_shards")
        check_version(path, content.get("format_version"))
        try:
            manifest = cls._from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is malformed ({type(error).__name__}: {error}); {REBUILD}") from error
        manifest._check(path)
        return manifest

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "Manifest":
        height, width, channels = (int(size) for size in content["image_shape"])
        statistics = content["statistics"]
        return cls(
            class_names=tuple(str(name) for name in content["class_names"]),
            image_shape=(height, width, channels),
            splits={name: _split_from_json(split) for name, split in content["splits"].items()},
            statistics=Statistics(
                mean=_floats(statistics["mean"]),
                std=_floats(statistics["std"]),
                pca_eigenvalues=_floats(statistics["pca_eigenvalues"]),
                pca_eigenvectors=tuple(_floats(row) for row in statistics["pca_eigenvectors"]),
            ),
            seed=int(content["seed"]),
            options=dict(content["options"]),
        )

    def _check(self, path: Path) -> None:
        for name, split in self.splits.items():
            total = sum(shard.count for shard in split.shards)
            if total != split.count:
                raise DataError(f"{path} says that {name!r} has {split.count} images but its shards {total}; {REBUILD}")
            for shard in split.shards:
                if Path(shard.file).name != shard.file:
                    raise DataError(f"{path} names the shard {shard.file!r}, which is not in its own folder; {REBUILD}")
                if len(shard.class_histogram) != len(self.class_names) or sum(shard.class_histogram) != shard.count:
                    raise DataError(f"{path}: the class histogram of {shard.file} does not add up; {REBUILD}")


def check_version(path: Path, version: object) -> None:
    """Raise DataError unless `version` is the one that this program reads."""
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}; {REBUILD}")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _split_from_json(split: dict[str, Any]) -> SplitEntry:
    shards = tuple(
        ShardEntry(
            file=str(shard["file"]),
            count=int(shard["count"]),
            sha256=str(shard["sha256"]),
            class_histogram=tuple(int(count) for count in shard["class_histogram"]),
        )
        for shard in split["shards"]
    )
    return SplitEntry(count=int(split["count"]), shards=shards, skipped=tuple(str(s) for s in split["skipped"]))


def _floats(values: list[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
