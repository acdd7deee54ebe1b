"""Files that survive a power cut, and what tells whether they are still what was written."""

import hashlib
import os
import stat
from pathlib import Path

_LONGEST_NAME = 255  # bytes: of Linux


def sync_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    sync_file(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file and bring it to the disk, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        sync_file(temporary)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_at(file: int, content: memoryview, position: int) -> None:
    """Write all of `content` at `position` of an open file; the kernel may take a part only."""
    while content:
        written = os.pwrite(file, content, position)
        content, position = content[written:], position + written


def open_regular(path: Path) -> int:
    """Return a regular file, opened to be read. ValueError, to go on from its name, if it is a pipe or a device.

    For what people hand in: a pipe would be waited for, a device read without end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("is no regular file")
    return descriptor


def is_plain_name(name: str) -> bool:
    """Return whether a text can be the name of a file in its folder, and be printed in a line."""
    return Path(name).name == name and name.isprintable() and len(name.encode()) <= _LONGEST_NAME


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
