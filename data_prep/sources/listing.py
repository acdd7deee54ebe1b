"""What a source holds, by split and class, before an image is decoded."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from data_prep.sources.image_list import ImageList, SourceImage
from data_prep.sources.reader import SourceReader
from data_prep.sources.source import Source
from owt_mpi.data.manifest import DataError

MOST_IGNORED = 1000  # files that are named one by one
WHOLE = ""  # the split of images in a source that has none


@dataclass
class Found:
    """What a layout makes of a source; the images of each split in any order."""

    splits: dict[str, list[SourceImage]] = field(default_factory=dict)
    class_names: set[str] = field(default_factory=set)  # those with images, and those the source lists as its classes
    empty_folders: set[str] = field(default_factory=set)  # would be classes
    class_titles: dict[str, str] = field(default_factory=dict)
    expected: dict[str, dict[str, int]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def add(self, split: str, image: SourceImage) -> None:
        """Add an image to a split."""
        self.splits.setdefault(split, []).append(image)
        self.class_names.add(image.class_name)


@dataclass(frozen=True)
class Listing:
    """What a source holds; `reader` reads it. May be pickled; a copy is only read with, never closed.

    `class_names` are sorted: position = label. `class_titles` are their names for humans, where known. `expected` is
    how many images a split has of each class according to the source itself, where it says so. `empty_classes` have no
    image in any split; they have labels only if the source lists its classes. `ignored` has a line for every file left
    out, with the reason, up to MOST_IGNORED.
    """

    path: Path
    layout: str
    splits: dict[str, ImageList]
    class_names: tuple[str, ...]
    class_titles: dict[str, str]
    expected: dict[str, dict[str, int]]
    empty_classes: tuple[str, ...]
    ignored: tuple[str, ...]
    reader: SourceReader
    spool_file: str | None

    def close(self) -> None:
        """Close the reader's files and remove what was unpacked: to be called once, when no copy reads any more."""
        self.reader.close()
        if self.spool_file is not None:
            Path(self.spool_file).unlink(missing_ok=True)

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def miscounts(self) -> list[str]:
        """Return a line for every class of a split that has not as many images as expected."""
        lines = []
        for split, expected in self.expected.items():
            counts = self.splits[split].class_counts() if split in self.splits else {}
            lines += [
                f"{split}: class {name} has {counts.get(name, 0)} images instead of {expected.get(name, 0)}"
                for name in sorted({*expected, *counts})
                if counts.get(name, 0) != expected.get(name, 0)
            ]
        return lines


def listing_of(source: Source, layout: str, found: Found) -> Listing:
    """Return the listing of a source; `found` is used up. DataError if it has no images, or two of one name."""
    ignored = [*source.tree.refused, *found.ignored]
    if not any(found.splits.values()):
        example = f" (ignored {len(ignored)} files, such as: {ignored[0]})" if ignored else ""
        raise DataError(f"{source.path} has no images in the layout {layout!r}{example}; is it complete?")
    splits = {}
    for split in sorted(found.splits):
        images = sorted(found.splits.pop(split))
        _check_names(source, split, images)
        splits[split] = ImageList(images)
    with_images = {name for of_split in splits.values() for name in of_split.class_counts()}
    return Listing(
        path=source.path,
        layout=layout,
        splits=splits,
        class_names=tuple(sorted(found.class_names)),
        class_titles=dict(sorted(found.class_titles.items())),
        expected=found.expected,
        empty_classes=tuple(sorted((found.class_names | found.empty_folders) - with_images)),
        ignored=_shortened(ignored),
        reader=source.reader(),
        spool_file=source.spool.finish(),
    )


def _shortened(lines: list[str]) -> tuple[str, ...]:
    rest = [f"{len(lines) - MOST_IGNORED} files more"] if len(lines) > MOST_IGNORED else []
    return (*lines[:MOST_IGNORED], *rest)


def _check_names(source: Source, split: str, images: Iterable[SourceImage]) -> None:
    for first, second in pairwise(images):
        if first[:2] == second[:2]:
            raise DataError(
                f"{source.path} has {first} twice{split and f' in {split}/'}, in {first.file} at byte {first.offset} "
                f"and in {second.file} at byte {second.offset}; remove or rename one"
            )
