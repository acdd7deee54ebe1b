"""`python -m owt_mpi.checkpoint`: what the commands print, write as JSON and exit with."""

import json
import subprocess
import sys

import pytest

from owt_mpi.checkpoint.__main__ import main
from tests.checkpoint.test_saver import flip_a_bit, save_steps


def run(capsys, *arguments):
    """Return the exit code, what was printed, and the error."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_show_prints_arrays_and_state(tmp_path, capsys):
    save_steps(tmp_path / "checkpoints", [3])
    code, out, _ = run(capsys, "show", tmp_path, "--json", tmp_path / "show.json")
    assert code == 0
    assert "step-000000003: step 3" in out
    assert "6x2        12  3.055e+02" in out
    assert "test 1.0; 2 parts" in out
    assert "epoch: 2" in out
    content = json.loads((tmp_path / "show.json").read_text())
    assert content["arrays"] == {"a": {"shape": [6, 2], "dtype": "float64", "has_momentum": False}}
    assert (content["step"], content["state"], content["config"]) == (3, {"epoch": 2}, {"run": {"seed": 1}})


def test_verify_looks_at_all_checkpoints_of_a_run_and_names_the_damaged(tmp_path, capsys):
    save_steps(tmp_path / "checkpoints", [1, 2, 3], best=[1])
    assert run(capsys, "verify", tmp_path)[0] == 0
    flip_a_bit(tmp_path / "checkpoints" / "step-000000002" / "part-00001-of-00002.h5", 0.5)
    code, out, _ = run(capsys, "verify", tmp_path, "--json", tmp_path / "verify.json")
    assert code == 3
    words = [line.split() for line in out.splitlines() if line.startswith("  step-")]
    assert [(line[0][-1], line[-1]) for line in words] == [("3", "latest"), ("2", "DAMAGED"), ("1", "best")]
    assert "part-00001-of-00002.h5 is damaged" in out
    assert [row["is_whole"] for row in json.loads((tmp_path / "verify.json").read_text())] == [True, False, True]
    assert run(capsys, "verify", tmp_path / "checkpoints" / "step-000000001")[0] == 0


def test_diff_finds_what_differs_whatever_the_number_of_ranks(tmp_path, capsys):
    save_steps(tmp_path / "two", [3], num_ranks=2)
    save_steps(tmp_path / "one", [3], num_ranks=1)
    code, out, _ = run(capsys, "diff", tmp_path / "two", tmp_path / "one")
    assert code == 0
    assert "2 arrays: 2 equal within 0, 0 not" in out
    save_steps(tmp_path / "other", [4], num_ranks=1)
    code, out, _ = run(capsys, "diff", tmp_path / "two", tmp_path / "other", "--json", tmp_path / "diff.json")
    assert code == 1
    rows = {row["array"]: row for row in json.loads((tmp_path / "diff.json").read_text())}
    assert rows["weights/a"]["relative"] == pytest.approx(100 / 411)
    assert "2 arrays: 0 equal within 0, 2 not" in out
    assert run(capsys, "diff", tmp_path / "two", tmp_path / "other", "--tolerance", "1")[0] == 0


@pytest.mark.parametrize("command", ["show", "verify"])
def test_what_is_no_checkpoint_is_one_line_and_exit_code_3(tmp_path, capsys, command):
    code, _, err = run(capsys, command, tmp_path)
    assert code == 3
    assert err == f"error: {tmp_path} holds no checkpoint; name a folder step-..., or one that holds such folders\n"


def test_the_command_runs_as_a_module(tmp_path):
    save_steps(tmp_path, [3])
    done = subprocess.run(
        [sys.executable, "-m", "owt_mpi.checkpoint", "verify", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-2:] == ["whole", "latest"]
