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
PLAIN = ["--trunk-syncs", "all-reduce", "--wire-dtypes", "--fc-crosstalks", "1"]


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
    assert "\n29 cases: 29 pass; training moves each parameter by " in done.stdout
    table = json.loads(file.read_text())
    assert [case["verdict"] for case in table["cases"]] == ["pass"] * 29
    assert {case["group_size"] for case in table["cases"]} == {1, 2, 4}
    for case in table["cases"]:
        assert case["differences"].keys() == case["moved"].keys() == table["cases"][0]["moved"].keys()
        for name, difference in case["differences"].items():
            assert 0 <= difference <= case["tolerances"][name] < case["moved"][name] / 5
    exact = [case for case in table["cases"] if case["wire_dtype"] == "auto"]
    assert [len(exact), table["tolerance"]] == [27, 1e-5]
    assert {tolerance for case in exact for tolerance in case["tolerances"].values()} == {1e-5}
    assert {case["trunk_sync"] for case in table["cases"]} == {"all-reduce", "sharded"}
    assert [case["scheme"] for case in table["cases"] if case["fc_crosstalk"] < 1] == ["dp", "a", "b", "c", "d"]


def test_a_case_beyond_the_tolerance_ends_with_1_and_names_each_parameter():
    done = prove_alone("--virtual-ranks", "2", *FAST, "--tolerance", "1e-12", "--schemes", "a", *PLAIN)
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
    assert "2 pass, " in done.stdout  # data parallelism, of dense and of restricted layers
    assert "not possible: scheme 'b' splits the 8 blocks of head.fc3 over 3 ranks" in done.stdout


def test_mpi_ranks_pass_and_rank_0_speaks_alone(mpirun: Run):
    result = mpirun(2, [*PROVE, *FAST, "--verbose"]).check()
    assert result.rank_stdout[1] == ""
    assert "\n16 cases: 16 pass; " in result.stdout
    assert result.stdout.count("\n    head.fc4.bias ") == 16


def test_mpi_ranks_end_together_where_a_case_fails(mpirun: Run):
    result = mpirun(2, [*PROVE, *FAST, "--tolerance", "1e-12", "--schemes", "dp", *PLAIN])
    assert result.returncode == 1
    assert result.rank_stderr == ("error: 1 of 1 cases do not equal one rank\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one rank cannot be compared with one"),
        (["--virtual-ranks", "2", "--model", "alexnot"], "there is no model 'alexnot'"),
        (["--virtual-ranks", "2", "--steps", "0"], "--steps is 0, but must be at least 1"),
        (["--virtual-ranks", "2", "--group-sizes", "0"], "--group-sizes are (0,)"),
        (["--virtual-ranks", "2", "--fc-crosstalks", "1", "1.5"], "--fc-crosstalks are (1.0, 1.5), but must be shares"),
        (["--virtual-ranks", "2", "--fc-blocks", "0"], "--fc-blocks is 0, but must be at least 1"),
        (["--virtual-ranks", "2", "--trunk-syncs"], "--trunk-syncs names none; give some of all-reduce, sharded"),
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
