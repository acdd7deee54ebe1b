"""MNIST, Fashion-MNIST and others in idx files, perhaps gzipped: train-images-idx3-ubyte and so on."""

import re
from math import prod

import numpy as np

from data_prep.sources.listing import Found
from data_prep.sources.rasters import add_rasters
from data_prep.sources.source import Source
from data_prep.sources.tree import Entry, Tree
from owt_mpi.data.manifest import DataError

EXPECTED = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, gzipped or not, in a folder or a tar"
FASHION_TITLES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FILE = re.compile(r".*?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}


def is_mnist(tree: Tree) -> bool:
    """Return whether there is an idx file of images by its name."""
    return any("-images" in path and _FILE.fullmatch(path) for path in tree.others)


def list_mnist(source: Source) -> Found:
    """Return the images as PGM files; classes are named by their labels, so they are numbered the same."""
    files = _files(source)
    images = {split: entry for (split, kind), entry in files.items() if kind == "images"}
    if not images:
        raise DataError(f"{source.path} has no idx file of images; expected are {EXPECTED}")
    labels = {split: _labels(source, entry, files.get((split, "labels"))) for split, entry in images.items()}
    largest = max(int(of_split.max(initial=0)) for of_split in labels.values())
    names = [f"{label:0{len(str(largest))}d}" for label in range(largest + 1)]
    found = Found(class_names=set(names))
    for split, entry in images.items():
        pixels = _read_idx(source, entry)
        if pixels.ndim != 3 or len(pixels) != len(labels[split]):
            raise DataError(
                f"{source.label(entry)} has the shape {pixels.shape}, but there are {len(labels[split])} labels; the "
                "files do not belong together"
            )
        add_rasters(source, found, split, pixels[..., None], [names[label] for label in labels[split].tolist()], split)
    return found


def list_fashion_mnist(source: Source) -> Found:
    """Return the same with the classes' titles: nothing in the files tells Fashion-MNIST from MNIST."""
    found = list_mnist(source)
    found.class_titles = {str(label): title for label, title in enumerate(FASHION_TITLES)}
    return found


def _files(source: Source) -> dict[tuple[str, str], Entry]:
    """Return the file of each split and kind. Of two that are the same but for .gz the one without is taken."""
    files: dict[tuple[str, str], Entry] = {}
    for path in sorted(source.tree.others):
        match = _FILE.fullmatch(path)
        if match is None or path.removesuffix(".gz") in {entry.path for entry in files.values()}:
            continue
        key = (_SPLITS[match[1]], match[2])
        if key in files:
            raise DataError(f"{source.path} has both {files[key].path} and {path}; give each data set its own folder")
        files[key] = source.tree.others[path]
    return files


def _labels(source: Source, images: Entry, labels: Entry | None) -> np.ndarray:
    if labels is None:
        raise DataError(f"{source.label(images)} has no file of labels beside it; expected are {EXPECTED}")
    return _read_idx(source, labels).reshape(-1)


def _read_idx(source: Source, entry: Entry) -> np.ndarray:
    """Return the array in an idx file of bytes (http://yann.lecun.com/exdb/mnist): magic, sizes, values."""
    content = source.content(entry)
    num_axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * num_axes
    shape = np.frombuffer(content, ">u4", count=num_axes, offset=4).tolist() if len(content) >= start else []
    if not shape or len(content) - start != prod(shape):
        raise DataError(f"{source.label(entry)} is no idx file of bytes, or cut short; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
