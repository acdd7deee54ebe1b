"""Opening a source: which layout it has, found by its structure or named by the user."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources import cifar, imagenet, kaggle, mnist, tiny_imagenet
from data_prep.sources.class_folders import WNID_FILE, list_class_folders, list_named_files
from data_prep.sources.listing import Found, Listing, listing_of
from data_prep.sources.source import Source
from data_prep.sources.spool import Spool
from data_prep.sources.tree import Tree, tar_stem
from owt_mpi.data.manifest import DataError


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set: what tells it from others, how it is listed, and what it is made of, in words."""

    matches: Callable[[Tree], bool]
    list: Callable[[Source], Found]
    expected: str


def _has_class_folders(tree: Tree) -> bool:
    return any(entry.folder for entry in tree.images) or any(tar_stem(entry.name) for entry in tree.others.values())


def _has_named_files(tree: Tree) -> bool:
    return any(WNID_FILE.match(entry.name) for entry in tree.images)


LAYOUTS = {  # in the order in which they are tried
    "kaggle": Layout(kaggle.is_kaggle, kaggle.list_kaggle, kaggle.EXPECTED),
    "imagenet": Layout(imagenet.is_imagenet, imagenet.list_imagenet, imagenet.EXPECTED),
    "tiny-imagenet": Layout(tiny_imagenet.is_tiny_imagenet, tiny_imagenet.list_tiny_imagenet, tiny_imagenet.EXPECTED),
    "cifar": Layout(cifar.is_cifar, cifar.list_cifar, cifar.EXPECTED),
    "mnist": Layout(mnist.is_mnist, mnist.list_mnist, mnist.EXPECTED),
    "fashion-mnist": Layout(lambda tree: False, mnist.list_fashion_mnist, "the same, by name only"),
    "class-folders": Layout(
        _has_class_folders,
        list_class_folders,
        "class folders or class tars, perhaps in train/, val/ or test/, in a folder, a tar or a zip",
    ),
    "named-files": Layout(_has_named_files, list_named_files, "files named as n01440764_1.JPEG, without folders"),
}


def open_source(path: Path, layout: str | None = None, spool_folder: Path | None = None) -> Listing:
    """Return what the folder or archive `path` holds, without reading its images.

    `layout` is a key of LAYOUTS; by default it is found out. Compressed archives are unpacked into a temporary file in
    `spool_folder` (by default the system's), which `Listing.close` removes. ValueError for a wrong argument, DataError
    for data that cannot be used or do not fit there; then nothing is left in `spool_folder`.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}; choose {', '.join(LAYOUTS)}, or none to have it found out")
    spool = Spool(str(spool_folder or tempfile.gettempdir()), str(path.absolute()))
    try:
        source = Source(path, spool)
        name = layout or _detect(source)
        return listing_of(source, name, LAYOUTS[name].list(source))
    except BaseException:
        spool.remove()
        raise


def _detect(source: Source) -> str:
    name = next((name for name, layout in LAYOUTS.items() if layout.matches(source.tree)), None)
    if name is None:
        top = source.tree.top()
        there = ", ".join(top[:5]) + " ..." * (len(top) > 5) if top else "nothing"
        expected = "; ".join(f"{name}: {layout.expected}" for name, layout in LAYOUTS.items())
        raise DataError(f"{source.path} has no images in a known layout: it has {there}; expected is one of {expected}")
    return name
