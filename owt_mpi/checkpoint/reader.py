"""Checkpoints read: checked first, then as global arrays, of which each rank takes its shard."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py

from owt_mpi.checkpoint.folder import checkpoints_in
from owt_mpi.checkpoint.format import (
    FORMAT_NAME,
    H5PY_ERRORS,
    JOINED_NAME,
    CheckpointError,
    CheckpointManifest,
    check_file,
)
from owt_mpi.comm.base import Communicator


class Checkpoint:
    """An open checkpoint. `weights` and `momentum` are the global arrays by name of the parameter, read when sliced."""

    def __init__(self, path: Path) -> None:
        """Open the checkpoint in the folder `path`, which was verified. CheckpointError if that fails."""
        self.path, self.manifest = path, CheckpointManifest.read(path)
        joined = path / JOINED_NAME
        try:
            self._file = h5py.File(joined, "r", locking=False)
        except OSError as error:
            raise CheckpointError(f"{joined} cannot be opened ({error}); take another checkpoint") from error
        arrays: dict[str, Any] = {}
        try:
            if self._file.attrs.get("format") != FORMAT_NAME:
                raise CheckpointError(f"{joined} is not of the format {FORMAT_NAME!r}; take another checkpoint")
            self._file.visititems(lambda name, found: _enter(arrays, name, found))
        except H5PY_ERRORS as error:
            self._file.close()
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{joined} is no sound HDF5 file ({error}); take another checkpoint") from error
        self.weights, self.momentum = (_of_kind(arrays, kind) for kind in ("weights", "momentum"))

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def verify(path: Path, rank: int = 0, size: int = 1) -> CheckpointManifest:
    """Return the manifest of the checkpoint in the folder `path`, with all its files as it says.

    Of `size` ranks each looks at every size-th file. CheckpointError names what is wrong.
    """
    manifest = CheckpointManifest.read(path)
    for name in sorted(manifest.files)[rank::size]:
        check_file(path, name, manifest.files[name])
    return manifest


def newest_whole(folder: Path, comm: Communicator) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint in `folder` that is whole, and what is wrong with the newer ones. All ranks call."""
    damaged: list[str] = []
    for path in comm.all_gather_object(checkpoints_in(folder) if comm.rank == 0 else [])[0]:
        wrong = first_damage(path, comm)
        if wrong is None:
            return path, damaged
        damaged.append(wrong)
    return None, damaged


def first_damage(path: Path, comm: Communicator) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is; the ranks share the work. All ranks call."""
    wrong = None
    try:
        verify(path, comm.rank, comm.size)
    except (CheckpointError, OSError) as error:
        wrong = str(error)
    return next((each for each in comm.all_gather_object(wrong) if each is not None), None)


def _enter(arrays: dict[str, Any], name: str, found: Any) -> None:
    if isinstance(found, h5py.Dataset):
        arrays[name] = found


def _of_kind(arrays: dict[str, Any], kind: str) -> Mapping[str, Any]:
    return {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")}
