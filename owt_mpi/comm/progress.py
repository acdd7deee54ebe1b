"""What each rank has started, kept in a file a rank: others read it without help of the rank, which may be stuck."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """One rank at one moment: `stamp` in seconds since the epoch, and the number of collectives it has started.

    `num_started` counts by communicator, under names that are the same on all its ranks. `waits_for` is "" for a rank
    that does not wait.
    """

    host: str
    stamp: float
    place: str
    waits_for: str
    num_started: Mapping[str, int]

    def describe(self, now: float) -> str:
        """Return where the rank was, and how long ago that was."""
        waiting = f", waiting for {self.waits_for}" if self.waits_for else ""
        return f"seen {max(now - self.stamp, 0):.0f} s ago on host {self.host} in {self.place}{waiting}"


class ProgressFolder:
    """The files of all ranks, in `folder` of a file system that they share. Nothing here raises for a failing disk."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._own = folder, self._path(folder, rank)
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)

    def write(self, progress: Progress) -> None:
        """Replace this rank's file, in one go for its readers."""
        new = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(asdict(progress)), encoding="utf-8")
            new.replace(self._own)

    def read(self, rank: int) -> Progress | None:
        """Return what `rank` wrote last, None if that cannot be read."""
        try:
            return Progress(**json.loads(self._path(self._folder, rank).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def remove(self) -> None:
        """Remove this rank's file, and the folder with the last one."""
        with contextlib.suppress(OSError):
            self._own.unlink()
            self._folder.rmdir()

    @staticmethod
    def _path(folder: Path, rank: int) -> Path:
        return folder / f"rank-{rank:05d}.json"
