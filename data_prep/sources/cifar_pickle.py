"""The pickles of CIFAR's Python version, read without running anything that they name.

They hold dictionaries, lists, strings, integers and arrays of bytes, pickled by Python 2. The three names of NumPy that
stand for an array are taken for records of their arguments; any other name is refused.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

from owt_mpi.data.manifest import DataError

_BROKEN = (
    pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError,
    MemoryError,
)  # fmt: skip


def read_pickle(content: bytes, label: str) -> dict[str, Any]:
    """Return the dictionary of a pickle; strings in it are bytes, arrays uint8. DataError if it holds anything else."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode("ascii"): _finished(item) for key, item in value.items()}
    except _BROKEN as error:
        said = " ".join(str(error).split())
        raise DataError(f"{label} is not a pickle as CIFAR's are ({said}); fetch it again") from error


class _Record:
    """What stands for an array or its type: the arguments it was to be made of."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _ArrayClass:
    """What stands for the class of arrays; never made an instance of."""

    def __init__(self) -> None:
        raise pickle.UnpicklingError("it makes an array in an unknown way")


class _Unpickler(pickle.Unpickler):
    _names = {  # noqa: RUF012  # never changed
        ("numpy.core.multiarray", "_reconstruct"): _Record,
        ("numpy", "dtype"): _Record,
        ("numpy", "ndarray"): _ArrayClass,
    }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._names[module, name]


def _finished(value: object) -> object:
    """Return the array that a record stands for; other values as they are."""
    if not isinstance(value, _Record):
        return value
    _, shape, dtype, fortran_order, data = value.state
    if dtype.arguments[0] != b"u1" or fortran_order or len(data) != math.prod(shape):
        raise ValueError("its array is not one of bytes, row after row")
    return np.frombuffer(data, np.uint8).reshape(shape)
