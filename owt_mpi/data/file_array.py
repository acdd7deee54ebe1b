"""A contiguous array in a file, read piece by piece where it cannot be mapped into memory."""

import os
from pathlib import Path

import numpy as np


class FileArray:
    """The uint8 array of `shape` at `offset` of a file: `array[index]` and `array[start:stop]` along its first axis.

    What is asked for is read into a new array, by reads at positions, which threads may make at the same time.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._path = path
        self._offset = offset
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64))
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> np.ndarray:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            assert step == 1
            assert start <= stop
            return self._read(start, stop - start)
        if not -len(self) <= key < len(self):
            raise IndexError(f"{self._path}: {key} is not in 0 .. {len(self) - 1}")
        return self._read(key % len(self), 1).reshape(self.shape[1:])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read(self, start: int, count: int) -> np.ndarray:
        out = np.empty((count, *self.shape[1:]), np.uint8)
        content = out.reshape(-1).data
        position = self._offset + start * self._row_bytes
        done = 0
        while done < len(content):
            num_bytes = os.preadv(self._file, [content[done:]], position + done)
            if num_bytes == 0:
                raise OSError(
                    f"{self._path} has no byte {position + done}: it was cut while it was open, copy it again"
                )
            done += num_bytes
        return out
