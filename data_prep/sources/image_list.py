"""The images of a source by name and place, in columns: a million of them in about 60 MB, and quick to pickle."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
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
        self._classes, self._class_numbers = _numbered([image.class_name for image in ordered])
        folders = [image.file.rpartition("/") for image in ordered]  # plain files differ in their last part alone
        self._folders, self._folder_numbers = _numbered([folder + slash for folder, slash, _ in folders])
        self._file_names = _Strings([name for _, _, name in folders])
        self._names = _Strings([image.name for image in ordered])
        self._places = np.array([image[3:] for image in ordered], np.int64).reshape(-1, 3)

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

    def __init__(self, strings: list[str]) -> None:
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        self._ends = np.array([0, *accumulate(map(len, encoded))], np.int64)
        self._buffer = b"".join(encoded)

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number : number + 2].tolist()
        return self._buffer[start:end].decode("utf-8", "surrogatepass")


def _numbered(strings: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the different strings in the order of their first places, and which of them stands at each place."""
    numbers = {string: number for number, string in enumerate(dict.fromkeys(strings))}
    return list(numbers), np.array([numbers[string] for string in strings], np.int32)
