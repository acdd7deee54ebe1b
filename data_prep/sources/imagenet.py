"""ImageNet's ILSVRC2012 as its authors hand it out: a tar of class tars, flat validation images, a development kit."""

import re
from collections import Counter

from data_prep.sources.class_folders import add_in_class_folder, not_images
from data_prep.sources.devkit import Devkit, read_devkit
from data_prep.sources.image_list import SourceImage
from data_prep.sources.listing import Found
from data_prep.sources.source import Source, is_below
from data_prep.sources.tree import Entry, Tree, tar_stem
from owt_mpi.data.manifest import DataError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
EXPECTED = (
    f"ILSVRC2012_img_train.tar or train/, ILSVRC2012_img_val.tar or val/, and {DEVKIT}, packed or not, in a folder"
)
_NAMES = {"train": ("ILSVRC2012_img_train", "train"), "val": ("ILSVRC2012_img_val", "val")}
_WNID = re.compile(r"n\d{8}")
_VAL_FILE = re.compile(r"ILSVRC2012_val_(\d{8})\.", re.IGNORECASE)


def is_imagenet(tree: Tree) -> bool:
    """Return whether files of ILSVRC2012 are at the top, or validation images as it names them, without classes."""
    return any(name.startswith("ILSVRC2012_") for name in tree.top()) or any(
        _VAL_FILE.match(entry.name) and "/" not in entry.folder for entry in tree.images
    )


def list_imagenet(source: Source) -> Found:
    """Return ILSVRC2012's images; the labels of flat validation images come from the kit.

    With a kit its 1000 classes are those of the data set, whatever images are there, and tell how many there should be.
    """
    folders = {split: _folder(source, names) for split, names in _NAMES.items()}
    devkit = _devkit(source)
    flat_here = any(not entry.folder and _VAL_FILE.match(entry.name) for entry in source.tree.images)
    if folders["val"] is None and flat_here:
        folders["val"] = ""
    if not any(folder is not None for folder in folders.values()):
        raise DataError(f"{source.path} has {_there(source)}, but no images of ILSVRC2012; expected are {EXPECTED}")
    found = Found()
    if devkit is not None:
        found.class_names.update(devkit.titles)
        found.class_titles = devkit.titles
        numbers = {"train": devkit.num_train_images, "val": dict(Counter(devkit.val_wnids))}
        found.expected = {split: numbers[split] for split, folder in folders.items() if folder is not None}
    for entry in source.tree.images:
        split = next((split for split, folder in folders.items() if _is_in(entry.folder, folder)), "")
        if split:
            _add(source, found, split, entry, devkit)
        else:
            found.ignored.append(f"{entry.path} is in neither part")
    found.ignored += [line for folder in folders.values() if folder for line in not_images(source, folder)]
    found.ignored += [f"{path} is not needed" for path in source.tree.others if "/" not in path]
    return found


def _is_in(path: str, folder: str | None) -> bool:
    return is_below(path, folder) if folder else path == folder


def _add(source: Source, found: Found, split: str, entry: Entry, devkit: Devkit | None) -> None:
    folder = entry.folder.rpartition("/")[2]
    match = _VAL_FILE.match(entry.name)
    if split == "train" or match is None or _WNID.fullmatch(folder):
        if devkit is None or folder in devkit.titles:
            add_in_class_folder(found, split, entry)
        else:
            found.ignored.append(f"{entry.path} is in no folder of a class of {DEVKIT}")
        return
    if devkit is None:
        raise DataError(
            f"{source.path} has {_there(source)}: the labels of {entry.path} and the others are in {DEVKIT}, which is "
            "not there; put it beside them and name the folder that holds all (of Kaggle's download that with ILSVRC/)"
        )
    number = int(match[1])
    if 1 <= number <= len(devkit.val_wnids):
        found.add("val", SourceImage(devkit.val_wnids[number - 1], *entry[1:]))
    else:
        found.ignored.append(f"{entry.path} is not among the {len(devkit.val_wnids)} images of {DEVKIT}")


def _folder(source: Source, names: tuple[str, ...]) -> str | None:
    """Return the first folder of these names, or tar of these expanded; None if there is none."""
    for name in names:
        tar = next((e for e in source.tree.others.values() if not e.folder and tar_stem(e.name) == name), None)
        if tar is not None:
            source.expand(tar)
        if name in source.tree.folders:
            source.expand_below(name)
            return name
    return None


def _devkit(source: Source) -> Devkit | None:
    """Return the kit, packed or not, if there is one."""
    for entry in source.tree.others.values():
        if not entry.folder and tar_stem(entry.name).startswith("ILSVRC2012_devkit"):
            return read_devkit(source, source.expand(entry))
    folder = next((name for name in sorted(source.tree.folders) if name.startswith("ILSVRC2012_devkit")), None)
    return None if folder is None else read_devkit(source, folder)


def _there(source: Source) -> str:
    names = source.tree.top()
    return ", ".join(names[:5]) + " ..." * (len(names) > 5)
