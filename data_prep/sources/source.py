"""A source opened for listing: the tree of a folder or an archive, the contents of small files, archives in it."""

import io
import os
import threading
from pathlib import Path

from data_prep.sources.folder import walk
from data_prep.sources.image_list import SourceImage
from data_prep.sources.reader import SourceReader, Stamp, stamp
from data_prep.sources.spool import Spool, compression, unpacked
from data_prep.sources.tar_index import index_tar
from data_prep.sources.threads import map_in_threads
from data_prep.sources.tree import Entry, Tree, join, tar_stem
from data_prep.sources.zip_index import index_zip
from owt_mpi.data.decode import ImageError
from owt_mpi.data.manifest import DataError

LARGEST_CONTENT_BYTES = 1 << 30
MOST_DEPTH = 2  # of archives in a source


class Source:
    """The source at `path`; `tree` has all its files. ValueError if nothing is there, DataError if it is damaged."""

    def __init__(self, path: Path, spool: Spool) -> None:
        self.path = path
        self.spool = spool
        self._stamps: dict[str, Stamp] = {}
        self._spooling = threading.Lock()
        if path.is_dir():
            self.tree = walk(os.path.abspath(path))
            return
        if not path.is_file():
            what = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise ValueError(f"{path} {what}; name a folder or an archive of images")
        self.tree = self._indexed(Entry("", path.name, os.path.abspath(path), 0, path.stat().st_size), "", str(path))

    def expand(self, entry: Entry) -> str:
        """Put what a tar in the tree holds there in its stead; return the folder, named as the tar without .tar."""
        self._expand([entry])
        return _folder_of(entry)

    def expand_below(self, folder: str = "") -> None:
        """Expand the tars below a folder of the tree, and those in them; deeper ones are refused."""
        for _ in range(MOST_DEPTH):
            self._expand(self._tars_below(folder))
        for entry in self._tars_below(folder):
            del self.tree.others[entry.path]
            self.tree.refused.append(f"{entry.path} is an archive too deep in others")

    def content(self, entry: Entry) -> bytes:
        """Return the bytes of a file that is not large, unpacked if it is compressed."""
        too_large = f"{self.label(entry)} has more than {LARGEST_CONTENT_BYTES} bytes; is it what its name says?"
        if entry.size > LARGEST_CONTENT_BYTES:
            raise DataError(too_large)
        reader = self.reader()
        try:
            data = reader.read(SourceImage("", *entry[1:]))
        except ImageError as error:
            raise DataError(f"{self.label(entry)}: {error}") from error
        finally:
            reader.close()
        if not compression(data):
            return data
        return b"".join(unpacked(io.BytesIO(data), self.label(entry), LARGEST_CONTENT_BYTES))

    def text(self, entry: Entry) -> str:
        """Return the text of a file that is not large; what is not UTF-8 in it is replaced."""
        return self.content(entry).decode("utf-8", "replace")

    def label(self, entry: Entry) -> str:
        """Return what a file of this source is called in messages."""
        return f"{self.path}: {entry.path}"

    def reader(self) -> SourceReader:
        """Return what reads the files found so far."""
        if self.spool.used:
            with open(self.spool.path, "rb") as spooled:
                self._stamps[self.spool.path] = stamp(spooled.fileno())
        return SourceReader(dict(self._stamps))

    def _tars_below(self, folder: str) -> list[Entry]:
        return [e for e in self.tree.others.values() if tar_stem(e.name) and is_below(e.folder, folder)]

    def _expand(self, entries: list[Entry]) -> None:
        for entry in entries:
            del self.tree.others[entry.path]
        for tree in map_in_threads(lambda e: self._indexed(e, _folder_of(e), self.label(e)), entries):
            self.tree.merge(tree)

    def _indexed(self, entry: Entry, folder: str, label: str) -> Tree:
        """Return what the archive `entry` holds, in `folder`."""
        tree = Tree(folders={folder, ""})
        if entry.deflated:
            tree.refused.append(f"{entry.path} is an archive deflated in a zip")
            return tree
        with open(entry.file, "rb") as file:
            self._stamps.setdefault(entry.file, stamp(file.fileno()))
            head = os.pread(file.fileno(), 6, entry.offset)
            if head.startswith(b"PK\3\4") and not folder:
                index_zip(tree, file, entry.file, label)
            elif compression(head):
                with self._spooling:
                    start, end = self.spool.unpack(file, entry.offset, entry.size, label)
                with open(self.spool.path, "rb") as spooled:
                    index_tar(tree, folder, spooled.fileno(), self.spool.path, start, end, label)
            else:
                end = entry.offset + entry.size
                index_tar(tree, folder, file.fileno(), entry.file, entry.offset, end, label)
        return tree


def _folder_of(tar: Entry) -> str:
    """Return the folder that stands for a tar."""
    return join(tar.folder, tar_stem(tar.name))


def is_below(path: str, folder: str) -> bool:
    """Return whether `path` is `folder` or in it."""
    return not folder or path == folder or path.startswith(f"{folder}/")
