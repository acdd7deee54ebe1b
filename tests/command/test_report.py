"""`python -m owt_mpi.report` on runs as training leaves them: whole, and as if killed."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owt_mpi import plot, report
from owt_mpi.checkpoint.reader import Checkpoint
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.seeing.run_folder import read_runs
from tests.command.test_resume import killed_after
from tests.command.test_train import options, records_of, train_alone
from tests.mpi_run import REPO_ROOT
from tests.seeing.parsed_page import ParsedPage


def reported(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "owt_mpi.report", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def run(shards: Path, preset: Path, tmp_path: Path) -> Path:
    """A run of twelve steps on two ranks, with looks at the layers."""
    given = ["--virtual-ranks", "2", "--threads", "1", "--layer-stats-every", "4", "--checkpoint-every", "4"]
    done = train_alone(*options(shards, preset, tmp_path / "run"), *given)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_a_run_is_shown_with_its_tables_and_curves(run: Path, tmp_path: Path):
    done = reported(run, "--json", tmp_path / "run.json", "--csv", tmp_path / "run.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run: trained to the end\npage in ")
    parsed = ParsedPage.of(run / "report.html")
    assert "nothing recorded yet" not in parsed.text
    assert parsed.counts["img"] == 1 + 12, "filters and samples"
    content = json.loads((tmp_path / "run.json").read_text())
    last = [record for record in records_of(run) if record["kind"] == "validation"][-1]
    assert content["overview"][0]["validation_loss"] == last["loss"]
    assert content["overview"][0]["problems"] == {}
    assert len(content["ranks"][0]["ranks"]) == 2
    wire = json.loads((run / "wire.json").read_text())
    received = sum(flow["received_bytes"] for rank in wire["ranks"] for flow in rank) / 2 / 12
    assert content["wire"][0]["rows"][-1]["received_bytes"] == pytest.approx(received)
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [record for record in records_of(run) if record["kind"] in ("train", "validation")]
    assert [(row["run"], row["kind"], int(row["step"])) for row in rows] == [
        ("run", record["kind"], record["step"]) for record in expected
    ]
    for row, record in zip(rows, expected, strict=True):
        for name in ("loss", "top1", "top5", "trunk_lr", "head_lr", "images_per_second"):
            assert row[name] == "" if name not in record else float(row[name]) == pytest.approx(record[name])


def test_a_run_that_was_killed_is_shown_with_its_newest_checkpoint(run: Path, tmp_path: Path):
    killed = killed_after(run, tmp_path / "killed", 8)
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    (killed / "metrics.jsonl").write_text("\n".join(lines[: len(lines) // 2]) + '\n{"kind": "tr')
    (killed / "wire.json").unlink()
    (found,) = read_runs([str(killed)])
    with Checkpoint(killed / "checkpoints" / "step-000000008") as checkpoint:
        np.testing.assert_array_equal(found.filters.values, checkpoint.weights["trunk.conv1.weight"][...])
    done = reported(run, killed, "--out", tmp_path / "both.html")
    assert done.returncode == 0, done.stderr
    assert (
        "killed: not ended: it goes on, or was killed\n  metrics: 1 damaged line of metrics.jsonl is left"
        in done.stdout
    )
    assert "from step-000000008" in ParsedPage.of(tmp_path / "both.html").text


def test_a_checkpoint_that_is_damaged_gives_way_to_the_one_before(run: Path):
    (run / "weights.h5").unlink()
    part = run / "checkpoints" / "step-000000012" / "part-00000-of-00002.h5"
    part.write_bytes(part.read_bytes()[:1000])
    (found,) = read_runs([str(run)])
    assert found.filters.file.name == "step-000000008"
    for name in ("step-000000004", "step-000000008"):
        shutil.rmtree(run / "checkpoints" / name)
    (found,) = read_runs([str(run)])
    assert found.filters is None
    assert "step-000000012/part-00000-of-00002.h5" in found.problems["filters"]


@pytest.mark.parametrize("module", [report, plot], ids=["report", "plot"])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "error: RUN is missing: give the --run-dir of a training"),
        (["run", "--out", "nowhere/x.png"], 2, "error: --out nowhere/x.png: there is no folder"),
        (["nowhere"], 3, "error: there is no folder nowhere; give the --run-dir of a training"),
        (["."], 3, "error: . holds no run: it has neither metrics.jsonl nor config.toml"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path: Path, monkeypatch, module, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(CollectiveExit) as end:
        module.main()
    assert end.value.code == code
    assert str(end.value).startswith(message)
    assert "\n" not in str(end.value)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "report.html").mkdir()
    done = reported(tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: [Errno 21] Is a directory")
    assert done.stderr.count("\n") == 1
