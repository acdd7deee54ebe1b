"""`--trace` as a user gives it: one file of all ranks, with the exchange of a pass started under the one before."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mpi_run import REPO_ROOT, Result
from tests.trace_file import Rows, check_rows, overlaps, read_trace

Run = Callable[..., Result]


def train(mpirun: Run, transport: str, arguments: list[str]) -> None:
    if transport == "mpirun":
        mpirun(2, ["-m", "owt_mpi.train", *arguments]).check()
    else:
        command = [sys.executable, "-m", "owt_mpi.train", *arguments, "--virtual-ranks", "2"]
        done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("transport", ["mpirun", "threads"])
def test_a_trace_shows_every_rank_and_what_crosses_under_what(
    mpirun: Run, transport: str, shards: Path, preset: Path, tmp_path: Path
):
    run_dir = tmp_path / "run"
    arguments = ["--preset", str(preset), "--data", str(shards), "--run-dir", str(run_dir), "--scheme", "c"]
    train(mpirun, transport, [*arguments, "--trace", "--trace-steps", "4", "--max-steps", "7"])
    trace = read_trace(run_dir / "trace.json", num_ranks=2)
    error = max(json.loads((run_dir / "trace.json").read_text())["otherData"]["clock_error_us"])
    for rows in trace:
        check_rows(rows)
        assert {e["args"]["step"] for e in rows["compute"]} == {0, 1, 2, 3}
        for name in ("trunk forward", "head pass 0", "head pass 1", "trunk backward", "update"):
            assert sum(e["name"] == name for e in rows["compute"]) == 4
        assert {e["name"] for e in rows["waits"]} >= {"data", "bucket 0, trunk all_reduce"}
        for step in range(4):
            check_pass_1_is_sent_off_before_pass_0_ends(rows, step)
    ours, theirs = ([(e["name"], e["args"]) for e in rows["wire"]] for rows in trace)
    assert ours == theirs, "the ranks' collectives are the same, in the same order"
    assert all(args["received_bytes"] >= 0 and args["label"] for _, args in ours)
    for pair in zip(*(rows["wire"] for rows in trace), strict=True):
        assert overlaps(list(pair), error), pair


def check_pass_1_is_sent_off_before_pass_0_ends(rows: Rows, step: int) -> None:
    def one(name: str, head_pass: int) -> dict:
        (event,) = [
            e
            for e in rows["compute"]
            if e["name"] == name and e["args"]["step"] == step and e["args"].get("pass") == head_pass
        ]
        return event

    pass_0 = one("head pass 0", 0)
    start = one("start activations, boundary all_gather_rows", 1)
    assert start["ts"] <= pass_0["ts"] + 0.002
    assert start["ts"] < pass_0["ts"] + pass_0["dur"]
    assert one("start gradients, boundary reduce_scatter_rows", 0)["ts"] <= one("head pass 1", 1)["ts"] + 0.002


def test_without_the_option_there_is_no_trace(shards: Path, preset: Path, tmp_path: Path, mpirun: Run):
    arguments = ["--preset", str(preset), "--data", str(shards), "--run-dir", str(tmp_path / "run")]
    train(mpirun, "threads", [*arguments, "--max-steps", "1"])
    assert not (tmp_path / "run" / "trace.json").exists()
