"""The output of a layer for every image of a split, in one HDF5 file, written piece by piece."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from owt_mpi.plain_hdf5.writer import Hdf5Writer

PIECE_BYTES = 1 << 26  # of all ranks' rows that are in memory together, beyond what the layer itself takes


class FeatureFile:
    """Writes `features` (N, ...), `labels` (N,) and `names` (N,), in the order of the samples.

    The file has its name when it is whole: after `finish`. OSError if it cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], facts: dict[str, Any]) -> None:
        self._num_rows, self._writer = shape[0], Hdf5Writer(path)
        self._writer.place("features", shape, dtype)
        for name, fact in facts.items():
            self._writer.file.attrs[name] = fact

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, traceback)

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write the rows of the samples from `first` on; what lies beyond the last sample is left out."""
        stop = min(first + len(rows), self._num_rows)
        if stop > first:
            self._writer.write("features", first, rows[: stop - first])

    def finish(self, labels: np.ndarray, names: Sequence[str]) -> None:
        """Write what the samples are, bring all to the disk, and give the file its name."""
        self._writer.file["labels"] = labels
        self._writer.file.create_dataset("names", data=list(names), dtype=h5py.string_dtype())
        self._writer.finish()
