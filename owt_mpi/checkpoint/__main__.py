"""Look at checkpoints: `python -m owt_mpi.checkpoint show|verify|diff`."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from owt_mpi.checkpoint.folder import BEST, LATEST, checkpoints_in, resolve
from owt_mpi.checkpoint.format import CheckpointError, CheckpointManifest
from owt_mpi.checkpoint.reader import Checkpoint, verify
from owt_mpi.input_file import one_line, printable
from owt_mpi.tables import Table, render

DAMAGED, DIFFERENT = 3, 1

_Path = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Show:
    """Print what a checkpoint holds: its step, state and arrays."""

    path: _Path
    """A checkpoint (step-...), or a run's folder, of which the newest is taken."""
    json: Path | None = None
    """Also write it to this file."""


@dataclass(frozen=True)
class Verify:
    """Compare all files of checkpoints with their SHA-256. Exit code 3 if one is damaged."""

    path: _Path
    """A checkpoint (step-...), or a run's folder, all of whose checkpoints are looked at."""
    json: Path | None = None
    """Also write the table to this file."""


@dataclass(frozen=True)
class Diff:
    """Compare two checkpoints array by array. Exit code 1 if they differ by more than `tolerance`."""

    first: _Path
    """A checkpoint, or a run's folder, of which the newest is taken."""
    second: _Path
    """Another, perhaps of other ranks."""
    tolerance: float = 0.0
    """The largest difference that is none, relative to the largest element of an array."""
    json: Path | None = None
    """Also write the table to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    commands: dict[str, Callable[..., Show | Verify | Diff]] = {"show": Show, "verify": Verify, "diff": Diff}
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="python -m owt_mpi.checkpoint", description=__doc__, args=arguments
    )
    try:
        table, content, code = _run(command)
        print(render(table, markdown=False), end="")
        if command.json is not None:
            command.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (CheckpointError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return DAMAGED
    return code


def _run(command: Show | Verify | Diff) -> tuple[Table, Any, int]:
    if isinstance(command, Show):
        return show(command)
    return verify_all(command) if isinstance(command, Verify) else diff(command)


def show(command: Show) -> tuple[Table, Any, int]:
    """Return the arrays of a checkpoint as a table and as what JSON holds, and the exit code."""
    with _opened(command.path) as checkpoint:
        manifest = checkpoint.manifest
        arrays = {
            name: {"shape": list(array.shape), "dtype": str(array.dtype), "has_momentum": name in checkpoint.momentum}
            for name, array in checkpoint.weights.items()
        }
        lines = [
            [name, "x".join(map(str, array.shape)), f"{array.size:,}", _root_mean_square(array[...])]
            for name, array in checkpoint.weights.items()
        ]
    total_bytes = sum(entry.bytes for entry in manifest.files.values())
    notes = [
        f"{printable(manifest.program)}; {len(manifest.files) - 1} parts, {total_bytes / 1e6:.1f} MB",
        *(printable(f"{name}: {_without_lists(value)}") for name, value in manifest.state.items()),
    ]
    table = Table(f"{checkpoint.path}: step {manifest.step}", ("weights", "shape", "elements", "rms"), lines, notes)
    content = {
        "path": str(checkpoint.path),
        "step": manifest.step,
        "program": manifest.program,
        "bytes": total_bytes,
        "state": manifest.state,
        "config": manifest.config,
        "data_set": manifest.data_set,
        "arrays": arrays,
    }
    return table, content, 0


def verify_all(command: Verify) -> tuple[Table, Any, int]:
    """Return a line for each checkpoint as a table and as what JSON holds, and the exit code."""
    named = resolve(command.path)
    is_one = command.path == named
    rows = []
    for path in [named] if is_one else checkpoints_in(named.parent):
        try:
            manifest: CheckpointManifest | None = verify(path)
            wrong = ""
        except (CheckpointError, OSError) as error:
            manifest, wrong = None, str(error)
        size = sum(entry.bytes for entry in manifest.files.values()) if manifest else None
        rows.append({"checkpoint": str(path), "bytes": size, "is_whole": not wrong, "wrong": wrong})
    links = [named.parent / name for name in (BEST, LATEST)]
    pointers = {link.resolve().name: link.name for link in links if link.exists()}
    lines = [
        [
            Path(str(row["checkpoint"])).name,
            f"{row['bytes'] / 1e6:.1f}" if isinstance(row["bytes"], int) else "",
            "whole" if row["is_whole"] else "DAMAGED",
            pointers.get(Path(str(row["checkpoint"])).name, ""),
        ]
        for row in rows
    ]
    notes = [str(row["wrong"]) for row in rows if row["wrong"]]
    table = Table(f"Checkpoints in {named.parent}", ("checkpoint", "MB", "state", "pointer"), lines, notes)
    return table, rows, DAMAGED if notes else 0


def diff(command: Diff) -> tuple[Table, Any, int]:
    """Return a line for each array as a table and as what JSON holds, and the exit code."""
    with _opened(command.first) as first, _opened(command.second) as second, np.errstate(all="ignore"):
        rows = [
            {"array": f"{kind}/{name}", **_compare(name, a, b)}
            for kind, a, b in (
                ("weights", first.weights, second.weights),
                ("momentum", first.momentum, second.momentum),
            )
            for name in sorted(a.keys() | b.keys())
        ]
    differ = [row for row in rows if row["relative"] is None or not row["relative"] <= command.tolerance]
    lines = [
        [str(row["array"]), str(row["says"]), "" if row["relative"] is None else f"{row['relative']:.2e}"]
        for row in rows
    ]
    steps = f"step {first.manifest.step} against step {second.manifest.step}"
    notes = [f"{len(rows)} arrays: {len(rows) - len(differ)} equal within {command.tolerance:g}, {len(differ)} not"]
    table = Table(f"{first.path} against {second.path}: {steps}", ("array", "", "relative"), lines, notes)
    return table, rows, DIFFERENT if differ else 0


def _opened(path: Path) -> Checkpoint:
    """Return the checkpoint that the user named, all of which is as it was written."""
    found = resolve(path)
    verify(found)
    return Checkpoint(found)


def _compare(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the largest difference of an array, relative to its largest element, None where that has no meaning."""
    for arrays, which in ((first, "first"), (second, "second")):
        if name not in arrays:
            return {"says": f"not in the {which}", "relative": None}
    a, b = first[name][...].astype(np.float64), second[name][...].astype(np.float64)
    if a.shape != b.shape:
        return {"says": f"{a.shape} and {b.shape}", "relative": None}
    if np.array_equal(a, b, equal_nan=True):
        return {"says": "same bits", "relative": 0.0}
    relative = float(np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max()))
    return {"says": "differs", "relative": relative if np.isfinite(relative) else None}


def _without_lists(value: Any) -> Any:
    """Return a value of the state for people: the losses of many steps are left to --json."""
    return {k: v for k, v in value.items() if not isinstance(v, list)} if isinstance(value, dict) else value


def _root_mean_square(values: np.ndarray) -> str:
    with np.errstate(all="ignore"):
        return f"{np.sqrt(np.square(values, dtype=np.float64).mean()):.3e}"


if __name__ == "__main__":
    sys.exit(main())
