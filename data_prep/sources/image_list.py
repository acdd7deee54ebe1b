"""The images of a source by name and place, in columns: a million of them in about 60 MB, and quick to pickle."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np


class SourceImage(NamedTuple):
    """An image by its class, its name within it, and the bytes that hold it; the order of images is that of names.

    `size` is that of the image file. Where `deflated` is not 0, `file` holds it at `offset` in so many bytes of a raw
    deflate stream (a compressed zip member), else as it is.
    """

    class_name: str
    name: str
    file: str
    offset: int
    size: int
    deflated: int = 0

    def __str__(self) -> str:
        return f"{self.class_name}/{self.name}"


class ImageList(Sequence[SourceImage]):
    """Images, sorted by class and name. Those of one class or one archive share the strings that name it."""

    def __init__(self, images: Iterable[SourceImage]) -> None:
        ordered = sorted(images)
        self._classes, self._class_numbers = _numbered((image.class_name for image in ordered), len(ordered))
        # plain files differ in their last part alone, members of an archive in nothing
        self._folders, self._folder_numbers = _numbered((_folder(image.file) for image in ordered), len(ordered))
        self._file_names = _Strings(image.file[len(_folder(image.file)) :] for image in ordered)
        self._names = _Strings(image.name for image in ordered)
        self._places = np.empty((len(ordered), 3), np.int64)  # offset, size, deflated
        for number, image in enumerate(ordered):
            self._places[number] = image[3:]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> SourceImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[SourceImage]: ...
    def __getitem__(self, index: int | slice) -> SourceImage | list[SourceImage]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        offset, size, deflated = self._places[number].tolist()
        return SourceImage(
            self._classes[self._class_numbers[number]],
            self._names[number],
            self._folders[self._folder_numbers[number]] + self._file_names[number],
            offset,
            size,
            deflated,
        )

    def __iter__(self) -> Iterator[SourceImage]:
        return (self[number] for number in range(len(self)))

    def class_counts(self) -> dict[str, int]:
        """Return how many images each class has, by its name; classes without any are not in it."""
        counts = np.bincount(self._class_numbers, minlength=len(self._classes))
        return dict(zip(self._classes, counts.tolist(), strict=True))


class _Strings:
    """Strings end to end in one buffer; such with undecodable bytes too, as file names have."""

    def __init__(self, strings: Iterable[str]) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for string in strings:
            buffer += string.encode("utf-8", "surrogatepass")
            ends.append(len(buffer))
        self._buffer, self._ends = bytes(buffer), np.array(ends, np.int64)

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number : number + 2].tolist()
        return self._buffer[start:end].decode("utf-8", "surrogatepass")


def _folder(file: str) -> str:
    return file[: file.rfind("/") + 1]


def _numbered(strings: Iterable[str], count: int) -> tuple[list[str], np.ndarray]:
    """Return the different strings in the order of their first places, and which of them stands at each place."""
    numbers: dict[str, int] = {}
    places = np.fromiter((numbers.setdefault(string, len(numbers)) for string in strings), np.int32, count)
    return list(numbers), places
