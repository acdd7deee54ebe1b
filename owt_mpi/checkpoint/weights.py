"""Parameters to and from HDF5, as global arrays: the file does not know how many ranks wrote it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.checkpoint.global_array import Block, GlobalArray
from owt_mpi.comm.base import Communicator
from owt_mpi.plain_hdf5.arrays import FileArray
from owt_mpi.plain_hdf5.reader import Array, PlainHdf5
from owt_mpi.plain_hdf5.source import Hdf5Error
from owt_mpi.plain_hdf5.writer import Hdf5Writer

FORMAT = "owt_mpi weights"
FORMAT_VERSION = 2
WITHOUT_SHA256 = 1  # an older version, which is read too
_BLOCK_BYTES = 1 << 24


def hdf5_version() -> str:
    """Return the version of the library that writes HDF5 files."""
    return str(h5py.version.hdf5_version)


def whole_parameter(parameter: Parameter, group: Communicator) -> np.ndarray:
    """Return the global array of `parameter`, before rounding, from the shards of the ranks of `group`. All call."""
    assert parameter.exact is not None
    assert parameter.backend is not None
    part = parameter.backend.to_host(parameter.exact)
    return part if parameter.shard is None else group.start_all_gather(part, parameter.shard.axis).wait()


def save_weights(path: Path, parameters: Iterable[Parameter], group: Communicator, is_writer: bool) -> None:
    """Write the global arrays of `parameters` to `path`, one dataset a name, on the rank that `is_writer`.

    All ranks of `group`, which shares the shards, call. Weights are in owt_mpi's order: (c_out, kh, kw, c_in) and
    (outputs, inputs), inputs flattened as h, w, c. The attribute sha256 is that of all arrays, see `_digest`. The file
    appears under its name when it is whole. OSError, on the writer alone and after the last collective, where it cannot
    be written.
    """
    error, digests = None, {}
    with ExitStack() as opened:
        writer = None
        for parameter in parameters:
            whole = whole_parameter(parameter, group)
            if not is_writer or error is not None:  # the others go on to the last collective
                continue
            digests[parameter.name] = _digest_of(whole)
            try:
                if writer is None:
                    writer = opened.enter_context(Hdf5Writer(path))
                    writer.file.attrs["format"], writer.file.attrs["format_version"] = FORMAT, FORMAT_VERSION
                writer.place(parameter.name, whole.shape, whole.dtype)
                writer.write(parameter.name, 0, whole)
            except OSError as failure:
                error = failure
        if error is not None:
            raise error
        if writer is not None:
            writer.file.attrs["sha256"] = _digest(digests)
            writer.finish()


@contextmanager
def opened_weights(path: Path, is_checked: bool = True) -> Iterator[dict[str, GlobalArray]]:
    """Give the arrays of a file that `save_weights` wrote, by name, which are read when they are sliced.

    With `is_checked` all are read once first, and compared with their SHA-256; files of version 1 have none. ValueError
    if it is another kind of file, or damaged.
    """
    try:
        with PlainHdf5(path) as file:
            version = file.attributes.get("format_version")
            if file.attributes.get("format") != FORMAT or version not in (WITHOUT_SHA256, FORMAT_VERSION):
                raise Hdf5Error(f"is no weights file of version {FORMAT_VERSION}; python -m owt_mpi.train writes them")
            arrays = {name: _whole(path, name, file.array(name)) for name in file.names}
            if is_checked and version != WITHOUT_SHA256:
                digest = _digest({name: _digest_of(array) for name, array in arrays.items()})
                if file.attributes.get("sha256") != digest:
                    raise Hdf5Error("is damaged: its SHA-256 is another one; take a checkpoint of its run")
            yield arrays
    except Hdf5Error as error:
        raise ValueError(f"{path} {error}") from error


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that `save_weights` wrote, by name. ValueError if it is another kind of file."""
    with opened_weights(path) as arrays:
        return {name: array[...] for name, array in arrays.items()}


def _digest(digests: Mapping[str, str]) -> str:
    """Return the SHA-256 of arrays whose own, by `_digest_of`, are known by name."""
    lines = [f"{name} {digests[name]}\n" for name in sorted(digests)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _digest_of(array: np.ndarray | GlobalArray) -> str:
    """Return the SHA-256 of dtype, shape and numbers of an array, of which some rows at a time are read."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    row_bytes = prod(array.shape[1:]) * array.dtype.itemsize
    step = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, array.shape[0], step):
        digest.update(np.ascontiguousarray(array[start : start + step]).data)
    return digest.hexdigest()


def _whole(path: Path, name: str, array: Array) -> GlobalArray:
    if array.dtype.kind != "f" or not array.shape or not isinstance(array, FileArray):
        raise Hdf5Error(f"has {name!r} as {array.dtype}, and not as floating-point numbers in one piece")
    where = tuple(slice(0, length) for length in array.shape)
    return GlobalArray(array.shape, array.dtype, [Block(path, where, array.shape, array)])
