"""The output of a layer for every image of a split, in one HDF5 file, written piece by piece."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

PIECE_BYTES = 1 << 26  # of all ranks' rows that are in memory together, beyond what the layer itself takes
_CANNOT_WRITE = (OSError, RuntimeError)  # h5py raises the latter where a file cannot be closed


class FeatureFile:
    """Writes `features` (N, ...), `labels` (N,) and `names` (N,), in the order of the samples.

    The file has its name when it is whole: after `finish`. OSError if it cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], facts: dict[str, Any]) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._file = h5py.File(self._part, "w", locking=False)
        self._features = self._file.create_dataset("features", shape, dtype)
        for name, fact in facts.items():
            self._file.attrs[name] = fact

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(*_CANNOT_WRITE):  # where it fails, that was said before
            self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write the rows of the samples from `first` on; what lies beyond the last sample is left out."""
        stop = min(first + len(rows), len(self._features))
        if stop > first:
            with _as_os_error():
                self._features[first:stop] = rows[: stop - first]

    def finish(self, labels: np.ndarray, names: Sequence[str]) -> None:
        """Write what the samples are, bring all to the disk, and give the file its name."""
        with _as_os_error():
            self._file["labels"] = labels
            self._file.create_dataset("names", data=list(names), dtype=h5py.string_dtype())
            self._file.close()
        with self._part.open("rb") as written:
            os.fsync(written.fileno())
        self._part.replace(self._path)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise an OSError for what h5py raises where a file cannot be written or closed."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error
