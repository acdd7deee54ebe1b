"""Class folders, on disk or in an archive, perhaps in train/, val/ or test/; a class folder may be a class tar.

Also files without folders that are named by their class, as ImageNet's training images are: n01440764_10026.JPEG.
"""

import re

from data_prep.sources.image_list import SourceImage
from data_prep.sources.listing import WHOLE, Found
from data_prep.sources.source import Source, is_below
from data_prep.sources.tree import Entry
from owt_mpi.data.manifest import DataError

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
WNID_FILE = re.compile(r"(n\d{8})_.")


def list_class_folders(source: Source) -> Found:
    """Return the images of a source of class folders. DataError if some are in split folders and some are not."""
    source.expand_below()
    found = Found()
    for entry in source.tree.images:
        if entry.folder:
            add_in_class_folder(found, _split_of(entry.folder), entry)
        else:
            found.ignored.append(f"{entry.path} is in no class folder")
    found.ignored += not_images(source)
    found.empty_folders = _leaves(source.tree.folders)
    if WHOLE in found.splits and len(found.splits) > 1:
        raise DataError(f"{source.path} has both {found.splits[WHOLE][0]} and train/, val/ or test/ beside it")
    return found


def list_named_files(source: Source) -> Found:
    """Return the images whose names start with their class, a WNID."""
    found = Found()
    for entry in source.tree.images:
        match = WNID_FILE.match(entry.name)
        if match is None:
            found.ignored.append(f"{entry.path} is not named by its class, as n01440764_1.JPEG is")
        else:
            found.add(_split_of(f"{entry.folder}/"), SourceImage(match[1], *entry[1:]))
    found.ignored += not_images(source)
    return found


def add_in_class_folder(found: Found, split: str, entry: Entry) -> None:
    """Add a file to a split, its folder being its class."""
    found.add(split, SourceImage(entry.folder.rpartition("/")[2], *entry[1:]))


def not_images(source: Source, folder: str = "") -> list[str]:
    """Return a line for every file below a folder of a source that is no image by its name."""
    return [f"{path} is not an image file" for path in source.tree.others if is_below(path, folder)]


def _split_of(class_folder: str) -> str:
    above = class_folder.split("/")[-2:-1]
    return SPLIT_FOLDERS.get(above[0].lower(), WHOLE) if above else WHOLE


def _leaves(folders: set[str]) -> set[str]:
    """Return the last parts of the folders that hold no folder, but for those of splits."""
    above = {folder.rpartition("/")[0] for folder in folders}
    names = {folder.rpartition("/")[2] for folder in folders - above}
    return {name for name in names if name and name.lower() not in SPLIT_FOLDERS}
