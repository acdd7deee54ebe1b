"""The files of a folder on disk. The user's own links are followed, but never in a circle."""

import os
import sys
from typing import NamedTuple

from data_prep.sources.threads import map_in_threads
from data_prep.sources.tree import Entry, Tree, clean, join


class _Folder(NamedTuple):
    """A folder still to be read: where it is, its cleaned path, and what it and the folders above it are."""

    real: str
    path: str
    above: frozenset[tuple[int, int]]


def walk(root: str) -> Tree:
    """Return all files below the folder `root`. OSError if a folder cannot be read."""
    tree = Tree()
    folders = [_Folder(root, "", frozenset([_identity(root)]))]
    while folders:
        deeper: list[_Folder] = []
        for part, inner in map_in_threads(_read_folder, folders):
            tree.merge(part)
            deeper += inner
        folders = deeper
    return tree


def _read_folder(folder: _Folder) -> tuple[Tree, list[_Folder]]:
    """Return the files in a folder, and the folders in it."""
    tree = Tree(folders={folder.path, ""})
    folders = []
    with os.scandir(folder.real) as children:
        ordered = sorted(children, key=lambda child: child.name)
    for child in ordered:
        path = join(folder.path, clean([child.name]))
        if child.is_dir():
            identity = _identity(child.path)
            if identity in folder.above:
                tree.refused.append(f"{path} is a link to a folder that it is in")
            else:
                folders.append(_Folder(child.path, sys.intern(path), folder.above | {identity}))
        elif child.is_file():
            tree.add(Entry(folder.path, clean([child.name]), child.path, 0, child.stat().st_size))
        else:
            tree.refused.append(f"{path} is not a file, or a broken link")
    return tree, folders


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
