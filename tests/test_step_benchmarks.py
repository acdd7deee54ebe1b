"""What the benchmarks of training steps do, small and quick; beside PyTorch's where that is in the environment."""

import json
import subprocess
import sys
from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import get_args

import pytest

from benchmarks import vs_pytorch
from benchmarks.cases import Measured, Side
from benchmarks.cases_parts import TimedCommand
from tests.mpi_run import NO_MPIRUN, REPO_ROOT, find_mpirun

needs_mpirun = pytest.mark.skipif(find_mpirun() is None, reason=NO_MPIRUN)
OURS, THEIRS = Side("ours", (2.0, 1.0, 9.0)), Side("theirs", (8.0,))


def run(*command: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=timeout_s
    )


def rows_of(folder: Path, *command: str, timeout_s: float = 280) -> tuple[list[dict], str]:
    done = run(*command, "--quick", "--repeats", "1", "--json", str(folder / "rows.json"), timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "rows.json").read_text()), done.stdout


@pytest.mark.parametrize(("unit", "ratio"), [("images/s", 0.25), ("bytes/s", 0.25), ("s", 4.0), ("bytes", 4.0)])
def test_more_is_better_in_every_ratio(unit: str, ratio: float):
    assert Measured("", unit, OURS, THEIRS).ratio == ratio


def test_what_is_not_there_has_no_ratio():
    assert Measured("", "s", None, THEIRS).ratio is None


def test_every_case_can_be_chosen():
    assert tuple(case.name for case in vs_pytorch.CASES) == get_args(vs_pytorch.CaseName)


def test_it_starts_by_its_path_too():
    done = run("benchmarks/vs_pytorch.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--case" in done.stdout


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed here")
def test_without_pytorch_the_rows_that_need_none_are_named():
    done = run("-m", "benchmarks.vs_pytorch")
    assert done.returncode == 1
    assert "PyTorch is not installed here" in done.stderr
    assert "--case reading-and-training convolutions loader" in done.stderr


def test_command_is_timed_until_it_tells_the_text(tmp_path: Path):
    made = tmp_path / "made"
    program = f"import os, time; os.mkdir({str(made)!r}); print('step 1/9', flush=True); time.sleep(2); print('end')"
    until_step = TimedCommand("program", [sys.executable, "-c", program], {}, "step 1/", made)
    until_end = TimedCommand("program", [sys.executable, "-c", program], {}, makes=made)
    assert until_step.step() < until_end.step() - 1


def test_command_that_never_tells_the_text_is_an_error():
    with pytest.raises(RuntimeError, match=r"program ended with code 0:\nelse"):
        TimedCommand("program", [sys.executable, "-c", "print('else')"], {}, "step 1/").step()


@needs_mpirun
def test_parts_of_a_training_have_their_rows(tmp_path: Path):
    cases = ("reading-and-training", "convolutions", "loader")
    rows, table = rows_of(tmp_path, "-m", "benchmarks.vs_pytorch", "--case", *cases)
    assert [(row["name"], row["unit"]) for row in rows] == list(zip(cases, ("images/s", "s", "bytes/s"), strict=True))
    for row in rows:
        better = (row["theirs"], row["ours"]) if row["unit"] == "s" else (row["ours"], row["theirs"])
        assert row["ratio"] == pytest.approx(better[0] / better[1])
        assert row["ours_range"][0] <= row["ours"] <= row["ours_range"][1]
        assert row["repeats"] == 1
        assert row["theirs_is"].split()[0] in table
    kernels = rows[1]["versions"]["bare kernels"]
    assert kernels.endswith(", 14 kernels")  # of five layers: forward, and both gradients but for the images'


@pytest.mark.peer
@needs_mpirun
def test_start_up_and_half_precision_have_their_rows(tmp_path: Path):
    pytest.importorskip("torch")
    (start_up, half), _ = rows_of(tmp_path, "-m", "benchmarks.vs_pytorch", "--case", "start-up", "bf16")
    assert start_up["unit"] == "s"
    assert start_up["ours"] > 0
    assert (half["ratio"] is None) == half["ours_is"].startswith("not available here")


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_mpirun
def test_all_rows_are_there(tmp_path: Path):
    pytest.importorskip("torch")
    rows, _ = rows_of(tmp_path, "benchmarks/vs_pytorch.py", timeout_s=880)
    assert [row["name"] for row in rows] == list(get_args(vs_pytorch.CaseName))
    by_name = {row["name"]: row for row in rows}
    steps, memory = by_name["two-ranks"], by_name["memory"]
    assert steps["case"] == "alexnet 64x64, 2 x 1 thread, batch 2 x 4"
    assert memory["case"].endswith(steps["case"])
    assert memory["ours"] > 1e8
    assert all("PyTorch DDP" in row["theirs_is"] for row in (steps, memory))


@needs_mpirun
def test_growth_has_exponents_from_point_to_point(tmp_path: Path):
    rows, table = rows_of(tmp_path, "-m", "benchmarks.growth")
    assert [(row["grows"], row["value"]) for row in rows] == [
        ("images", 2), ("images", 4), ("side of images", 64), ("side of images", 96), ("ranks", 1), ("ranks", 2),
        ("width", 0.25), ("width", 0.5),
    ]  # fmt: skip
    for before, row in zip(rows[::2], rows[1::2], strict=True):
        growth = log(row["value"] / before["value"]) * (2 if row["grows"] == "side of images" else 1)
        for cost in ("seconds", "peak_bytes"):
            assert before[f"{cost}_exponent"] is None
            assert row[f"{cost}_exponent"] == pytest.approx(log(row[cost] / before[cost]) / growth)
        assert row["grows"] in table
    assert rows[7]["peak_bytes"] > rows[6]["peak_bytes"]
