"""The folder that a run's checkpoints lie in: which there are, which are whole, which may go."""

import contextlib
import shutil
from pathlib import Path

from owt_mpi.checkpoint.format import CheckpointError, checkpoint_name, step_of
from owt_mpi.disk import sync_folder

LATEST, BEST = "latest", "best"  # symbolic links to the newest checkpoint, and to that of the best validation
_UNFINISHED = ".unfinished-"


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the newest first. What is unfinished has another name and is none."""
    found = [(step, path) for path in folder.glob("step-*") if (step := step_of(path)) is not None and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def make_unfinished(folder: Path, step: int) -> Path:
    """Make and return an empty folder to write the checkpoint of `step` into; what others left unfinished goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_UNFINISHED}*"):
        _remove(left)
    path = folder / f"{_UNFINISHED}{checkpoint_name(step)}"
    path.mkdir()
    return path


def finish(unfinished: Path, is_best: bool) -> Path:
    """Give the checkpoint in `unfinished`, all of which is on disk, its name; point to it; return its path."""
    folder, name = unfinished.parent, unfinished.name.removeprefix(_UNFINISHED)
    final = folder / name
    sync_folder(unfinished)
    if final.exists():  # of the same step, from before the run was resumed at an earlier one
        set_aside = folder / f"{_UNFINISHED}replaced-{name}"
        final.rename(set_aside)
        unfinished.rename(final)
        _remove(set_aside)
    else:
        unfinished.rename(final)
    _point(folder / LATEST, name)
    if is_best:
        _point(folder / BEST, name)
    sync_folder(folder)
    return final


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`, and the best."""
    best = folder / BEST
    kept = best.readlink().name if best.is_symlink() else None
    for path in checkpoints_in(folder)[keep:]:
        if path.name != kept:
            going = folder / f"{_UNFINISHED}old-{path.name}"
            path.rename(going)  # first, so that what is half removed is no checkpoint
            shutil.rmtree(going)


def resolve(path: Path) -> Path:
    """Return the checkpoint that the user named: itself, or the newest of a folder of checkpoints or of a run."""
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    if step_of(path.resolve()) is not None or (path / "checkpoint.json").exists():
        return path
    found = checkpoints_in(path)
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint; name a folder step-..., or one that holds such folders")
    return found[0]


def _remove(path: Path) -> None:
    """Remove a folder with all in it, or what is in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()  # rmtree would wait for a pipe


def _point(link: Path, name: str) -> None:
    """Let the symbolic link `link` lead to `name`, at every moment to the old one or to the new."""
    temporary = link.with_name(f"{_UNFINISHED}{link.name}-link")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(name)
    temporary.replace(link)
