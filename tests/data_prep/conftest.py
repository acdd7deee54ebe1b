"""Small sources of images in every layout."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

Files = dict[str, dict[str, bytes]]  # class name -> file name -> content


def png(seed: int, height: int = 9, width: int = 12) -> bytes:
    """Return a PNG of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def tar_of(files: list[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> bytes:
    """Return a tar of files in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files:
            add(archive, name, content)
    return buffer.getvalue()


def _mode(path: Path) -> Literal["w", "w:gz", "w:bz2", "w:xz"]:
    modes: dict[str, Literal["w:gz", "w:bz2", "w:xz"]] = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
    return modes.get(path.suffix, "w")


def class_folders(files: Files, path: Path) -> Path:
    """Write a folder of class folders."""
    for class_name, images in files.items():
        (path / class_name).mkdir(parents=True)
        for name, content in images.items():
            (path / class_name / name).write_bytes(content)
    return path


def tar_of_folders(files: Files, path: Path) -> Path:
    """Write a tar of class folders, in the order of `files`."""
    with tarfile.open(path, _mode(path)) as archive:
        for class_name, images in files.items():
            for name, content in images.items():
                add(archive, f"./{class_name}/{name}", content)
    return path


def tar_of_tars(files: Files, path: Path) -> Path:
    """Write a tar of class tars, in the order of `files`."""
    with tarfile.open(path, _mode(path)) as archive:
        for class_name, images in files.items():
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for name, content in images.items():
                    add(inner, name, content)
            add(archive, f"{class_name}.tar", buffer.getvalue())
    return path


def folder_of_tars(files: Files, path: Path) -> Path:
    """Write a folder of class tars."""
    path.mkdir()
    for class_name, images in files.items():
        with tarfile.open(path / f"{class_name}.tar", "w") as archive:
            for name, content in images.items():
                add(archive, name, content)
    return path


def zip_of_folders(files: Files, path: Path) -> Path:
    """Write a zip of class folders, each second image deflated."""
    methods = cycle((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        for class_name, images in files.items():
            for name, content in images.items():
                archive.writestr(f"{class_name}/{name}", content, next(methods))
    return path


@pytest.fixture(scope="session")
def files() -> Files:
    """Three classes of 5, 4 and 3 images of differing sizes, neither classes nor images in sorted order."""
    names = ("pear", "apple", "quince")
    return {
        name: {f"{name}_{4 - i}.PNG": png(10 * c + i, 9 + i, 12 - i) for i in range(5 - c)}
        for c, name in enumerate(names)
    }


@pytest.fixture(scope="session")
def writers() -> dict[str, Callable[[Files, Path], Path]]:
    """The functions that write a source, by the layout they write."""
    return {
        "folder of class folders": class_folders,
        "tar of class folders": tar_of_folders,
        "tar of class tars": tar_of_tars,
        "folder of class tars": folder_of_tars,
        "zip of class folders": zip_of_folders,
    }
