"""Small file systems, to be full: tmpfs, where mounting is allowed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """Mount a file system of so many bytes on `folder`, which is made. Skips the test where that is not allowed.

    AssertionError at the end if a file in it is still open.
    """
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "none", folder], check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield
        left_open = [file for file in files_open() if file.startswith(f"{folder}/")]
        assert left_open == []
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def files_open() -> list[str]:
    """Return the paths of the files that this process has open."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if link.is_symlink()]


def fill(folder: Path) -> Path:
    """Take all the room there is in the folder's file system; return the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler
