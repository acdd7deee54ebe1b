"""Reading the images of a source in any order, in any process."""

import os
import zlib
from collections import OrderedDict
from typing import Any

from data_prep.sources.image_list import SourceImage
from owt_mpi.data.decode import ImageError
from owt_mpi.data.manifest import DataError

MAX_OPEN_FILES = 64
Stamp = tuple[int, int]  # size and time of the last change in ns


class SourceReader:
    """Reads images. It may be pickled; open files stay behind. Not for two threads at once."""

    def __init__(self, stamps: dict[str, Stamp]) -> None:
        self._stamps = stamps  # of the archives, when they were listed
        self._open: OrderedDict[str, int] = OrderedDict()  # the descriptors of archives, the last used last

    def read(self, image: SourceImage) -> bytes:
        """Return the bytes of an image file.

        ImageError if the image's own file cannot be read or has changed; DataError if its archive cannot or has.
        """
        if image.file not in self._stamps:
            return _read_file(image)
        data = self._read_range(image)
        return _inflate(image, data) if image.deflated else data

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_stamps": self._stamps, "_open": OrderedDict()}

    def _read_range(self, image: SourceImage) -> bytes:
        wanted = image.deflated or image.size
        try:
            data = os.pread(self._descriptor(image.file), wanted, image.offset)
        except OSError as error:
            raise DataError(f"{image.file} cannot be read ({error}); is it still there?") from error
        if len(data) < wanted:
            raise DataError(f"{image.file} has become shorter since it was listed ({image}); start again")
        return data

    def _descriptor(self, file: str) -> int:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._open[file] = descriptor
        if stamp(descriptor) != self._stamps[file]:
            raise DataError(f"{file} has changed since it was listed; leave it alone and start again")
        if len(self._open) > MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


def stamp(descriptor: int) -> Stamp:
    """Return what tells a file from a changed one."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _read_file(image: SourceImage) -> bytes:
    try:
        with open(image.file, "rb") as file:
            data = file.read(image.size + 1)
    except OSError as error:
        raise ImageError(f"it cannot be read ({error.strerror})") from error
    if len(data) != image.size:
        raise ImageError(f"it had {image.size} bytes when it was listed, and now has not")
    return data


def _inflate(image: SourceImage, data: bytes) -> bytes:
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, image.size + 1)
    except zlib.error as error:
        raise ImageError(f"its zip member is damaged ({error})") from error
    if len(inflated) != image.size:
        raise ImageError(f"its zip member does not hold {image.size} bytes as it says")
    return inflated
