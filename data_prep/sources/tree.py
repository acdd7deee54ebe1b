"""What a folder or an archive holds: files by their cleaned paths, and where their bytes are."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LARGEST_IMAGE_BYTES = 1 << 28
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes of a part of a path and characters of all of it, as in file systems


class Entry(NamedTuple):
    """A file at `folder`/`name` of a source; its bytes as those of a `SourceImage`."""

    folder: str  # parts joined by "/", "" at the top
    name: str
    file: str
    offset: int
    size: int
    deflated: int = 0

    @property
    def path(self) -> str:
        """The folder and the name."""
        return join(self.folder, self.name)


@dataclass
class Tree:
    """The files of a source: images (by their suffix) and others, its folders, and what was refused and why."""

    images: list[Entry] = field(default_factory=list)
    others: dict[str, Entry] = field(default_factory=dict)  # by path
    folders: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Add a file, and the folders that it is in."""
        folder = entry.folder
        while folder not in self.folders:
            self.folders.add(folder)
            folder = folder.rpartition("/")[0]
        if not is_image(entry.name):
            if self.others.setdefault(entry.path, entry) is not entry:
                self.refused.append(f"{entry.path} is there twice, and left out the second time")
        elif entry.size > LARGEST_IMAGE_BYTES:
            self.refused.append(f"{entry.path} has {entry.size} bytes, too many for an image")
        else:
            self.images.append(entry)

    def merge(self, other: "Tree") -> None:
        """Add all of another tree."""
        self.images += other.images
        self.folders |= other.folders
        self.refused += other.refused
        for entry in other.others.values():
            self.add(entry)

    def find(self, name: str) -> Entry | None:
        """Return the file of this name that is no image and is the least deep, None if there is none."""
        entries = (entry for entry in self.others.values() if entry.name == name)
        return min(entries, key=lambda entry: (entry.path.count("/"), entry.path), default=None)

    def top(self) -> list[str]:
        """Return the names at the top, folders with a slash, sorted."""
        images = [entry.name for entry in self.images if not entry.folder]
        paths = [*(f"{folder}/" for folder in self.folders), *images, *self.others]
        return sorted({first + slash for first, slash, _ in (path.partition("/") for path in paths) if first})


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image; hidden files are none."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def tar_stem(name: str) -> str:
    """Return the name of a tar without its suffixes, "" if it is no tar's."""
    suffix = next((suffix for suffix in TAR_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: -len(suffix)] if suffix else ""


def join(folder: str, name: str) -> str:
    """Return the path of `name` in `folder`, either of which may be ""."""
    return f"{folder}/{name}" if folder and name else folder or name


def clean(parts: Iterable[str]) -> str:
    """Return parts of a path joined, with what is not printable escaped."""
    return "/".join(
        part if part.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in part)
        for part in parts
    )


def clean_member(name: str) -> tuple[str, str]:
    """Return the cleaned path of an archive's member, and why it must be refused ("" if not)."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    cleaned = clean(parts)
    if len(cleaned) > LONGEST_PATH or any(len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in parts):
        return f"{cleaned[:40]}...", f"has a name of {len(cleaned)} characters"
    if not parts:
        return "a member", "without a name"
    if name.startswith("/"):
        return cleaned, "has an absolute name"
    return cleaned, "has .. in its name" if ".." in parts else ""
