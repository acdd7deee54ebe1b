"""Which images of the sources are for training and which for validation, and the classes they have."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.progress import Reporter
from data_prep.sources import WHOLE, ImageList, Listing
from owt_mpi import rng
from owt_mpi.data.manifest import DataError

TRAIN_SPLITS = ("train", WHOLE)
VAL_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Part:
    """The images of one split: `images[i]` for each i of `chosen` (rising), of the source with this number."""

    path: Path
    source: int
    images: ImageList
    chosen: np.ndarray


def choose_parts(listings: list[Listing], val_fraction: float | None, seed: int) -> dict[str, Part]:
    """Return the part for "train" and, if there are validation images, the one for "val".

    These are in the first source itself (val/, else test/), or in the second, or are drawn from the training images.
    """
    source = listings[0]
    train = _part(0, source, TRAIN_SPLITS)
    if train is None:
        raise DataError(f"{source.path} has no train/ beside {'/, '.join(source.splits)}/; name the training images")
    val = _part(0, source, VAL_SPLITS)
    if val is not None and (len(listings) > 1 or val_fraction is not None):
        raise ValueError(f"{source.path} has validation images of its own; leave out --val and --val-fraction")
    if len(listings) > 1:
        val = _part(1, listings[1], (*VAL_SPLITS, WHOLE, "train"))
    elif val_fraction is not None:
        train, val = split_off(train, val_fraction, seed)
    return {"train": train} if val is None else {"train": train, "val": val}


def split_off(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """Return the rest, and about `fraction` of each class drawn at random."""
    taken = np.zeros(len(part.chosen), np.bool_)
    start = 0
    for name, count in part.images.class_counts().items():  # in the order of the images
        order = rng.permutation(rng.stream_key(seed, "validation", name), count)
        taken[start + order[: round(fraction * count)]] = True
        start += count
    if not taken.any():
        raise ValueError(f"--val-fraction {fraction} of these small classes is no image at all; choose more")
    rest = Part(part.path, part.source, part.images, part.chosen[~taken])
    return rest, Part(part.path, part.source, part.images, part.chosen[taken])


def check_classes(parts: dict[str, Part], listing: Listing, reporter: Reporter) -> tuple[str, ...]:
    """Return the sorted names of the training classes, and those without images that the source lists as classes.

    DataError if there is one only, or validation has others.
    """
    there = {split: set(part.images.class_counts()) for split, part in parts.items()}
    listed = set(listing.class_names) & set(listing.empty_classes)
    class_names = tuple(sorted(there["train"] | listed))
    if len(class_names) < 2:
        raise DataError(f"{parts['train'].path} has the one class {class_names[0]!r}; is it a folder too deep?")
    _warn_of(listed, "no training images", reporter)
    if "val" not in parts:
        reporter.warn("there are no validation images; see --val and --val-fraction")
        return class_names
    unknown = sorted(there["val"].difference(class_names))
    if unknown:
        raise DataError(
            f"{parts['val'].path} has {len(unknown)} classes without training images, such as {unknown[0]!r}; "
            "name the classes alike"
        )
    _warn_of(set(class_names) - there["val"], "no validation images", reporter)
    return class_names


def describe(listing: Listing, reporter: Reporter) -> None:
    """Tell what a source holds, and warn of all in it that is not as it should be."""
    found = ", ".join(f"{len(images)} images{split and f' in {split}/'}" for split, images in listing.splits.items())
    reporter.say(f"{listing.path}: {listing.layout}, {found}")
    for name in listing.empty_classes:
        is_class = name in listing.class_names
        reporter.warn(f"{listing.path}: class {name} is empty{'' if is_class else ' and left out'}")
    reporter.warn_of_many(f"{listing.path}: {{}} files ignored", listing.ignored)
    reporter.warn_of_many(f"{listing.path}: {{}} counts differ from what it says itself", listing.miscounts())


def _warn_of(class_names: Iterable[str], what: str, reporter: Reporter) -> None:
    for name in sorted(class_names):
        reporter.warn(f"class {name} has {what}")


def _part(source: int, listing: Listing, splits: tuple[str, ...]) -> Part | None:
    split = next((split for split in splits if split in listing.splits), None)
    if split is None:
        return None
    images = listing.splits[split]
    return Part(listing.path, source, images, np.arange(len(images)))
