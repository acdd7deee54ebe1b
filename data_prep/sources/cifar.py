"""CIFAR-10 and CIFAR-100 as their author hands them out, binary or Python version: tar.gz or unpacked.

Both versions give the same images with the same names. https://www.cs.toronto.edu/~kriz/cifar.html has the formats.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.sources.cifar_pickle import read_pickle
from data_prep.sources.listing import Found
from data_prep.sources.rasters import add_rasters
from data_prep.sources.source import Source
from data_prep.sources.tree import Entry, Tree
from owt_mpi.data.manifest import DataError

EXPECTED = "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or those of CIFAR-100, or the folder they unpack to"
_PIXELS = 3 * 32 * 32
_AGAIN = "fetch it again"


_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


@dataclass(frozen=True)
class _Version:
    """The files of a version, by split, and the one with the class names."""

    files: dict[str, tuple[str, ...]]
    names_file: str
    label_bytes: int = 0  # of a binary record, before the pixels, the wanted label last
    labels_key: str = ""  # of the dictionary in a pickle
    names_key: str = ""

    @property
    def is_binary(self) -> bool:
        return self.label_bytes > 0


_VERSIONS = (
    _Version(
        {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        label_bytes=1,
    ),
    _Version({"train": ("train.bin",), "test": ("test.bin",)}, "fine_label_names.txt", label_bytes=2),
    _Version({"train": _BATCHES, "test": ("test_batch",)}, "batches.meta", 0, "labels", "label_names"),
    _Version({"train": ("train",), "test": ("test",)}, "meta", 0, "fine_labels", "fine_label_names"),
)


def is_cifar(tree: Tree) -> bool:
    """Return whether the first images and the class names of a version are there."""
    return _version(tree) is not None


def list_cifar(source: Source) -> Found:
    """Return CIFAR's images as PPM files. DataError if one of its files is missing or damaged."""
    version = _version(source.tree)
    if version is None:
        raise DataError(f"{source.path} has no files of CIFAR; expected is {EXPECTED}")
    names = _class_names(source, version)
    found = Found(class_names=set(names))
    for split, files in version.files.items():
        for file in files:
            entry = _file(source, file)
            pixels, labels = (_read_binary if version.is_binary else _read_python)(source, entry, version)
            if labels.max(initial=0) >= len(names):
                raise DataError(f"{source.label(entry)} has the label {labels.max()} of {len(names)} classes; {_AGAIN}")
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored one channel after the other
            of_images = [names[label] for label in labels.tolist()]
            add_rasters(source, found, split, images, of_images, file.removesuffix(".bin"))
    return found


def _version(tree: Tree) -> _Version | None:
    there = {path.rpartition("/")[2] for path in tree.others}
    return next((version for version in _VERSIONS if {version.names_file, version.files["train"][0]} <= there), None)


def _file(source: Source, name: str) -> Entry:
    entry = source.tree.find(name)
    if entry is None:
        raise DataError(f"{source.path} has no {name}; expected is {EXPECTED}")
    return entry


def _class_names(source: Source, version: _Version) -> list[str]:
    entry = _file(source, version.names_file)
    if version.is_binary:
        return source.text(entry).split()
    names = read_pickle(source.content(entry), source.label(entry)).get(version.names_key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{source.label(entry)} has no list {version.names_key}; {_AGAIN}")
    return [name.decode("ascii", "replace") for name in names]


def _read_binary(source: Source, entry: Entry, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(source.content(entry), np.uint8)
    record_bytes = version.label_bytes + _PIXELS
    if not len(records) or len(records) % record_bytes:
        raise DataError(f"{source.label(entry)} has {len(records)} bytes, no multiple of {record_bytes}; {_AGAIN}")
    records = records.reshape(-1, record_bytes)
    return records[:, version.label_bytes :], records[:, version.label_bytes - 1]


def _read_python(source: Source, entry: Entry, version: _Version) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(source.content(entry), source.label(entry))
    pixels, labels = batch.get("data"), batch.get(version.labels_key)
    if (
        not isinstance(pixels, np.ndarray)
        or not isinstance(labels, list)
        or pixels.shape != (len(labels), _PIXELS)
        or not all(isinstance(label, int) and 0 <= label < 256 for label in labels)
    ):
        raise DataError(f"{source.label(entry)} does not hold data (n, {_PIXELS}) and n {version.labels_key}; {_AGAIN}")
    return pixels, np.array(labels, np.int64)
