"""A disk that is full while a run trains: the training goes on, says what it loses, and leaves nothing half written."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owt_mpi import metrics
from owt_mpi.checkpoint.folder import checkpoints_in
from owt_mpi.checkpoint.reader import verify
from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.metrics import Reporter
from owt_mpi.seeing.metrics_file import read_metrics
from owt_mpi.training import run as training
from owt_mpi.training.run import run_training
from tests.hostile.sound import config_for, write_shards
from tests.small_disk import fill, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4 << 20):
        yield tmp_path / "disk"


def train(shards: Path, run_dir: Path, **more: Any) -> None:
    """Train two steps on two ranks, with a checkpoint after each and all files that a run can have."""
    config = config_for(shards, run_dir)
    run = replace(config.run, **{"trace": True, "checkpoint_every": "1", **more})
    run_ranks(2, lambda world: run_training(replace(config, run=run), world, 2))


def test_what_is_recorded_on_a_full_disk_is_lost_and_said_and_all_else_is_read(disk: Path, capsys) -> None:
    file = disk / "metrics.jsonl"
    with Reporter(active=True, metrics_file=file, num_steps=9, progress="lines") as reporter:
        reporter.begin_at(0)
        reporter.record("train", step=1, loss=0.5)
        filler = fill(disk)
        for step in range(2, 5):
            reporter.record("train", step=step, loss=0.5, padding="x" * 3000)
        said = capsys.readouterr().out
        filler.unlink()
        reporter.record("train", step=5, loss=0.5)
        assert "metrics.jsonl is written again; " in capsys.readouterr().out
    assert said.startswith(f"WARNING: {file} cannot be written ([Errno 28] No space left on device); the training goes")
    assert len(said.splitlines()) == 1
    found = read_metrics(file)
    assert [point.step for point in found.train if point.step not in (2, 3)] == [1, 5]
    assert found.damaged_lines <= 1
    assert found.end == ("trained", "")


def test_the_kernel_may_take_a_part_of_a_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(metrics.os, "write", lambda file, content, write=os.write: write(file, content[:7]))
    with Reporter(active=True, metrics_file=tmp_path / "metrics.jsonl", num_steps=9, progress="lines") as reporter:
        reporter.record("train", step=1)
        reporter.record("train", step=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_disk_that_is_full_all_the_while_loses_no_step_and_the_way_on_is_said(
    disk: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    write_shards(tmp_path / "shards", "raw")
    train(tmp_path / "shards", tmp_path / "undisturbed")
    capsys.readouterr()
    run_dir, begin_at = disk / "run", Reporter.begin_at

    def begin_on_full_disk(reporter: Reporter, *args: Any, **facts: Any) -> None:
        begin_at(reporter, *args, **facts)
        if not (disk / "filler").exists():
            fill(disk)

    monkeypatch.setattr(Reporter, "begin_at", begin_on_full_disk)
    with pytest.raises(CollectiveExit) as ended:
        train(tmp_path / "shards", run_dir)
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert ended.value.message == (
        f"error: {run_dir}/weights.h5 could not be written ([Errno 28] No space left on device: "
        f"'{run_dir}/weights.h5'); there is no checkpoint to go on from (--checkpoint-every)"
    )
    for words in ("metrics.jsonl cannot be", "step 1 could not be", "trace.json could not", "samples.json could not"):
        assert sum(words in line and line.startswith("WARNING") for line in said.splitlines()) >= 1, words
    assert "step 2/2: loss" in said
    left = {path.name for path in run_dir.iterdir()}
    assert left == {"config.toml", "environment.json", "metrics.jsonl", "checkpoints"}
    assert checkpoints_in(run_dir / "checkpoints") == []


def test_a_disk_that_is_full_at_the_end_costs_nothing(disk: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    write_shards(tmp_path / "shards", "raw")
    train(tmp_path / "shards", tmp_path / "undisturbed")
    run_dir, save, write_wire = disk / "run", training.save_weights, training.write_wire

    def save_on_full_disk(path: Path, parameters: Any, group: Any, is_writer: bool) -> None:
        if is_writer:
            fill(disk)
        save(path, parameters, group, is_writer)

    with monkeypatch.context() as patched:
        patched.setattr(training, "save_weights", save_on_full_disk)
        with pytest.raises(CollectiveExit) as ended:
            train(tmp_path / "shards", run_dir)
    assert ended.value.code == 1
    assert ended.value.message.endswith(
        f"make room and start the run again with the same --run-dir and --resume auto: it goes on from "
        f"{run_dir}/checkpoints/step-000000002"
    )
    assert [verify(path).step for path in checkpoints_in(run_dir / "checkpoints")] == [2, 1]
    assert not list(run_dir.glob("weights*"))

    (disk / "filler").unlink()

    def write_on_full_disk(path: Path, world: Any, accounts: Any) -> list[str]:
        if world.rank == 0:
            fill(disk)
        return write_wire(path, world, accounts)

    capsys.readouterr()
    monkeypatch.setattr(training, "write_wire", write_on_full_disk)
    train(tmp_path / "shards", run_dir, resume="auto")
    found, expected = read_weights(run_dir / "weights.h5"), read_weights(tmp_path / "undisturbed" / "weights.h5")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    said = capsys.readouterr().out
    assert f"WARNING: {run_dir}/wire.json could not be written ([Errno 28] No space left" in said
    assert not list(run_dir.glob("wire*"))


def test_a_disk_that_is_full_before_the_first_step_is_one_line(disk: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", "raw")
    (disk / "run").mkdir()
    fill(disk)
    with pytest.raises(CollectiveExit) as ended:
        train(tmp_path / "shards", disk / "run")
    assert ended.value.code == 3
    assert "No space left on device" in ended.value.message
    assert "\n" not in ended.value.message
