"""Where the images are in a source: a folder or a tar of class folders, or a tar of class tars (as ImageNet's).

Nothing is ever extracted: member names are only labels, cut into parts and made printable, so hostile ones are
harmless; links and devices in archives are left out and reported. In folders the user's own links are followed. A
source is listed first, then its images are streamed in its own order, so archives are read forward only.
"""

import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from owt_mpi.data.manifest import DataError

ROLES = {"train": "train", "val": "val", "validation": "val", "test": "test"}  # of a folder of class folders
WHOLE = ""  # the role of images in a source without such folders
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
LARGEST_IMAGE_BYTES = 1 << 28
_EXPECTED = "expected are class folders, perhaps in train/ and val/, or a tar of them, or a tar of class tars"


class Sample(NamedTuple):
    """An image by its class and its name within it; the order of samples is that of these strings."""

    class_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.class_name}/{self.name}"


@dataclass(frozen=True)
class Listing:
    """What a source holds. `samples` has the sorted samples of each role found; `ignored` says what and why."""

    path: Path
    layout: str
    samples: dict[str, list[Sample]]
    empty_classes: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """A thing in a source: its path in printable parts, and how to read it; `refusal` is why it is not read."""

    parts: tuple[str, ...]
    read: Callable[[], bytes] | None = None  # None for a folder
    refusal: str = ""
    is_tar: bool = False  # the folder is a class tar


def scan(path: Path) -> Listing:
    """Return what the folder or archive `path` holds. DataError if it has no images in classes."""
    samples: dict[str, list[Sample]] = {}
    folders: set[tuple[str, ...]] = set()
    above: set[tuple[str, ...]] = set()  # the folders that hold images or folders
    ignored = []
    kind = "folder of class folders" if path.is_dir() else "tar of class folders"
    with _reading(path):
        for entry in _entries(path):
            if entry.is_tar:
                kind = "tar of class tars"
            if entry.refusal:
                ignored.append(f"{'/'.join(entry.parts)} {entry.refusal}")
                continue
            above.update(entry.parts[:depth] for depth in range(len(entry.parts)))
            if entry.read is None:
                folders.add(entry.parts)
            elif len(entry.parts) < 2:
                ignored.append(f"{'/'.join(entry.parts)} is in no class folder")
            else:
                samples.setdefault(_role(entry.parts), []).append(_sample(entry.parts))
    _check(path, samples, ignored)
    empty = {parts[-1] for parts in folders - above if parts and parts[-1].lower() not in ROLES}
    in_order = {role: sorted(samples[role]) for role in sorted(samples)}
    return Listing(path, kind, in_order, tuple(sorted(empty)), tuple(ignored))


def stream(path: Path, role: str, wanted: Container[Sample]) -> Iterator[tuple[Sample, bytes]]:
    """Yield the `wanted` samples of a role with the bytes of their files, in the order of the source."""
    with _reading(path):
        for entry in _entries(path):
            if entry.read is not None and not entry.refusal and len(entry.parts) > 1 and _role(entry.parts) == role:
                sample = _sample(entry.parts)
                if sample in wanted:
                    yield sample, entry.read()


def _sample(parts: tuple[str, ...]) -> Sample:
    return Sample(sys.intern(parts[-2]), parts[-1])


def _role(parts: tuple[str, ...]) -> str:
    return ROLES.get(parts[-3].lower(), WHOLE) if len(parts) > 2 else WHOLE


def _check(path: Path, samples: dict[str, list[Sample]], ignored: list[str]) -> None:
    if not samples:
        example = f" (ignored {len(ignored)} files, such as: {ignored[0]})" if ignored else ""
        raise DataError(f"{path} holds no images{example}; {_EXPECTED}")
    if WHOLE in samples and len(samples) > 1:
        raise DataError(f"{path} has both {samples[WHOLE][0]} and train/, val/ or test/ beside it; {_EXPECTED}")
    for of_role in samples.values():
        if len(set(of_role)) < len(of_role):
            twice = next(a for a, b in pairwise(sorted(of_role)) if a == b)
            raise DataError(f"{path} has {twice} twice; {_EXPECTED}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a folder or a tar archive of images")
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError) as error:
        raise DataError(f"{path} is damaged or not a tar archive ({error}); fetch it again") from error


def _entries(path: Path) -> Iterator[_Entry]:
    if path.is_dir():
        yield from _folder_entries(path)
        return
    with tarfile.open(path) as archive:
        for member in _members(archive):
            yield from _outer_entries(archive, member)


def _folder_entries(root: Path) -> Iterator[_Entry]:
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders.sort()
        above = Path(folder).relative_to(root).parts
        yield _Entry(_printable(above))
        for name in sorted(files):
            path = Path(folder, name)
            refusal = _refusal(name, path.stat().st_size) if path.is_file() else "is not a file, or a broken link"
            yield _Entry(_printable((*above, name)), path.read_bytes, refusal)


def _outer_entries(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[_Entry]:
    path = PurePosixPath(member.name)
    if not (member.isfile() and path.suffix == ".tar"):
        yield _tar_entry(archive, member, _parts(path))
        return
    class_parts = _parts(path.with_suffix(""))
    yield _Entry(class_parts, is_tar=True)
    with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as class_archive:
        for inner in _members(class_archive):
            if not inner.isdir():
                yield _tar_entry(class_archive, inner, (*class_parts, *_parts(PurePosixPath(inner.name))[-1:]))


def _tar_entry(archive: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]) -> _Entry:
    if member.isdir():
        return _Entry(parts)
    if not member.isfile():
        return _Entry(parts, refusal="is a link or a device")

    def read() -> bytes:
        file = archive.extractfile(member)
        assert file is not None
        return file.read()

    return _Entry(parts, read, _refusal(parts[-1] if parts else "", member.size))


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        archive.members.clear()  # type: ignore[attr-defined]  # it would hold on to a million of them


def _refusal(name: str, num_bytes: int) -> str:
    if name.startswith(".") or PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        return "is not an image file"
    return f"has {num_bytes} bytes, too many for an image" if num_bytes > LARGEST_IMAGE_BYTES else ""


def _parts(path: PurePosixPath) -> tuple[str, ...]:
    return _printable(tuple(part for part in path.parts if part not in ("/", "//", "..")))


def _printable(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        part if part.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in part)
        for part in parts
    )
