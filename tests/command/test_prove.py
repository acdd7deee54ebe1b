"""`python -m owt_mpi.prove` as a user runs it: the table, the exit code, and what is wrong with the options."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mpi_run import ONE_THREAD, REPO_ROOT, Result

Run = Callable[..., Result]
PROVE = ["-m", "owt_mpi.prove"]
FAST = ["--crop", "8", "--classes", "8", "--steps", "2"]


def prove_alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command without mpirun."""
    return subprocess.run(
        [sys.executable, *PROVE, *arguments],
        cwd=REPO_ROOT,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_virtual_ranks_pass_and_the_table_is_kept(tmp_path: Path):
    file = tmp_path / "table.json"
    done = prove_alone("--virtual-ranks", "4", *FAST, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "model: small, softmax loss" in done.stdout
    assert "\n21 cases: 21 pass; training moves each parameter by " in done.stdout
    table = json.loads(file.read_text())
    assert [case["verdict"] for case in table["cases"]] == ["pass"] * 21
    assert {case["group_size"] for case in table["cases"]} == {1, 2, 4}
    for case in table["cases"]:
        assert case["differences"].keys() == case["moved"].keys() == table["cases"][0]["moved"].keys()
        assert 0 < max(case["differences"].values()) < table["tolerance"] == 1e-5


def test_a_case_beyond_the_tolerance_ends_with_1_and_names_each_parameter():
    done = prove_alone("--virtual-ranks", "2", *FAST, "--tolerance", "1e-12", "--schemes", "a")
    assert done.returncode == 1
    assert done.stderr == "error: 1 of 1 cases do not equal one rank\n"
    assert "FAIL" in done.stdout
    for name in ("trunk.conv1.weight", "trunk.conv2.bias", "head.fc3.weight", "head.fc4.bias"):
        assert f"\n    {name} " in done.stdout


def test_what_is_not_possible_is_listed_with_the_reason():
    done = prove_alone("--virtual-ranks", "3", *FAST)
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout
    assert "not possible: scheme 'a' splits the 256 units of head.fc3 over 3 ranks" in done.stdout
    assert "1 pass, 10 not possible" in done.stdout


def test_mpi_ranks_pass_and_rank_0_speaks_alone(mpirun: Run):
    result = mpirun(2, [*PROVE, *FAST, "--verbose"]).check()
    assert result.rank_stdout[1] == ""
    assert "\n8 cases: 8 pass; " in result.stdout
    assert result.stdout.count("\n    head.fc4.bias ") == 8


def test_mpi_ranks_end_together_where_a_case_fails(mpirun: Run):
    result = mpirun(2, [*PROVE, *FAST, "--tolerance", "1e-12", "--schemes", "dp"])
    assert result.returncode == 1
    assert result.rank_stderr == ("error: 1 of 1 cases do not equal one rank\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one rank cannot be compared with one"),
        (["--virtual-ranks", "2", "--model", "alexnot"], "there is no model 'alexnot'"),
        (["--virtual-ranks", "2", "--steps", "0"], "--steps is 0, but must be at least 1"),
        (["--virtual-ranks", "2", "--group-sizes", "0"], "--group-sizes are (0,)"),
        (["--virtual-ranks", "2", "--lr", "nan"], "--lr is nan"),
        (["--virtual-ranks", "2", "--json", "no/such/table.json"], "there is no folder"),
        (["--virtual-ranks", "2", "--backend", "onednn", "--dtype", "float64"], "onednn"),
        (["--virtual-ranks", "2", *FAST, "--lr", "1e-9"], "proves nothing at a tolerance of 1e-05; raise --lr"),
        (["--virtual-ranks", "2", *FAST, "--lr", "1e9"], "diverges within 2 steps; lower --lr"),
        (["--virtual-ranks", "4", *FAST, "--schemes", "a", "--group-sizes", "3"], "no case is possible"),
    ],
)
def test_wrong_options_exit_with_2(arguments: list[str], message: str):
    done = prove_alone(*arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
