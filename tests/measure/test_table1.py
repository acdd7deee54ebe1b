"""The benchmark table1, quick: what it trains, what it writes, and that a rerun trains only what is missing."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from benchmarks.table1 import tables
from benchmarks.table1_cases import Case, Setup, arguments
from benchmarks.table1_claims import rows_of
from benchmarks.table1_runs import Result, append_result, read_results, seconds_left
from owt_mpi.tables import render
from tests.data_prep.data_sets import write_data_set
from tests.measure.test_table1_claims import results
from tests.mpi_run import REPO_ROOT

SETUP = Setup("x 1", 64, 6, 0, 10, 28, 0.01)
CASE = Case(8, 512, 2, "sqrt", 3)
RESULT = Result(CASE, 1.25, 0.5, 1000, 60.0)


def table1(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.table1", "--quick", "--shards", str(folder / "shards")]
    command += ["--results", str(folder / "t.jsonl"), *options]
    return subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=400)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    images = {split: list(random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)) for split in ("train", "val")}
    return write_data_set(tmp_path / "shards", images, ("a", "b", "c"))


def test_case_says_what_is_trained():
    told = arguments(CASE, SETUP, Path("s"), Path("r"))
    options = dict(zip(told[::2], told[1::2], strict=True))
    assert CASE.head_batch == 128
    assert options["--head-update"] == "every-2-passes"
    assert (options["--trunk-lr-rule"], options["--head-lr-rule"]) == ("sqrt", "sqrt")
    assert (options["--lr-base-batch"], options["--global-batch"], options["--virtual-ranks"]) == ("64", "512", "8")
    assert "--dtype" not in options


def test_check_of_the_schemes_is_in_float64():
    told = arguments(Case(8, 512, 8, "linear", 1, "b", True), SETUP, Path("s"), Path("r"))
    options = dict(zip(told[::2], told[1::2], strict=True))
    assert (options["--dtype"], options["--scheme"], options["--max-steps"]) == ("float64", "b", "10")
    assert options["--head-update"] == "per-iteration"


def test_results_are_read_as_they_were_written(tmp_path: Path):
    append_result(tmp_path / "t", SETUP, RESULT)
    assert read_results(tmp_path / "t", SETUP) == {CASE: RESULT}
    assert read_results(tmp_path / "none", SETUP) == {}


def test_results_of_another_setup_are_left_aside(tmp_path: Path):
    append_result(tmp_path / "t", SETUP, RESULT)
    assert read_results(tmp_path / "t", Setup("x 1", 64, 7, 0, 10, 28, 0.01)) == {}


def test_line_that_was_cut_off_is_no_result_and_spoils_none(tmp_path: Path):
    file, other = tmp_path / "t", Result(Case(1, 64, 1, "linear", 1), 2.0, 0.25, 1000, 5.0)
    append_result(file, SETUP, RESULT)
    file.write_bytes(file.read_bytes()[:-20])
    assert read_results(file, SETUP) == {}
    append_result(file, SETUP, other)
    assert read_results(file, SETUP) == {other.case: other}


def test_time_left_is_that_of_trainings_alike():
    known = {CASE: RESULT, Case(1, 64, 1, "linear", 1): Result(Case(1, 64, 1, "linear", 1), 1, 0.5, 1, 20.0)}
    missing = [
        Case(8, 512, 1, "linear", 1),
        Case(8, 512, 8, "linear", 1),
        Case(1, 64, 1, "linear", 2),
        Case(4, 256, 1, "linear", 2),
    ]
    assert seconds_left(missing, known, jobs=2) == (60 + 60 + 20 + 40) / 2
    assert seconds_left(missing, {}, jobs=2) is None


@pytest.mark.timeout(900)
def test_rerun_trains_only_what_is_missing(tmp_path: Path, shards: Path):
    first = table1(tmp_path, "--limit", "2")
    assert first.returncode == 0, first.stderr
    assert "12 of 14 trainings are missing" in first.stderr
    kept = (tmp_path / "t.jsonl").read_text()
    whole = table1(tmp_path, "--jobs", "2", "--json", str(tmp_path / "o.json"), "--plot", str(tmp_path / "p.svg"))
    assert whole.returncode == 0, whole.stderr
    assert "14 trainings, 12 to do now" in whole.stderr
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert len(lines) == 14
    assert "\n".join(lines).startswith(kept)
    assert "No loss in accuracy from the scheme itself: shown." in whole.stdout
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["scheme"]["verdict"] == "shown"
    assert [(row["batch"], row["head_batch"], row["rule"]) for row in content["rows"]] == [
        (8, 8, "linear"), (16, 16, "linear"), (16, 8, "linear"), (16, 16, "sqrt"), (16, 8, "sqrt"),
    ]  # fmt: skip
    assert len({tuple(row["cross_entropy"]) for row in content["rows"]}) == 5  # batch and rule each change something
    assert "top-1 error, %" in (tmp_path / "p.svg").read_text()
    again = table1(tmp_path, "--markdown")
    assert "to do now" not in again.stderr
    assert "| 2 | 16, 8 | k | " in again.stdout
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 14
    (shards / "manifest.json").unlink()
    assert table1(tmp_path, "--markdown", "--only-report").stdout == again.stdout


def test_a_report_of_results_that_are_not_there_says_so(tmp_path: Path):
    append_result(tmp_path / "t.jsonl", SETUP, RESULT)
    done = table1(tmp_path, "--only-report")
    assert done.returncode == 1
    assert "t.jsonl: no result of shards is in it; train first" in done.stderr


def test_failed_training_is_told_and_not_kept(tmp_path: Path, shards: Path):
    for shard in (tmp_path / "shards").glob("*train*.h5"):
        shard.write_bytes(b"no shard")
    done = table1(tmp_path, "--limit", "1")
    assert done.returncode == 1
    assert "ended with code" in done.stderr
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--ranks", "1", "3"], "choose of 1, 2, 4 and 8"), (["--images", "12"], "--images 12 cannot be split")],
)
def test_wrong_options_are_named(options: list[str], said: str):
    command = [sys.executable, "-m", "benchmarks.table1", *options]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr


def test_table_has_the_paper_s_rows_beside_ours_and_the_dial_its_points():
    table, dial = tables(rows_of(results({(8, 1, "linear"): 0.2912})), "x")
    row = next(line for line in table.lines if line[1:3] == ["512, 64", "k"])
    assert row == ["8", "512, 64", "k", "0.874 ± 0.003", "29.12 ± 0.10", "3", "1024, 128", "2.651", "42.86"]
    fixed = next(line for line in table.lines if line[1:3] == ["512, 512", "k"])
    assert fixed[-3:] == ["1024, 1024", "2.678", "43.28"]
    assert len(table.lines) == 13
    assert [line[1] for line in dial.lines] == ["512, 64", "512, 128", "512, 256", "512, 512"]
    assert fmean(float(line[3].split()[0]) for line in dial.lines) == pytest.approx((29.12 + 90) / 4)
    assert "as reported in the paper" in render(table, markdown=True)
