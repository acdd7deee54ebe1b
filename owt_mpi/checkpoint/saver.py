"""Checkpoints written while training goes on: a snapshot is taken between steps, a thread of each rank writes its part.

The threads make no MPI calls. Each rank's thread says in a small file whether its part is on disk; the thread of rank 0
waits for these, joins the parts, and gives the folder its name. So whatever is killed at whatever moment, a folder with
the name of a checkpoint is whole. Who waits for a checkpoint does so in a collective, where a rank that never comes is
seen by the others' watch (comm/watchdog.py).
"""

import contextlib
import json
import shutil
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from owt_mpi.checkpoint.folder import checkpoints_in, finish, make_unfinished, remove_old
from owt_mpi.checkpoint.format import (
    JOINED_NAME,
    CheckpointError,
    CheckpointManifest,
    FileEntry,
    part_name,
)
from owt_mpi.checkpoint.joined import write_joined
from owt_mpi.checkpoint.part_file import write_parts
from owt_mpi.checkpoint.parts import Part
from owt_mpi.comm.base import Communicator

_STATUS_BYTES = 4096  # taken on the disk in advance, so that a rank can say that the disk is full
_LOOK_SECONDS = 0.05
_SHOWING_SECONDS = 30.0  # that a file system may take to show one host what another has written
_CANNOT_WRITE = (OSError, RuntimeError, CheckpointError)  # h5py's where a file cannot be closed, ours for damaged parts


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: this rank's parts, and what is the same on all ranks."""

    step: int
    parts: list[Part]
    state: dict[str, Any]
    is_best: bool = False
    removes_old: bool = True


@dataclass(frozen=True)
class _PartsOver:
    """Set when this rank's part of a checkpoint is written, or cannot be, and when that is so of all ranks' parts."""

    own: threading.Event = field(default_factory=threading.Event)
    every: threading.Event = field(default_factory=threading.Event)


class CheckpointSaver:
    """Writes checkpoints into `folder`, of which the newest `keep` stay, and the best.

    All ranks of `comm` call `save` and `finish` alike. A checkpoint that cannot be written is a message, not an error:
    the training goes on.
    """

    def __init__(
        self,
        folder: Path,
        comm: Communicator,
        keep: int,
        config: dict[str, Any],
        program: str,
        data_set: dict[str, Any] | None = None,
    ) -> None:
        self._folder, self._comm, self._keep = folder, comm, keep
        self._config, self._program, self._data_set = config, program, data_set or {}
        self._writing: tuple[threading.Thread, _PartsOver] | None = None
        self._messages: list[str] = []
        self.num_written = 0  # known on rank 0

    def save(self, snapshot: Snapshot) -> None:
        """Start to write a checkpoint, when the one before is written."""
        self.finish()
        unfinished = self._prepare(snapshot.step)
        if unfinished is not None:
            over = _PartsOver()
            thread = threading.Thread(
                target=self._write, args=(unfinished, snapshot, over), name="checkpoint", daemon=True
            )
            thread.start()
            self._writing = thread, over

    def finish(self) -> None:
        """Return when all parts of the checkpoint that was started are written; on rank 0, when all of it is."""
        if self._writing is not None:
            thread, over = self._writing
            over.own.wait()
            self._comm.all_gather_object(None)
            over.every.set()
            thread.join()
            self._writing = None

    def newest(self) -> Path | None:
        """Return the newest checkpoint that there is."""
        return next(iter(checkpoints_in(self._folder)), None)

    def messages(self) -> list[str]:
        """Return what went wrong since the last call, for people; rank 0 knows it all."""
        said, self._messages = self._messages, []
        return said

    def _prepare(self, step: int) -> Path | None:
        """Return the folder to write into, with a place for every rank's status; None, and a message, if that fails."""
        unfinished, error = Path(), None
        if self._comm.rank == 0:
            try:
                unfinished = make_unfinished(self._folder, step)
            except OSError as failure:
                error = str(failure)
        unfinished, error = self._comm.all_gather_object((unfinished, error))[0]
        if error is None:
            try:
                _reserve(_status_path(unfinished, self._comm.rank))
            except OSError as failure:
                error = str(failure)
        errors = [each for each in self._comm.all_gather_object(error) if each is not None]
        if errors:
            self._messages.append(_failure(step, errors[0]))
            return None
        return unfinished

    def _write(self, unfinished: Path, snapshot: Snapshot, over: _PartsOver) -> None:
        rank, size = self._comm.rank, self._comm.size
        name = part_name(rank, size)
        try:
            _say(_status_path(unfinished, rank), _write_part(unfinished / name, snapshot.parts))
        finally:
            over.own.set()
        if rank == 0:
            try:
                self._join(unfinished, snapshot, over.every)
                self.num_written += 1
            except _CANNOT_WRITE as error:
                self._messages.append(_failure(snapshot.step, str(error)))
                shutil.rmtree(unfinished, ignore_errors=True)

    def _join(self, unfinished: Path, snapshot: Snapshot, all_parts_are_over: threading.Event) -> None:
        """Make a checkpoint of all ranks' parts. OSError if one of them has failed."""
        files: dict[str, FileEntry] = {}
        for rank in range(self._comm.size):
            path = _status_path(unfinished, rank)
            status = _await(path, all_parts_are_over)
            if "error" in status:
                raise OSError(f"rank {rank}: {status['error']}")
            files[part_name(rank, self._comm.size)] = FileEntry(**status)
        for rank in range(self._comm.size):
            _status_path(unfinished, rank).unlink()
        files[JOINED_NAME] = write_joined(unfinished / JOINED_NAME, [unfinished / name for name in files])
        CheckpointManifest(snapshot.step, files, snapshot.state, self._config, self._program, self._data_set).write(
            unfinished
        )
        finish(unfinished, snapshot.is_best)
        if snapshot.removes_old:
            remove_old(self._folder, self._keep)


def _write_part(path: Path, parts: list[Part]) -> dict[str, Any]:
    """Return what there is to say of the part that was written, or could not be."""
    try:
        return asdict(write_parts(path, parts))
    except _CANNOT_WRITE as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # makes room
        return {"error": str(error)[: _STATUS_BYTES // 4]}


def _status_path(unfinished: Path, rank: int) -> Path:
    return unfinished / f"status-{rank:05d}"


def _reserve(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b" " * _STATUS_BYTES)


def _say(path: Path, status: dict[str, Any]) -> None:
    """Put `status` in place of the spaces; the last byte says that it is complete."""
    text = json.dumps(status).encode()[: _STATUS_BYTES - 1]
    with contextlib.suppress(OSError), path.open("r+b") as file:
        file.write(text)
        file.flush()
        file.seek(_STATUS_BYTES - 1)
        file.write(b"\n")


def _await(path: Path, all_parts_are_over: threading.Event) -> dict[str, Any]:
    """Return what another rank says, when it has. OSError if it does not, though its part is over.

    A rank that fails ends the job, this thread with it.
    """
    end: float | None = None
    while not (text := path.read_bytes()).endswith(b"\n"):
        if end is None and all_parts_are_over.is_set():
            end = time.monotonic() + _SHOWING_SECONDS
        if end is not None and time.monotonic() >= end:
            raise OSError(f"{path.name} does not say whether that rank's part is written")
        time.sleep(_LOOK_SECONDS)
    status: dict[str, Any] = json.loads(text)
    return status


def _failure(step: int, reason: str) -> str:
    return (
        f"WARNING: the checkpoint of step {step} could not be written ({reason}); the training goes on, and the "
        "checkpoints before are kept; make room"
    )
