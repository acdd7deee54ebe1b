"""The folder that a run leaves behind: where it is, and what is written into it at the start."""

import contextlib
import itertools
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from owt_mpi.comm.base import Communicator
from owt_mpi.config import Config
from owt_mpi.disk import write_whole
from owt_mpi.environment.software import basics
from owt_mpi.preset_files import preset_names, to_toml


def make_run_dir(config: Config, world: Communicator) -> Path:
    """Return the run's folder, made by rank 0. ValueError or OSError on all ranks if it cannot be. All ranks call."""
    made: Path | Exception = Path()
    if world.rank == 0:
        try:
            made = _make(config)
        except (ValueError, OSError) as error:
            made = error
    made = world.all_gather_object(made)[0]
    if isinstance(made, Exception):
        raise made
    return made


def _make(config: Config) -> Path:
    if not config.run.run_dir:
        return _new_run_dir(config)
    run_dir = Path(config.run.run_dir)
    if (run_dir / "metrics.jsonl").exists() and config.run.resume != "auto":
        raise ValueError(
            f"--run-dir {run_dir} holds a run already; go on with it by --resume auto, or choose another folder"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def _new_run_dir(config: Config) -> Path:
    """Return a new folder runs/NAME-DATE-TIME, with a number behind it where runs start in the same second."""
    shipped = config.run.preset in preset_names()
    name = config.run.preset if shipped else re.sub(r"[^\w.-]+", "_", Path(config.model.model).name)
    for number in itertools.count(1):
        run_dir = Path(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}{f'-{number}' if number > 1 else ''}")
        with contextlib.suppress(FileExistsError):
            run_dir.mkdir(parents=True)
            return run_dir
    raise AssertionError("unreachable")


def write_description(run_dir: Path, config: Config, facts: dict[str, str]) -> None:
    """Write the options, as a preset for another run, and what the run runs on."""
    again = replace(config, run=replace(config.run, run_dir="", resume="none"))
    write_whole(run_dir / "config.toml", to_toml(again).encode())
    environment: dict[str, Any] = {
        **basics(),
        "command": sys.argv,
        **facts,
    }
    write_whole(run_dir / "environment.json", (json.dumps(environment, indent=2) + "\n").encode())
