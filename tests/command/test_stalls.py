"""A rank that stops or goes its own way in mid-training: the others say which it is, and the job ends by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.test_train import TRAIN, options, records_of, train_alone
from tests.mpi_run import Result, ends

Run = Callable[..., Result]
LIMIT_S = 20  # a job that lives longer hangs


def change(preset: Path, old: str, new: str) -> Path:
    """Return the preset after changing the text of its network."""
    nets = preset.parent / "my_nets.py"
    text = nets.read_text()
    assert text.count(old) == 1
    nets.write_text("import os, signal\nfrom owt_mpi.comm.launcher import launcher_rank\n" + text.replace(old, new))
    return preset


@pytest.mark.parametrize("checks", [[], ["--check-collectives"]], ids=["", "checked"])
def test_a_rank_that_stops_is_named_by_those_that_wait_for_it_and_the_job_ends(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path, checks: list[str]
) -> None:
    stopping = change(
        preset,
        "    def forward(self, x, ctx):\n",
        "    def forward(self, x, ctx):\n"
        "        if ctx.training and ctx.step == 4 and launcher_rank() == 1:\n"
        f"            open('{tmp_path}/stopped', 'w').write(str(os.getpid()))\n"
        "            os.kill(os.getpid(), signal.SIGSTOP)\n",
    )
    limits = ["--stall-seconds", "1", "--stall-abort-seconds", "3", *checks]
    result = mpirun(2, [*TRAIN, *options(shards, stopping, tmp_path / "run"), *limits], LIMIT_S)
    assert result.returncode == 1, result.stderr
    assert ends(int((tmp_path / "stopped").read_text()), LIMIT_S), "the stopped process is still there"
    assert result.rank_stderr[1] == ""
    stalled, aborted = result.rank_stderr[0].splitlines()
    call = "all_gather(int64, (8,), axis=0) on 'boundary'"
    waits_for = f"{call} in step 4, head, labels; "
    if checks:
        waits_for = f"all_gather_object() on 'world check' in step 4, head, check of {call}; "
    assert stalled.startswith("rank 0 has waited ")
    assert f" s for {waits_for}not started yet by rank 1 (seen " in stalled
    assert aborted.startswith("rank 0 of 2 on host ")
    assert f" s for {waits_for}not started yet by rank 1 (seen " in aborted
    assert aborted.endswith("--stall-abort-seconds have passed")
    logged = {r["step"] for r in records_of(tmp_path / "run") if r["kind"] == "train"}
    assert logged == {3}, "what was logged before is kept"


def test_ranks_that_train_different_losses_are_told_so_by_the_check(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path
) -> None:
    differing = change(preset, "'softmax')", "'logistic' if launcher_rank() == 1 else 'softmax')")
    result = mpirun(2, [*TRAIN, *options(shards, differing, tmp_path / "run"), "--check-collectives"], LIMIT_S)
    assert result.returncode == 1
    assert result.stderr.count("the ranks disagree on collective") == 1
    lines = result.rank_stderr[0].splitlines()
    assert (
        "  rank 0 started all_gather(float32, (8, 1), axis=1) on 'head' in step 0, head, pass 0, softmax (sharded.py:"
        in lines[1]
    )
    assert (
        "  rank 1 started reduce_scatter(float32, (8, 16), axis=1) on 'head' in step 0, head, pass 0, head.fc4 ("
        in lines[2]
    )


def test_a_checked_run_of_virtual_ranks_trains_as_ever_and_leaves_no_progress_behind(
    shards: Path, preset: Path, tmp_path: Path
) -> None:
    runs = []
    for checks in ([], ["--check-collectives"]):
        run = tmp_path / f"run{len(checks)}"
        done = train_alone(*options(shards, preset, run), "--virtual-ranks", "2", "--max-steps", "3", *checks)
        assert done.returncode == 0, done.stderr
        assert not (run / "progress").exists()
        runs.append([record["loss"] for record in records_of(run) if "loss" in record])
    assert runs[0] == runs[1]
