"""What the metrics.jsonl of a run says: of a run that is over, goes on, was killed or resumed, damaged lines left out.

The file may be large, and is read line by line: what is only needed in sum is kept in sum.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any

from owt_mpi.accounts import Times
from owt_mpi.comm.ledger import Flow, FlowKey, Flows
from owt_mpi.disk import open_regular

_LARGEST = 1e100  # so that sums and products of what is below can be shown; inf is above it
_TIMES = ("steps", "exchange_wait", "data_wait")
_FLOWS = ("calls", "sent_bytes", "received_bytes", "seconds", "exposed_seconds")
_STARTS = ("begin", "resume")
_LONGEST_LINE = 1 << 24  # of a record of ten thousand ranks a tenth

_Sums = list[float]


@dataclass(frozen=True)
class Point:
    """The numbers of one record, by name; `step` is that of the run, `seconds` of training since it first began."""

    step: int
    seconds: float
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class LayerPoint:
    """What layers were after `step` steps: of each its outputs' mean, std and zeros; of each parameter the update."""

    step: int
    outputs: Mapping[str, Mapping[str, float]]
    updates: Mapping[str, float]


@dataclass(frozen=True)
class Start:
    """When the run began or went on: the time it says itself, and what it ran on."""

    step: int
    time: str
    numbers: Mapping[str, float]


@dataclass
class Metrics:
    """The records that hold: those of steps that were taken again after a resume are left out.

    `end` says how the run ended and why, None if nothing does.
    """

    starts: list[Start] = field(default_factory=list)
    train: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)
    layers: list[LayerPoint] = field(default_factory=list)
    times: list[Point] = field(default_factory=list)  # ms a step, in the mean over ranks
    rank_sums: list[_Sums] = field(default_factory=list)  # of each rank: _TIMES
    rank_steps: int = 0  # that these are of
    flow_sums: dict[tuple[str, ...], _Sums] = field(default_factory=dict)  # by label, collective and payload: _FLOWS
    flow_steps: int = 0
    end: tuple[str, str] | None = None
    damaged_lines: int = 0

    @property
    def ranks(self) -> list[Times]:
        """The times of each rank over `rank_steps` steps, since the number of ranks was what it is."""
        return [Times(*sums) for sums in self.rank_sums]

    @property
    def flows(self) -> Flows:
        """What rank 0 moved in `flow_steps` steps."""
        return _flows(self.flow_sums)

    @property
    def last_step(self) -> int:
        """The last step that anything is known of."""
        return max((each[-1].step for each in (self.train, self.validation, self.starts) if each), default=0)

    @property
    def seconds(self) -> float:
        """How long the run has trained, as far as is known."""
        return max((each[-1].seconds for each in (self.train, self.validation) if each), default=0.0)


def read_metrics(file: Path) -> Metrics:
    """Return what `file` says. OSError if it cannot be read, ValueError if it is no file of lines."""
    metrics, before = Metrics(), 0.0
    limits = _limits(file)  # of each start the last step that holds of it
    limit = next(limits, inf)
    for line in _lines(file):
        record = _parsed(line)
        if record is None:
            metrics.damaged_lines += 1
            continue
        step, seconds = record["step"], record["seconds"]
        if record["kind"] in _STARTS:
            before, limit, metrics.end = metrics.seconds, next(limits, inf), None
            metrics.starts.append(Start(step, str(record.get("time", "")), _numbers(record)))
        elif record["kind"] == "end":
            metrics.end = str(record.get("how", "")), str(record.get("why", ""))
        elif step <= limit and not _enter(metrics, record, step, before + seconds):
            metrics.damaged_lines += 1
    return metrics


def _limits(file: Path) -> Iterator[float]:
    """Yield, for what comes before the first start and after each, the last step whose records hold."""
    candidates = (_parsed(line) for line in _lines(file) if any(kind in line for kind in _STARTS))
    steps = [record["step"] for record in candidates if record is not None and record["kind"] in _STARTS]
    yield from (min(steps[number:], default=inf) for number in range(len(steps) + 1))


def _lines(file: Path) -> Iterator[str]:
    with open(open_regular(file), encoding="utf-8", errors="replace") as opened:
        while line := opened.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"it has a line of {_LONGEST_LINE} characters or more")
            if line.strip():
                yield line


def _parsed(line: str) -> dict[str, Any] | None:
    """Return the record in a line, of some kind, step and seconds; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    return None if _count(record.get("step")) is None or _number(record.get("seconds")) is None else record


def _enter(metrics: Metrics, record: Mapping[str, Any], step: int, seconds: float) -> bool:
    """Add a record to what is known; return whether it is sound. Kinds that are not known here are."""
    kind = record["kind"]
    if kind == "train":
        metrics.train.append(Point(step, seconds, _numbers(record)))
    elif kind == "validation":
        metrics.validation.append(Point(step, seconds, _numbers(record)))
    elif kind == "layers":
        return _enter_layers(metrics, record, step)
    elif kind == "ranks":
        return _enter_ranks(metrics, record, step, seconds)
    elif kind == "wire":
        return _enter_flows(metrics, record)
    return True


def _enter_layers(metrics: Metrics, record: Mapping[str, Any], step: int) -> bool:
    outputs, updates = record.get("outputs"), record.get("updates")
    if not isinstance(outputs, dict) or not isinstance(updates, dict):
        return False
    known = {name: _numbers(each) for name, each in outputs.items() if isinstance(each, dict)}
    metrics.layers.append(LayerPoint(step, known, _numbers(updates)))
    return True


def _enter_ranks(metrics: Metrics, record: Mapping[str, Any], step: int, seconds: float) -> bool:
    num_steps, ranks = _count(record.get("steps")), _rows(record.get("ranks"), _TIMES)
    if not num_steps or not ranks:
        return False
    share = 1e3 / (num_steps * len(ranks))
    whole, exchange, data = (sum(each) * share for each in zip(*ranks, strict=True))
    metrics.times.append(Point(step, seconds, {"compute": whole - exchange - data, "exchange": exchange, "data": data}))
    if len(ranks) != len(metrics.rank_sums):  # other ranks than before
        metrics.rank_sums, metrics.rank_steps = [[0.0] * len(_TIMES) for _ in ranks], 0
    for sums, row in zip(metrics.rank_sums, ranks, strict=True):
        _add(sums, row)
    metrics.rank_steps += num_steps
    return True


def _enter_flows(metrics: Metrics, record: Mapping[str, Any]) -> bool:
    num_steps = _count(record.get("steps"))
    if not num_steps or not _add_flows(metrics.flow_sums, record.get("flows")):
        return False
    metrics.flow_steps += num_steps
    return True


def flows_of(rows: Any) -> Flows | None:
    """Return a rank's flows from JSON, None if it is not sound."""
    sums: dict[tuple[str, ...], _Sums] = {}
    return _flows(sums) if _add_flows(sums, rows) else None


def _add_flows(total: dict[tuple[str, ...], _Sums], rows: Any) -> bool:
    """Add a rank's flows from JSON to `total`; return whether they are sound."""
    numbers = _rows(rows, _FLOWS)
    if numbers is None:
        return False
    for row, values in zip(rows, numbers, strict=True):
        key = tuple(str(row.get(name, "")) for name in ("label", "collective", "payload"))
        _add(total.setdefault(key, [0.0] * len(_FLOWS)), values)
    return True


def _flows(sums: Mapping[tuple[str, ...], _Sums]) -> Flows:
    return {
        FlowKey(*key): Flow(int(calls), int(sent), int(received), seconds, exposed)
        for key, (calls, sent, received, seconds, exposed) in sums.items()
    }


def _rows(rows: Any, names: Sequence[str]) -> list[tuple[float, ...]] | None:
    """Return the numbers of these names in each row from JSON, None unless all are there, and finite."""
    get = itemgetter(*names)
    try:
        found = [tuple(map(float, get(row))) for row in rows]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    are_rows = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    are_numbers = all(map(isfinite, map(sum, found))) and all(
        -_LARGEST < min(row) <= max(row) < _LARGEST for row in found
    )
    return found if are_rows and are_numbers else None


def _add(sums: _Sums, values: Sequence[float]) -> None:
    for place, value in enumerate(values):
        sums[place] += value


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a finite number in a record."""
    found = {name: _number(value) for name, value in record.items()}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    return float(value) if is_number else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None
