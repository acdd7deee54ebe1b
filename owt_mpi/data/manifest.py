"""The manifest of a data set folder: what the shards hold, for writer and reader. Plain JSON, versioned.

Readers ignore keys that they do not know, so a key may be added under the same version; a change of meaning raises it.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.comm.guard import DATA_ERROR
from owt_mpi.disk import is_plain_name, write_whole
from owt_mpi.input_file import listed, number, read_json, short, table, text, whole

FORMAT_NAME = "owt_mpi.shards"
FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
STATISTICS_NAME = "statistics.h5"  # holds the dataset `mean_image`
STORAGES = ("raw", "jpeg")
FATES = ("skipped", "kept")
_LARGEST_MANIFEST, _LARGEST_SIDE, _LARGEST_SEED = 1 << 28, 1 << 16, 1 << 64
REBUILD = "run `python -m data_prep.build_shards` again"

ImageShape = tuple[int | None, int | None, int]  # (h, w, c); h and w are None where images differ in size


class DataError(ValueError):
    """Data that cannot be used. The message is one line: the file, what is wrong with it, and the way out."""

    exit_code = DATA_ERROR  # of a command that it ends


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
            std=tuple(np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist()),
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
class OddFile:
    """A file of the source that is not as it should be: its "class/file name", what is odd, and what became of it."""

    name: str
    reason: str
    fate: str  # one of FATES


@dataclass(frozen=True)
class SplitEntry:
    """The shards of one split in order, how many images each class has, and the odd files among its samples."""

    count: int
    class_histogram: tuple[int, ...]
    shards: tuple[ShardEntry, ...]
    odd_files: tuple[OddFile, ...] = ()

    @classmethod
    def of_shards(cls, shards: Sequence[ShardEntry], odd_files: Sequence[OddFile] = ()) -> "SplitEntry":
        """Return the entry of a split that consists of `shards`."""
        histogram = np.sum([shard.class_histogram for shard in shards], axis=0).tolist()
        return cls(sum(shard.count for shard in shards), tuple(histogram), tuple(shards), tuple(odd_files))

    @property
    def skipped(self) -> tuple[OddFile, ...]:
        """The files that were left out."""
        return tuple(file for file in self.odd_files if file.fate == "skipped")


@dataclass(frozen=True)
class Manifest:
    """All that is known of a data set besides its pixels. A class's index is its position in `class_names`."""

    class_names: tuple[str, ...]
    image_shape: ImageShape
    splits: dict[str, SplitEntry]
    statistics: Statistics
    seed: int
    storage: str = "raw"  # one of STORAGES
    class_titles: tuple[str, ...] = ()  # the classes' names for people; none, or one for each class
    mean_image: str | None = None  # the file with the mean training image, where images have one size
    duplicates: tuple[tuple[str, ...], ...] = ()  # "split/class/file name" of files with the same content
    source_notes: tuple[str, ...] = ()  # what was found in the source besides samples: ignored files, wrong counts
    options: dict[str, Any] = field(default_factory=dict)  # what the data set was built from and with

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, whole or not at all. Do it last: it says that the shards are complete."""
        content = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        write_whole(folder / MANIFEST_NAME, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest in `folder`. DataError if it is missing, malformed or of another version."""
        path = folder / MANIFEST_NAME
        try:
            content = read_json(path, _LARGEST_MANIFEST)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: not a data set, or its build did not finish; {REBUILD}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}); {REBUILD}") from error
        except ValueError as error:
            raise DataError(f"{path} {error}; {REBUILD}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
            raise DataError(f"{path} is not a manifest of the format {FORMAT_NAME!r}; name a folder of build_shards")
        check_version(path, content.get("format_version"))
        try:
            manifest = cls._from_json(content)
        except KeyError as error:
            raise DataError(f"{path} is malformed (it has no {error}); {REBUILD}") from error
        except ValueError as error:
            raise DataError(f"{path} is malformed ({error}); {REBUILD}") from error
        manifest._check(path)
        return manifest

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "Manifest":
        shape = listed(content["image_shape"], "image_shape")
        if len(shape) != 3 or shape[2] not in (1, 3) or (shape[0] is None) != (shape[1] is None):
            raise ValueError(f"image_shape is {short(shape)}, and not [h, w, c] with c = 1 or 3")
        height, width = (None if side is None else whole(side, "image_shape", 1, _LARGEST_SIDE) for side in shape[:2])
        num_channels = whole(shape[2], "image_shape")
        statistics = table(content["statistics"], "statistics")
        vectors = _exactly(statistics["pca_eigenvectors"], num_channels, "pca_eigenvectors")
        mean_image, options = content["mean_image"], table(content["options"], "options")
        if options.get("size") is not None:
            whole(options["size"], "the option size", 1, _LARGEST_SIDE)
        return cls(
            class_names=_texts(content["class_names"], "class_names"),
            image_shape=(height, width, num_channels),
            splits={
                name: _split_from_json(table(split, "a split"), name)
                for name, split in table(content["splits"], "splits").items()
            },
            statistics=Statistics(
                mean=_numbers(statistics["mean"], num_channels, "mean"),
                std=_numbers(statistics["std"], num_channels, "std"),
                pca_eigenvalues=_numbers(statistics["pca_eigenvalues"], num_channels, "pca_eigenvalues"),
                pca_eigenvectors=tuple(_numbers(row, num_channels, "pca_eigenvectors") for row in vectors),
            ),
            seed=whole(content["seed"], "seed", -_LARGEST_SEED, _LARGEST_SEED),
            storage=text(content["storage"], "storage"),
            class_titles=_texts(content["class_titles"], "class_titles"),
            mean_image=None if mean_image is None else text(mean_image, "mean_image"),
            duplicates=tuple(_texts(names, "duplicates") for names in listed(content["duplicates"], "duplicates")),
            source_notes=tuple(str(note) for note in listed(content["source_notes"], "source_notes")),
            options=options,
        )

    def _check(self, path: Path) -> None:
        if self.storage not in STORAGES:
            raise DataError(f"{path} says storage {short(self.storage)}, this program reads {' and '.join(STORAGES)}")
        if not self.class_names or len(set(self.class_names)) < len(self.class_names) or "train" not in self.splits:
            raise DataError(f"{path} has no classes, two of one name, or no training images; {REBUILD}")
        if len(self.class_titles) not in (0, len(self.class_names)):
            raise DataError(f"{path} has {len(self.class_titles)} titles of {len(self.class_names)} classes; {REBUILD}")
        if self.storage == "raw" and None in self.image_shape:
            raise DataError(f"{path} says that raw images differ in size, but they have one; {REBUILD}")
        files = [shard.file for split in self.splits.values() for shard in split.shards]
        for file in [*files, *filter(None, [self.mean_image])]:
            if not is_plain_name(file):
                raise DataError(f"{path} names the file {short(file)}, which is not in its own folder; {REBUILD}")
        for name, split in self.splits.items():
            total = sum(shard.count for shard in split.shards)
            if total != split.count:
                raise DataError(f"{path} says that {name!r} has {split.count} images but its shards {total}; {REBUILD}")
            for shard in split.shards:
                if len(shard.class_histogram) != len(self.class_names) or sum(shard.class_histogram) != shard.count:
                    raise DataError(f"{path}: the class histogram of {short(shard.file)} does not add up; {REBUILD}")
            if split != SplitEntry.of_shards(split.shards, split.odd_files):
                raise DataError(f"{path}: the class histogram of {name!r} is not the sum of its shards'; {REBUILD}")


def check_version(path: Path, version: object) -> None:
    """Raise DataError unless `version` is the one that this program reads."""
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {short(version)}, this program reads {FORMAT_VERSION}; {REBUILD} with "
            "--overwrite"
        )


def _split_from_json(split: dict[str, Any], name: str) -> SplitEntry:
    shards = tuple(
        ShardEntry(
            file=text(shard["file"], "file"),
            count=whole(shard["count"], "count", 1),
            sha256=text(shard["sha256"], "sha256"),
            class_histogram=_counts(shard["class_histogram"]),
        )
        for shard in (table(each, "a shard") for each in listed(split["shards"], "shards"))
    )
    odd_files = tuple(
        OddFile(text(odd["name"], "name"), str(odd["reason"]), text(odd["fate"], "fate"))
        for odd in (table(each, "an odd file") for each in listed(split["odd_files"], "odd_files"))
    )
    if not shards or not name.isidentifier():  # new files are named by it
        raise ValueError(f"split {short(name)} has {len(shards)} shards, or is called as none is")
    return SplitEntry(whole(split["count"], "count"), _counts(split["class_histogram"]), shards, odd_files)


def _counts(values: object) -> tuple[int, ...]:
    return tuple(whole(count, "class_histogram") for count in listed(values, "class_histogram"))


def _texts(values: object, name: str) -> tuple[str, ...]:
    return tuple(text(value, name) for value in listed(values, name))


def _exactly(values: object, count: int, name: str) -> list[Any]:
    found = listed(values, name)
    if len(found) != count:
        raise ValueError(f"{name} has {len(found)} values instead of {count}, one for each channel")
    return found


def _numbers(values: object, count: int, name: str) -> tuple[float, ...]:
    return tuple(number(value, name) for value in _exactly(values, count, name))
