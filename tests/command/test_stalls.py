"""A rank that goes its own way in mid-training is named, and the job ends by itself."""

from collections.abc import Callable
from pathlib import Path

from tests.command.test_train import TRAIN, options, records_of, train_alone
from tests.mpi_run import Result

Run = Callable[..., Result]
LIMIT_S = 20  # a job that lives longer hangs


def change(preset: Path, old: str, new: str) -> Path:
    """Return the preset after changing the text of its network."""
    nets = preset.parent / "my_nets.py"
    text = nets.read_text()
    assert text.count(old) == 1
    nets.write_text("import os, signal\nfrom owt_mpi.comm.launcher import launcher_rank\n" + text.replace(old, new))
    return preset


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
    assert "  rank 1 started all_reduce(float32, (8, 1)) on 'head' in step 0, head, pass 0, hits (sharded.py:" in lines[2]


def test_a_checked_run_of_virtual_ranks_trains_as_ever(shards: Path, preset: Path, tmp_path: Path) -> None:
    runs = []
    for checks in ([], ["--check-collectives"]):
        run = tmp_path / f"run{len(checks)}"
        done = train_alone(*options(shards, preset, run), "--virtual-ranks", "2", "--max-steps", "3", *checks)
        assert done.returncode == 0, done.stderr
        runs.append([record["loss"] for record in records_of(run) if "loss" in record])
    assert runs[0] == runs[1]
