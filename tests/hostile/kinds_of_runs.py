"""The folders of runs, as report, plot, evaluate and a training that goes on read them."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np

from owt_mpi import plot, report
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.evaluation.network import NetworkOptions
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.run import run_evaluation
from owt_mpi.training.run import run_training
from tests.hostile.byte_mutations import mutate_bytes, odd_file
from tests.hostile.hdf5_mutations import mutate_hdf5
from tests.hostile.kinds import Kind, Use
from tests.hostile.sound import STEPS, config_for, write_shards
from tests.hostile.text_mutations import mutate_json, mutate_json_file, mutate_toml_file
from tests.hostile.verdicts import Failure
from tests.seeing.parsed_page import ParsedPage

RECORDS, TRACE = "metrics.jsonl", "trace.json"
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "1e308", "-1e308", "9" * 400, "9" * 5000, '"1"', "null", "true")


def _build(folder: Path) -> None:
    """Write shards and the run of two ranks on them, with all files that a run can have."""
    write_shards(folder / "shards", "raw")
    config = config_for(folder / "shards", folder / "run")
    run = replace(config.run, layer_stats_every=1, trace=True, checkpoint_every="1")
    run_ranks(2, lambda world: run_training(replace(config, run=run), world, 2))


def _metrics(rng: Random, copy: Path, canary: Path) -> str:
    path = copy / "run" / RECORDS
    chance = rng.random()
    if chance < 0.05:
        return odd_file(rng, path)
    if chance < 0.2:
        return mutate_bytes(rng, path)
    lines, done = path.read_text(encoding="utf-8").splitlines(), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        mutation = rng.choice((_values, _values, _values, _number, _number, _kind, _cut, _twice, _gone, _moved))
        done.append(f"{mutation(rng, lines, at)} in line {at + 1}")
        if not lines:
            break
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "; ".join(done)


def _values(rng: Random, lines: list[str], at: int) -> str:
    try:
        lines[at], done = mutate_json(rng, json.loads(lines[at]))
    except (ValueError, RecursionError):  # changed before
        return "nothing"
    return done


def _number(rng: Random, lines: list[str], at: int) -> str:
    """Put in a number's place what JSON of other programs has there, or none does."""
    pieces = lines[at].split(": ")
    piece, odd = rng.randrange(len(pieces)), rng.choice(_NO_NUMBERS)
    found = pieces[piece]
    end = next((place for place, letter in enumerate(found) if letter in ",}]"), len(found))
    pieces[piece] = odd + found[end:]
    lines[at] = ": ".join(pieces)
    return f"{odd:.20}"


def _kind(rng: Random, lines: list[str], at: int) -> str:
    kinds = ("begin", "resume", "end", "train", "validation", "layers", "ranks", "wire", "warning", "x")
    first, comma, rest = lines[at].partition(", ")
    lines[at] = json.dumps({"kind": rng.choice(kinds)})[:-1] + comma + rest
    return f"{lines[at][:30]} for {first}"


def _cut(rng: Random, lines: list[str], at: int) -> str:
    lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return "cut"


def _twice(rng: Random, lines: list[str], at: int) -> str:
    lines[at:at] = [lines[at]] * rng.choice((1, 100))
    return "repeated"


def _gone(rng: Random, lines: list[str], at: int) -> str:
    del lines[at : at + rng.choice((1, 1000))]
    return "gone"


def _moved(rng: Random, lines: list[str], at: int) -> str:
    lines.insert(rng.randrange(len(lines)), lines.pop(at))
    return "moved"


def _any_file(rng: Random, copy: Path, canary: Path) -> str:
    """Change any file but metrics.jsonl, or what is in the place of a folder."""
    run = copy / "run"
    if rng.random() < 0.1:
        folder = rng.choice((run, run / "checkpoints", rng.choice(sorted((run / "checkpoints").glob("step-*")))))
        shutil.rmtree(folder)
        folder.touch()
        return f"folder: {odd_file(rng, folder)}"
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name != RECORDS]
    path = rng.choice([each for each in files if rng.random() < 0.5] or files)
    if rng.random() < 0.15:
        return odd_file(rng, path)
    if path.suffix == ".h5" and rng.random() < 0.5:
        return mutate_hdf5(rng, path, canary)
    by_ending: dict[str, Callable[[Random, Path], str]] = {".json": mutate_json_file, ".toml": mutate_toml_file}
    if path.suffix in by_ending and path.name != TRACE and rng.random() < 0.8:
        return by_ending[path.suffix](rng, path)
    return mutate_bytes(rng, path)


def _uses(copy: Path, sound: Path) -> Iterator[Use]:
    run, whole = str(copy / "run"), str(sound / "run")
    yield Use("report", lambda: _report(copy, [run]))
    yield Use("report of two runs", lambda: _report(copy, [whole, run]))
    yield Use("plot", lambda: _plot(copy, run))
    yield Use("evaluate", lambda: _evaluate(run), (3, 2, 1))
    yield Use("evaluate weights.h5", lambda: _evaluate(f"{run}/weights.h5"), (3, 2, 1))
    yield Use("train --resume auto", lambda: _go_on(copy), (3, 2, 1))


def _report(copy: Path, runs: list[str]) -> int:
    page, tables = copy / "page.html", copy / "page.json"
    out = ["--out", str(page), "--json", str(tables), "--csv", str(copy / "page.csv")]
    with patch.object(sys, "argv", ["report", *runs, *out]):
        code = report.main()
    ParsedPage.of(page)
    json.loads(tables.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    return code


def _refuse_constant(name: str) -> None:
    raise Failure(f"{name} is in the tables")


def _plot(copy: Path, run: str) -> int:
    what = ["--what", "loss", "lr", "speed"]
    with patch.object(sys, "argv", ["plot", run, "--out", str(copy / "curve.svg"), *what]):
        return plot.main()


def _evaluate(named: str) -> None:
    options = EvaluateOptions(named, network=NetworkOptions(backend="reference", threads=1))
    with np.errstate(all="ignore"):
        run_evaluation(options, SerialCommunicator(), 1)


def _go_on(copy: Path) -> None:
    """Go on for one step, or from the beginning where there is no whole checkpoint."""
    config = config_for(copy / "shards", copy / "run")
    run = replace(config.run, resume="auto", check_weights=0, layer_stats_every=1, trace=True)
    with np.errstate(all="ignore"):
        run_training(
            replace(config, run=run, batch=replace(config.batch, max_steps=STEPS + 1)), SerialCommunicator(), 1
        )


KINDS = (
    Kind("metrics.jsonl", _build, _metrics, _uses),
    Kind("run folder", _build, _any_file, _uses),
)
