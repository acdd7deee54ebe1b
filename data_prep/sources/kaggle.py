"""ImageNet's ILSVRC2012 as Kaggle hands it out: ILSVRC/Data/CLS-LOC and tables, in a folder, a tar or a zip."""

import csv
from collections import Counter

from data_prep.sources.class_folders import add_in_class_folder, not_images
from data_prep.sources.image_list import SourceImage
from data_prep.sources.listing import Found
from data_prep.sources.source import Source, is_below
from data_prep.sources.tree import Tree, join
from owt_mpi.data.manifest import DataError

VAL_TABLE, TITLES, TRAIN_LIST = "LOC_val_solution.csv", "LOC_synset_mapping.txt", "train_cls.txt"
EXPECTED = f"ILSVRC/Data/CLS-LOC/ with train/ and val/, {VAL_TABLE} and {TITLES}, in a folder, a tar or a zip"


def is_kaggle(tree: Tree) -> bool:
    """Return whether there is a folder Data/CLS-LOC."""
    return _base(tree) is not None


def list_kaggle(source: Source) -> Found:
    """Return Kaggle's images of ILSVRC2012. DataError if there are validation images, but not their table."""
    base = _base(source.tree)
    if base is None:
        raise DataError(f"{source.path} has no folder Data/CLS-LOC; expected is {EXPECTED}")
    found = Found(class_titles=_titles(source))
    found.class_names.update(found.class_titles)
    train, val = join(base, "train"), join(base, "val")
    val_classes = _val_classes(source, val)
    num_unlabelled = 0
    for entry in source.tree.images:
        if is_below(entry.folder, train) and entry.folder != train:
            add_in_class_folder(found, "train", entry)
        elif entry.folder == val and entry.name.rpartition(".")[0] in val_classes:
            found.add("val", SourceImage(val_classes[entry.name.rpartition(".")[0]], *entry[1:]))
        elif is_below(entry.folder, join(base, "test")):
            num_unlabelled += 1
        else:
            found.ignored.append(f"{entry.path} has no label")
    if num_unlabelled:
        found.ignored.append(f"{join(base, 'test')}: {num_unlabelled} images without labels")
    found.ignored += not_images(source, base)
    found.expected = _expected(source, val_classes)
    return found


def _base(tree: Tree) -> str | None:
    return next((folder for folder in sorted(tree.folders) if f"/{folder}".endswith("/Data/CLS-LOC")), None)


def _titles(source: Source) -> dict[str, str]:
    entry = source.tree.find(TITLES)
    lines = source.text(entry).splitlines() if entry is not None else []
    return {wnid: title for wnid, _, title in (line.partition(" ") for line in lines) if wnid}


def _val_classes(source: Source, val: str) -> dict[str, str]:
    """Return the WNID of each validation image by its name without suffix: the first word of what is to be found."""
    entry = source.tree.find(VAL_TABLE)
    if entry is None:
        if any(image.folder == val for image in source.tree.images):
            raise DataError(
                f"{source.path} has {val}, but not its labels, {VAL_TABLE}; put it into the source's folder"
            )
        return {}
    try:
        rows = csv.DictReader(source.text(entry).splitlines())
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError, csv.Error) as error:
        raise DataError(
            f"{source.label(entry)} is not a table of ImageId and PredictionString; fetch it again"
        ) from error


def _expected(source: Source, val_classes: dict[str, str]) -> dict[str, dict[str, int]]:
    expected = {"val": dict(Counter(val_classes.values()))} if val_classes else {}
    entry = source.tree.find(TRAIN_LIST)  # lines as n01440764/n01440764_10026 1
    if entry is not None:
        expected["train"] = dict(Counter(line.partition("/")[0] for line in source.text(entry).splitlines()))
    return expected
