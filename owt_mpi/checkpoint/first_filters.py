"""The filters that a network looks at images with, read from what a run has kept last."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from owt_mpi.checkpoint.folder import checkpoints_in
from owt_mpi.checkpoint.global_array import GlobalArray
from owt_mpi.checkpoint.reader import Checkpoint
from owt_mpi.checkpoint.weights import opened_weights

_MOST_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Filters:
    """Weights (c_out, kh, kw, c_in) of a convolution on the image, their name, and the file that they are from."""

    name: str
    values: np.ndarray
    file: Path


class NoWeightsError(ValueError):
    """A run has kept no weights yet."""


def newest_filters(run_folder: Path, weights_are_newest: bool) -> Filters:
    """Return the filters of the newest weights in a run's folder: of weights.h5, or of a checkpoint.

    Checkpoints may be large, and this is for a look: that they are what was written is not checked. ValueError, with
    what is wrong with the newest, if none can be read, and NoWeightsError if there are none.
    """
    problems = []
    for file in _candidates(run_folder, weights_are_newest):
        try:
            with _opened(file) as arrays:
                name, values = _first_filters(arrays)
            return Filters(name, values, file)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if not problems:
        raise NoWeightsError("there is neither a checkpoint nor weights.h5 yet")
    raise ValueError(problems[0])


def _candidates(run_folder: Path, weights_are_newest: bool) -> Iterator[Path]:
    weights = run_folder / "weights.h5"
    if weights_are_newest and weights.exists():
        yield weights
    yield from checkpoints_in(run_folder / "checkpoints")
    if not weights_are_newest and weights.exists():
        yield weights


@contextmanager
def _opened(file: Path) -> Iterator[Mapping[str, GlobalArray]]:
    """Give the arrays in weights.h5 or a checkpoint. ValueError if it is damaged."""
    if file.is_file():
        with opened_weights(file, is_checked=False) as arrays:
            yield arrays
    else:
        with Checkpoint(file) as checkpoint:
            yield checkpoint.weights


def _first_filters(arrays: Mapping[str, GlobalArray]) -> tuple[str, np.ndarray]:
    """Return name and values of the convolution with the fewest channels to read, which is the first."""
    filters = {name: array for name, array in arrays.items() if name.startswith("trunk.") and len(array.shape) == 4}
    if not filters:
        raise ValueError("the network has no convolution")
    name = min(filters, key=lambda each: (filters[each].shape[3], each))
    if not 0 < prod(filters[name].shape) <= _MOST_ELEMENTS:
        raise ValueError(f"{name} has shape {filters[name].shape}, which is not to be shown")
    values = filters[name][...].astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has values that are no finite numbers")
    return name, values
