"""Checkpoints read: checked first, then as global arrays, of which each rank takes its shard."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from owt_mpi.checkpoint.folder import checkpoints_in
from owt_mpi.checkpoint.format import JOINED_NAME, CheckpointError, CheckpointManifest, check_file
from owt_mpi.checkpoint.global_array import GlobalArray, open_arrays
from owt_mpi.comm.base import Communicator


class Checkpoint:
    """An open checkpoint. `weights` and `momentum` are the global arrays by name of the parameter, read when sliced."""

    def __init__(self, path: Path) -> None:
        """Open the checkpoint in the folder `path`, which was verified. CheckpointError if that fails."""
        self.path, self.manifest = path, CheckpointManifest.read(path)
        with ExitStack() as opened:
            parts = [path / name for name in sorted(self.manifest.files) if name != JOINED_NAME]
            arrays = open_arrays(parts, opened)
            self._opened = opened.pop_all()
        self.weights, self.momentum = (_of_kind(arrays, kind) for kind in ("weights", "momentum"))

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()


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


def _of_kind(arrays: Mapping[str, GlobalArray], kind: str) -> Mapping[str, GlobalArray]:
    return {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")}
