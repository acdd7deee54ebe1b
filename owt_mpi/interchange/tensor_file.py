"""Safetensors files: written whole, read tensor by tensor, and refused in one line where they are none."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from owt_mpi.backends.base import Shape
from owt_mpi.disk import open_regular, sync_file

SUFFIX = ".safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")
_LARGEST_HEADER = 1 << 22  # names and shapes of some 40,000 tensors; reading one takes some twenty times its size


class InterchangeError(ValueError):
    """A file of another program's format that cannot be used. One line: the file, what is wrong, and the way out."""


def library(name: str) -> Any:
    """Return the module of an optional library. InterchangeError, with the extra that brings it, if it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InterchangeError(
            f"{name} is not installed ({error}); get it with pip install 'owt_mpi[interchange]'"
        ) from error


def one_line(error: object) -> str:
    """Return what a library says of a file, short enough to read, without what would move the cursor."""
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else "?" for c in text[:300])


class TensorFile:
    """An open safetensors file. Use as a context; InterchangeError where it is damaged or none.

    `metadata` is what it says of itself, `shapes` and `dtypes` are those of its tensors by name. Only its header is
    read until a tensor is sliced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        safetensors = library("safetensors")
        self._errors = (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError)
        try:
            _check_header_size(path)
            self._file = safetensors.safe_open(str(path), framework="np")
        except FileNotFoundError:
            raise InterchangeError(f"there is no file {path}") from None
        except InterchangeError:
            raise
        except self._errors as error:
            raise InterchangeError(f"{path} is no sound safetensors file ({one_line(error)}); get it anew") from error
        self.metadata: dict[str, str] = self._file.metadata() or {}
        names: list[str] = self._file.keys()
        slices = {name: self._file.get_slice(name) for name in names}
        self.shapes: dict[str, Shape] = {name: tuple(each.get_shape()) for name, each in slices.items()}
        self.dtypes: dict[str, str] = {name: each.get_dtype() for name, each in slices.items()}

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, traceback)

    def tensor(self, name: str) -> "StoredTensor":
        """Return a tensor that is read when it is sliced."""
        return StoredTensor(self, name)

    def read(self, name: str, where: Any) -> np.ndarray:
        """Return the part `where` of a tensor."""
        if self.dtypes[name] == "BF16":
            library("ml_dtypes")  # teaches NumPy the name
        try:
            return np.asarray(self._file.get_slice(name)[where])
        except self._errors as error:
            raise InterchangeError(f"{name} of {self.path} cannot be read ({one_line(error)}); get it anew") from error


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open file: what slices name is read."""

    file: TensorFile
    name: str

    def __getitem__(self, where: Any) -> np.ndarray:
        return self.file.read(self.name, where)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, and bring it to the disk. It has its name when it is whole.

    OSError or InterchangeError where it cannot be written.
    """
    safetensors = library("safetensors")
    from safetensors.numpy import save_file

    temporary = path.with_name(path.name + ".part")
    try:
        save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, temporary, dict(metadata))
        sync_file(temporary)
        temporary.replace(path)
    except safetensors.SafetensorError as error:  # where the disk is full
        raise InterchangeError(f"{path} cannot be written ({one_line(error)}); make room") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_header_size(path: Path) -> None:
    """Raise InterchangeError if reading the header would take much memory, ValueError if it is no regular file."""
    with open(open_regular(path), "rb") as file:
        begin = file.read(8)
    size = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
    if size > _LARGEST_HEADER:
        raise InterchangeError(
            f"{path} is no sound safetensors file (a header of {size} bytes, more than {_LARGEST_HEADER}); get it anew"
        )
