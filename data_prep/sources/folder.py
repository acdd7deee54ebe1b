"""The files of a folder on disk. The user's own links are followed, but never in a circle."""

import os
import sys

from data_prep.sources.tree import Entry, Tree, clean, join


def walk(root: str) -> Tree:
    """Return all files below the folder `root`. OSError if a folder cannot be read."""
    tree = Tree()
    _walk(tree, root, "", set())
    return tree


def _walk(tree: Tree, real: str, folder: str, above: set[tuple[int, int]]) -> None:
    status = os.stat(real)
    here = (status.st_dev, status.st_ino)
    if here in above:
        tree.refused.append(f"{folder} is a link to a folder that it is in")
        return
    tree.folders.add(folder)
    with os.scandir(real) as children:
        ordered = sorted(children, key=lambda child: child.name)
    for child in ordered:
        name = clean([child.name])
        if child.is_dir():
            _walk(tree, child.path, sys.intern(join(folder, name)), above | {here})
        elif child.is_file():
            tree.add(Entry(folder, name, child.path, 0, child.stat().st_size))
        else:
            tree.refused.append(f"{join(folder, name)} is not a file, or a broken link")
