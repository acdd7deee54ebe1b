"""A source opened for listing: the tree of a folder or an archive, the contents of small files, archives in it."""

import io
import os
from pathlib import Path

from data_prep.images import ImageError
from data_prep.sources.folder import walk
from data_prep.sources.image_list import SourceImage
from data_prep.sources.reader import SourceReader, Stamp, stamp
from data_prep.sources.spool import Spool, compression, unpacked
from data_prep.sources.tar_index import index_tar
from data_prep.sources.tree import Entry, Tree, join, tar_stem
from data_prep.sources.zip_index import index_zip
from owt_mpi.data.manifest import DataError

LARGEST_CONTENT_BYTES = 1 << 30
MOST_DEPTH = 2  # of archives in a source


class Source:
    """The source at `path`; `tree` has all its files. ValueError if nothing is there, DataError if it is damaged."""

    def __init__(self, path: Path, spool: Spool) -> None:
        self.path = path
        self.spool = spool
        self._stamps: dict[str, Stamp] = {}
        if path.is_dir():
            self.tree = walk(os.path.abspath(path))
            return
        if not path.is_file():
            what = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise ValueError(f"{path} {what}; name a folder or an archive of images")
        self.tree = Tree()
        self._index(Entry("", path.name, os.path.abspath(path), 0, path.stat().st_size), "", str(path))

    def expand(self, entry: Entry) -> str:
        """Put what a tar in the tree holds there in its stead; return the folder, named as the tar without .tar."""
        del self.tree.others[entry.path]
        folder = join(entry.folder, tar_stem(entry.name))
        self.tree.folders.add(folder)
        self._index(entry, folder, self.label(entry))
        return folder

    def expand_below(self, folder: str = "") -> None:
        """Expand the tars below a folder of the tree, and those in them; deeper ones are refused."""
        for depth in range(MOST_DEPTH + 1):
            for entry in [entry for entry in self.tree.others.values() if tar_stem(entry.name)]:
                if not is_below(entry.folder, folder):
                    continue
                if depth < MOST_DEPTH:
                    self.expand(entry)
                else:
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

    def _index(self, entry: Entry, folder: str, label: str) -> None:
        if entry.deflated:
            self.tree.refused.append(f"{entry.path} is an archive deflated in a zip")
            return
        with open(entry.file, "rb") as file:
            self._stamps.setdefault(entry.file, stamp(file.fileno()))
            head = os.pread(file.fileno(), 6, entry.offset)
            if head.startswith(b"PK\3\4") and not folder:
                index_zip(self.tree, file, entry.file, label)
            elif compression(head):
                start, end = self.spool.unpack(file, entry.offset, entry.size, label)
                with open(self.spool.path, "rb") as spooled:
                    index_tar(self.tree, folder, spooled.fileno(), self.spool.path, start, end, label)
            else:
                end = entry.offset + entry.size
                index_tar(self.tree, folder, file.fileno(), entry.file, entry.offset, end, label)


def is_below(path: str, folder: str) -> bool:
    """Return whether `path` is `folder` or in it."""
    return not folder or path == folder or path.startswith(f"{folder}/")
