"""The checkpoint format: the one definition of its files, for writer and reader.

A checkpoint is a folder `step-000001200` with

- `part-00000-of-00004.h5` and so on, one written by each rank: blocks of the global arrays `weights/NAME` and
  `momentum/NAME`, each a dataset with the attributes `start` and `global_shape`;
- `checkpoint.h5`, which joins them: the global arrays as virtual datasets, for any program with HDF5. This one reads
  the parts (global_array.py), without HDF5;
- `checkpoint.json`: bytes and SHA-256 of those files, the step, the state of the training, its configuration and data
  set, and a SHA-256 of its own content.

Weights are before rounding, in owt_mpi's order (see weights.py). A folder has that name when all of it is on disk.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from owt_mpi.disk import is_plain_name, sha256_of, sync_file
from owt_mpi.input_file import read_json, short, table, text, whole

FORMAT_NAME = "owt_mpi.checkpoint"
FORMAT_VERSION = 1
JOINED_NAME = "checkpoint.h5"
MANIFEST_NAME = "checkpoint.json"
_STEP_NAME = re.compile(r"step-(\d{9,})")
_LARGEST_MANIFEST = 1 << 24


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message is one line: the file, what is wrong with it, and the way out."""


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointManifest:
    """All that is known of a checkpoint besides its arrays. `state` is the training's, `config` its options."""

    step: int
    files: dict[str, FileEntry]
    state: dict[str, Any]
    config: dict[str, Any]
    program: str  # name and version of what wrote it
    data_set: dict[str, Any] = field(default_factory=dict)  # of its images and classes; empty where not known

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, and bring it to the disk."""
        content = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **asdict(self)}
        with (folder / MANIFEST_NAME).open("w", encoding="utf-8") as file:
            file.write(json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> "CheckpointManifest":
        """Return the manifest in `folder`. CheckpointError if it is missing, damaged or of another version."""
        path = folder / MANIFEST_NAME
        try:
            content = read_json(path, _LARGEST_MANIFEST)
        except FileNotFoundError:
            raise CheckpointError(f"{folder} is no checkpoint: it has no {MANIFEST_NAME}") from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error}); take another checkpoint") from error
        except ValueError as error:
            raise CheckpointError(f"{path} {error}; take another checkpoint") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
            raise CheckpointError(f"{path} is not of the format {FORMAT_NAME!r}; name a checkpoint of owt_mpi.train")
        if content.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {short(content.get('format_version'))}, this program reads {FORMAT_VERSION}"
            )
        if content.pop("sha256", None) != _digest(content):
            raise CheckpointError(f"{path} is damaged: its SHA-256 is another one; take another checkpoint")
        try:
            return cls(
                step=whole(content["step"], "step"),
                files={
                    name: FileEntry(whole(table(file, "a file")["bytes"], "bytes"), text(file["sha256"], "sha256"))
                    for name, file in table(content["files"], "files").items()
                },
                state=table(content["state"], "state"),
                config=table(content["config"], "config"),
                program=text(content["program"], "program"),
                data_set=table(content.get("data_set", {}), "data_set"),
            )
        except KeyError as error:
            raise CheckpointError(f"{path} is malformed (it has no {error})") from error
        except ValueError as error:
            raise CheckpointError(f"{path} is malformed ({error})") from error


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after `step` steps: step-000001200."""
    return f"step-{step:09d}"


def step_of(folder: Path) -> int | None:
    """Return the step of a folder that is named as a checkpoint, else None."""
    match = _STEP_NAME.fullmatch(folder.name)
    return int(match[1]) if match else None


def part_name(rank: int, num_ranks: int) -> str:
    """Return the name of a rank's file: part-00000-of-00004.h5."""
    return f"part-{rank:05d}-of-{num_ranks:05d}.h5"


def finished_entry(path: Path) -> FileEntry:
    """Bring the file to the disk and return its size and SHA-256."""
    sync_file(path)
    return FileEntry(path.stat().st_size, sha256_of(path))


def check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """Raise CheckpointError unless the file `name` is what the manifest says of it."""
    path = folder / name
    if not is_plain_name(name):
        raise CheckpointError(f"{folder / MANIFEST_NAME} names {short(name)}, which is not in its own folder")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy the whole folder, or take another checkpoint")
    if path.stat().st_size != entry.bytes:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}; take another checkpoint"
        )
    if sha256_of(path) != entry.sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is another one; take another checkpoint")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
