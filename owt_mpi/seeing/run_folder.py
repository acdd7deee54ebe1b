"""The folder of a run, read as far as it can be: what is missing or damaged is said, and is no error."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from owt_mpi.checkpoint.first_filters import Filters, NoWeightsError, newest_filters
from owt_mpi.comm.ledger import Flows
from owt_mpi.disk import open_regular
from owt_mpi.input_file import short
from owt_mpi.preset_files import parse_toml
from owt_mpi.seeing.html import clean
from owt_mpi.seeing.metrics_file import Metrics, flows_of, read_metrics

_LARGEST_FILE = 1 << 26  # the wire of ten thousand ranks; JSON may take twenty times as much memory
_LARGEST_NUMBER = 1e300
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")
_HOW = {
    "trained": "trained to the end",
    "stopped": "stopped, to be gone on with",
    "interrupted": "interrupted",
    "failed": "failed",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """What the network said of an image: the best classes and their scores. `picture` is a data: URL, "" for none."""

    name: str
    title: str
    classes: tuple[tuple[str, float | None], ...]
    picture: str


@dataclass(frozen=True)
class Samples:
    """Those of the last validation."""

    epoch: int
    step: int
    images: tuple[Sample, ...]


@dataclass(frozen=True)
class Wire:
    """What crossed: the flows of some ranks in `num_steps` steps."""

    ranks: tuple[Flows, ...]
    num_steps: int


@dataclass(frozen=True)
class Run:
    """What is known of a run; `problems` says what is not and why, by the part: metrics, config, wire and so on.

    `config` has the options by section and name, as in batch.epochs.
    """

    name: str
    folder: Path
    metrics: Metrics
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    wire: Wire | None
    samples: Samples | None
    filters: Filters | None
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """How the run ended, or that nothing says so."""
        if self.metrics.end is None:
            return "not ended: it goes on, or was killed" if self.metrics.last_step else "nothing recorded yet"
        how, why = self.metrics.end
        return f"{_HOW.get(how, how)}{f': {why}' if why else ''}"

    @property
    def num_steps(self) -> int | None:
        """How many steps the whole run has, None if that is not known."""
        steps = self.metrics.starts[-1].numbers.get("num_steps") if self.metrics.starts else None
        return None if steps is None else int(steps)

    @property
    def global_batch(self) -> int | None:
        """The images of a step, None if that is not known."""
        images = self.metrics.starts[-1].numbers.get("global_batch") if self.metrics.starts else None
        return None if images is None else int(images)


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Return the runs in `folders`, each under a name of its own. ValueError for a folder that holds none."""
    names = [clean(Path(os.path.realpath(folder)).name) for folder in folders]
    if len(set(names)) < len(names):
        names = [clean(str(Path(folder))) for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the run {name} is named twice; name each once")
    return [read_run(Path(folder), name) for folder, name in zip(folders, names, strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """Return the run in `folder`, to be called `name`. ValueError if it holds none."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give the --run-dir of a training")
    if not any((folder / each).exists() for each in ("metrics.jsonl", "config.toml")):
        raise ValueError(
            f"{folder} holds no run: it has neither metrics.jsonl nor config.toml; give the --run-dir of a training"
        )
    problems: dict[str, str] = {}

    def attempt(part: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except FileNotFoundError as error:
            problems[part] = f"there is no {Path(error.filename).name} yet"
        except NoWeightsError as error:
            problems[part] = str(error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problems[part] = f"{part} cannot be read: {error}"
        return otherwise

    metrics = attempt("metrics", lambda: read_metrics(folder / "metrics.jsonl"), Metrics())
    if metrics.damaged_lines:
        count = metrics.damaged_lines
        said = "1 damaged line of metrics.jsonl is" if count == 1 else f"{count} damaged lines of metrics.jsonl are"
        problems["metrics"] = f"{said} left out"
    is_over = metrics.end is not None and metrics.end[0] == "trained"
    wire = attempt("wire", lambda: _read_wire(folder / "wire.json"), None) if is_over else None
    if wire is None and metrics.flow_steps:
        wire = Wire((metrics.flows,), metrics.flow_steps)
        problems.pop("wire", None)
    return Run(
        name=name,
        folder=folder,
        metrics=metrics,
        config=attempt("config", lambda: _read_config(folder / "config.toml"), {}),
        environment=attempt("environment", lambda: _read_environment(folder / "environment.json"), {}),
        wire=wire,
        samples=attempt("samples", lambda: _read_samples(folder / "samples.json"), None),
        filters=attempt("filters", lambda: newest_filters(folder, is_over), None),
        problems=problems,
    )


def last_written(run: Run) -> str:
    """Return when metrics.jsonl was written last, "" if that cannot be told."""
    try:
        stamp = (run.folder / "metrics.jsonl").stat().st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(stamp).astimezone().strftime("%Y-%m-%d %H:%M")


def _read_text(file: Path) -> str:
    with open(open_regular(file), encoding="utf-8", errors="replace") as opened:
        if os.fstat(opened.fileno()).st_size > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        return opened.read()


def _read_config(file: Path) -> dict[str, Any]:
    sections = parse_toml(_read_text(file), file.name)
    return {
        f"{section}.{name}": _for_json(value)
        for section, options in sections.items()
        if isinstance(options, dict)
        for name, value in options.items()
    }


def _for_json(value: Any) -> Any:
    """Return a value of TOML as JSON can have it: dates, what is no finite number, and huge numbers as text."""
    if isinstance(value, dict):
        return {name: _for_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_for_json(each) for each in value]
    is_plain = isinstance(value, str) or (isinstance(value, int | float) and abs(value) <= _LARGEST_NUMBER)
    return value if is_plain else f"{value:.60g}" if isinstance(value, float) else short(value)


def _read_environment(file: Path) -> dict[str, str]:
    content = json.loads(_read_text(file))
    command = content.get("command")
    shown = {**content, "command": " ".join(map(str, command))} if isinstance(command, list) else content
    return {str(name): str(fact) for name, fact in shown.items()}


def _read_wire(file: Path) -> Wire | None:
    content = json.loads(_read_text(file))
    ranks = [flows_of(rows) for rows in content["ranks"]]
    sound, num_steps = tuple(flows for flows in ranks if flows is not None), int(content["steps"])
    if len(sound) < len(ranks):
        raise ValueError("its flows are not sound")
    return Wire(sound, num_steps) if num_steps > 0 and sound else None


def _read_samples(file: Path) -> Samples:
    content = json.loads(_read_text(file))
    images = tuple(
        Sample(
            str(each["name"]),
            str(each["title"]),
            tuple((str(named["title"]), _score(named["score"])) for named in each["classes"]),
            each["picture"] if _PICTURE.fullmatch(each["picture"]) else "",
        )
        for each in content["images"]
    )
    return Samples(int(content["epoch"]), int(content["step"]), images)


def _score(value: Any) -> float | None:
    return float(value) if value is not None and isfinite(value) else None
