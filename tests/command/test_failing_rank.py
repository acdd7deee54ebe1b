"""A rank that dies in mid-training ends the job at once, with its name, and leaves no rank waiting."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.test_train import TRAIN, options, records_of
from tests.mpi_run import Result

Run = Callable[..., Result]
LIMIT_S = 10  # a job that lives longer hangs

FAILURES = {
    "raises": "raise RuntimeError('the fan has stopped')",
    "is_killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def failing_preset(preset: Path, request: pytest.FixtureRequest) -> Path:
    """The preset, with a network whose rank 1 fails in the forward pass of step 4."""
    nets = preset.parent / "my_nets.py"
    text = "import os, signal\nfrom owt_mpi.comm.launcher import launcher_rank\n" + nets.read_text()
    text = text.replace(
        "    def forward(self, x, ctx):\n",
        "    def forward(self, x, ctx):\n"
        f"        if ctx.training and ctx.step == 4 and launcher_rank() == 1: {FAILURES[request.param]}\n",
    )
    nets.write_text(text)
    return preset


@pytest.mark.parametrize("failing_preset", ["raises"], indirect=True)
def test_a_rank_that_raises_ends_the_job_with_its_traceback(
    mpirun: Run, shards: Path, failing_preset: Path, tmp_path: Path
):
    result = mpirun(2, [*TRAIN, *options(shards, failing_preset, tmp_path / "run")], LIMIT_S)
    assert result.returncode == 1
    assert result.rank_stderr[0] == ""
    assert result.rank_stderr[1].startswith("rank 1 of 2 on host ")
    assert "RuntimeError: the fan has stopped" in result.rank_stderr[1]
    steps = [r["step"] for r in records_of(tmp_path / "run") if r["kind"] == "train"]
    assert steps == [3], "what was logged before is kept"


@pytest.mark.parametrize("failing_preset", ["is_killed"], indirect=True)
def test_a_rank_that_is_killed_ends_the_job_with_a_message(
    mpirun: Run, shards: Path, failing_preset: Path, tmp_path: Path
):
    result = mpirun(2, [*TRAIN, *options(shards, failing_preset, tmp_path / "run")], LIMIT_S)
    assert result.returncode != 0
    assert "ill" in result.launcher_output, "Killed (MPICH) or killed (Open MPI), by the launcher"
    assert "signal 9" in result.launcher_output
