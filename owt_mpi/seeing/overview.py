"""The first and the last things to know of runs: how they stand, what they were told, what they run on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from owt_mpi.metrics import duration
from owt_mpi.seeing.html import h, table
from owt_mpi.seeing.metrics_file import Point
from owt_mpi.seeing.palette import colour_class
from owt_mpi.seeing.run_folder import Run, last_written
from owt_mpi.seeing.scales import percent, written
from owt_mpi.seeing.section import Section, absent
from owt_mpi.tables import Table

_HEADINGS = ("run", "state", "ranks", "steps", "epoch", "loss", "top-1", "best top-1", "top-5", "images/s", "time")


def overview(runs: Sequence[Run]) -> Section:
    """Return how the runs stand: a line for each."""
    facts = [summary(run) for run in runs]
    rows = []
    for number, (run, each) in enumerate(zip(runs, facts, strict=True)):
        cells = [
            str(each["ranks"] or ""),
            f"{each['step']:,}" + (f" of {each['num_steps']:,}" if each["num_steps"] else ""),
            str(each["epoch"] or ""),
            _cell(each["validation_loss"] if each["validation_loss"] is not None else each["train_loss"]),
            *(_share(each[name]) for name in ("validation_top1", "best_top1", "validation_top5")),
            _cell(each["images_per_second"]),
            duration(each["seconds"]),
        ]
        name = h("th", h("span", class_=f"dot {colour_class(number)}"), run.name, scope="row")
        state = h("td", run.state, h("span", f" (written {each['written']})", class_="unit"), class_="state")
        rows.append(h("tr", name, state, [h("td", cell) for cell in cells]))
    head = h("thead", h("tr", [h("th", heading, scope="col") for heading in _HEADINGS]))
    body = [
        h("div", h("table", head, h("tbody", rows), class_="numbers overview"), class_="scroll"),
        h(
            "p",
            "Loss and accuracies are those of the last validation, where there was one; the loss else of training. "
            "images/s is the mean of the last ten entries, time that of training so far.",
            class_="note",
        ),
        *absent(runs, "metrics"),
    ]
    return Section("overview", "Overview", body, facts)


def summary(run: Run) -> dict[str, Any]:
    """Return how a run stands, in numbers; None where one is not known."""
    metrics = run.metrics
    train, validation = _last(metrics.train), _last(metrics.validation)
    speeds = [each.numbers["images_per_second"] for each in metrics.train[-10:] if "images_per_second" in each.numbers]
    epoch = max((each.numbers.get("epoch", 0.0) for each in (train, validation) if each is not None), default=0.0)
    return {
        "run": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "written": last_written(run),
        "ranks": len(metrics.ranks) or None,
        "step": metrics.last_step,
        "num_steps": run.num_steps,
        "epoch": int(epoch) or None,
        "train_loss": None if train is None else train.numbers.get("loss"),
        "validation_loss": None if validation is None else validation.numbers.get("loss"),
        "validation_top1": None if validation is None else validation.numbers.get("top1"),
        "validation_top5": None if validation is None else validation.numbers.get("top5"),
        "best_top1": max((each.numbers["top1"] for each in metrics.validation if "top1" in each.numbers), default=None),
        "images_per_second": sum(speeds) / len(speeds) if speeds else None,
        "seconds": metrics.seconds,
        "starts": [{"step": start.step, "time": start.time} for start in metrics.starts],
        "problems": dict(run.problems),
    }


def configuration(runs: Sequence[Run]) -> Section:
    """Return the options in which the runs differ, and, folded up, all of them."""
    options = [{name: _option(value) for name, value in run.config.items()} for run in runs]
    names = list(dict.fromkeys(name for each in options for name in each))
    differing = [name for name in names if len({each.get(name) for each in options}) > 1]
    body = absent(runs, "config")
    if len(runs) > 1:
        if differing:
            body.append(_side_by_side("Options in which the runs differ", runs, options, differing))
        else:
            body.append(h("p", "All options of the runs are the same."))
    if names:
        whole = _side_by_side("", runs, options, names)
        body.append(h("details", h("summary", f"all {len(names)} options"), whole))
    return Section("configuration", "Configuration", body, [dict(run.config) for run in runs])


def environment(runs: Sequence[Run]) -> Section:
    """Return what the runs run on, and when they began."""
    facts = [{**_starts(run), **run.environment} for run in runs]
    names = list(dict.fromkeys(name for each in facts for name in each))
    body = absent(runs, "environment")
    if names:
        body.append(_side_by_side("", runs, facts, names))
    return Section("environment", "Environment", body, [dict(run.environment) for run in runs])


def _starts(run: Run) -> dict[str, str]:
    starts = run.metrics.starts
    if not starts:
        return {}
    told = [f"step {start.step}: {start.time}" for start in starts]
    left_out = f"{len(told) - 5} more, then " if len(told) > 5 else ""
    return {"began": starts[0].time} if len(told) == 1 else {"began, and went on at": left_out + "; ".join(told[-5:])}


def _side_by_side(title: str, runs: Sequence[Run], facts: Sequence[Mapping[str, str]], names: Sequence[str]) -> Any:
    lines = [[name, *(each.get(name, "") for each in facts)] for name in names]
    headings = ("", *(run.name for run in runs)) if len(runs) > 1 else ("", "")
    return table(Table(title, headings, lines), number_columns=False)


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _last(points: Sequence[Point]) -> Point | None:
    return points[-1] if points else None


def _cell(value: float | None) -> str:
    return "" if value is None else written(value)


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)
