"""Tiny-ImageNet as CS231n hands it out: train/WNID/images/, val/ with a table of labels; a folder or the zip."""

from collections import Counter

from data_prep.sources.image_list import SourceImage
from data_prep.sources.listing import Found
from data_prep.sources.source import Source, is_below
from data_prep.sources.tree import Entry, Tree, join
from owt_mpi.data.manifest import DataError

VAL_TABLE, CLASSES, TITLES = "val_annotations.txt", "wnids.txt", "words.txt"
EXPECTED = f"tiny-imagenet-200/ with {CLASSES}, {TITLES}, train/ and val/{VAL_TABLE}, in a folder or a zip"


def is_tiny_imagenet(tree: Tree) -> bool:
    """Return whether the table of validation labels is there."""
    return tree.find(VAL_TABLE) is not None


def list_tiny_imagenet(source: Source) -> Found:
    """Return Tiny-ImageNet's images. DataError if one of its tables is missing."""
    table, classes, words = (_table(source, name) for name in (VAL_TABLE, CLASSES, TITLES))
    base = classes.folder
    wnids = source.text(classes).split()
    titles = dict(line.split("\t", 1) for line in source.text(words).splitlines() if "\t" in line)
    found = Found(class_names=set(wnids), class_titles={wnid: titles[wnid] for wnid in wnids if wnid in titles})
    val_classes = dict(line.split("\t")[:2] for line in source.text(table).splitlines() if "\t" in line)
    num_unlabelled = 0
    for entry in source.tree.images:
        class_folder, _, images = entry.folder.rpartition("/")
        train, _, wnid = class_folder.rpartition("/")
        if images == "images" and train == join(base, "train") and wnid in found.class_names:
            found.add("train", SourceImage(wnid, *entry[1:]))
        elif is_below(entry.folder, join(base, "val")) and val_classes.get(entry.name) in found.class_names:
            found.add("val", SourceImage(val_classes[entry.name], *entry[1:]))
        elif is_below(entry.folder, join(base, "test")):
            num_unlabelled += 1
        else:
            found.ignored.append(f"{entry.path} has no label")
    if num_unlabelled:
        found.ignored.append(f"{join(base, 'test')}: {num_unlabelled} images without labels")
    found.expected = {"val": dict(Counter(val_classes.values()))}
    return found


def _table(source: Source, name: str) -> Entry:
    entry = source.tree.find(name)
    if entry is None:
        raise DataError(f"{source.path} has no {name}; expected is {EXPECTED}")
    return entry
