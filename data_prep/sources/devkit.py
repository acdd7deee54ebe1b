"""ILSVRC2012's development kit: the classes, and the labels of the validation images.

The labels are ILSVRC2012_IDs, from 1, in the order of the validation files' names. These IDs are not in the order of
the WNIDs, by which classes are named and ordered everywhere else; meta.mat says which is which.
"""

from dataclasses import dataclass
from typing import NamedTuple

from data_prep.sources.matlab import Value, read_structs
from data_prep.sources.source import Source, is_below
from data_prep.sources.tree import Entry
from owt_mpi.data.manifest import DataError

META_FILE = "meta.mat"
TRUTH_FILE = "ILSVRC2012_validation_ground_truth.txt"
_FIELDS = ("ILSVRC2012_ID", "WNID", "words", "num_train_images", "num_children")


class _Synset(NamedTuple):
    id: int
    wnid: str
    words: str
    num_train_images: int
    num_children: int


@dataclass(frozen=True)
class Devkit:
    """The kit's content. `titles` and `num_train_images` are by WNID; `val_wnids` is in the order of the file names."""

    titles: dict[str, str]
    num_train_images: dict[str, int]
    val_wnids: list[str]


def read_devkit(source: Source, folder: str) -> Devkit:
    """Return the kit below a folder of the source's tree. DataError if a part is missing or makes no sense."""
    meta, truth = (_only(source, folder, name) for name in (META_FILE, TRUTH_FILE))
    synsets = _read_synsets(source.content(meta), source.label(meta))
    classes = {synset.id: synset for synset in synsets if synset.num_children == 0}  # the others are above these
    try:
        val_wnids = [classes[int(line)].wnid for line in source.content(truth).split()]
    except (ValueError, KeyError) as error:
        raise DataError(f"{source.label(truth)} has a line that is no class's ID in {META_FILE}: {error}") from error
    return Devkit(
        titles={synset.wnid: synset.words for synset in classes.values()},
        num_train_images={synset.wnid: synset.num_train_images for synset in classes.values()},
        val_wnids=val_wnids,
    )


def _only(source: Source, folder: str, name: str) -> Entry:
    entries = [e for e in source.tree.others.values() if e.name == name and is_below(e.folder, folder)]
    if len(entries) != 1:
        raise DataError(
            f"{source.path}: {folder} has {len(entries)} files {name} instead of one; it should be as in "
            "ILSVRC2012_devkit_t12.tar.gz"
        )
    return entries[0]


def _read_synsets(content: bytes, label: str) -> list[_Synset]:
    try:
        rows = read_structs(content, "synsets", _FIELDS)
        return [
            _Synset(_whole(id_), _text(wnid), _text(words), _whole(num_train_images), _whole(num_children))
            for id_, wnid, words, num_train_images, num_children in rows
        ]
    except ValueError as error:
        raise DataError(f"{label} is damaged ({error}); fetch it again") from error


def _whole(value: Value) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(f"{value!r:.40} is no whole number")


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r:.40} is no text")
