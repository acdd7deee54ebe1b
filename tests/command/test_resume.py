"""`--resume`: a run that was stopped goes on to the same weights; what cannot be gone on from is said."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.training.checkpoints import Every, parse_every
from tests.command.test_train import TRAIN, options, records_of, train_alone
from tests.mpi_run import REPO_ROOT, Result

Run = Callable[..., Result]
STEPS = 12  # of two epochs of six


def kept(run_dir: Path) -> list[int]:
    """Return the steps of the checkpoints that there are."""
    return sorted(int(path.name.split("-")[1]) for path in (run_dir / "checkpoints").glob("step-*"))


def killed_after(run_dir: Path, copy: Path, step: int) -> Path:
    """Return a copy of a run as if it had been killed soon after the checkpoint of `step`."""
    shutil.copytree(run_dir, copy, symlinks=True)
    for later in kept(copy):
        if later > step:
            shutil.rmtree(copy / "checkpoints" / f"step-{later:09d}")
    (copy / "weights.h5").unlink()
    return copy


def assert_same_weights(first: Path, second: Path, tolerance: float = 0.0) -> None:
    a, b = read_weights(first / "weights.h5"), read_weights(second / "weights.h5")
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_allclose(values, b[name], rtol=0, atol=tolerance * np.abs(values).max(), err_msg=name)


def losses_by_step(records: list[dict]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


@pytest.mark.parametrize("step", [4, 6, 10])
def test_two_ranks_go_on_to_the_same_bits(mpirun: Run, shards: Path, preset: Path, tmp_path: Path, step: int):
    """Step 4 and 10 are in the middle of an epoch, 6 is at its end."""
    whole = tmp_path / "whole"
    given = ["--checkpoint-every", "2", "--keep-checkpoints", "9"]
    mpirun(2, [*TRAIN, *options(shards, preset, whole), *given]).check()
    assert kept(whole) == [2, 4, 6, 8, 10, 12]
    run_dir = killed_after(whole, tmp_path / "killed", step)
    result = mpirun(2, [*TRAIN, *options(shards, preset, run_dir), *given, "--resume", "auto"]).check()
    assert f"going on from {run_dir}/checkpoints/step-{step:09d}" in result.stdout
    assert_same_weights(whole, run_dir)
    records = records_of(run_dir)
    resumed = next(number for number, record in enumerate(records) if record["kind"] == "resume")
    assert records[resumed]["step"] == step
    assert [r["how"] for r in records if r["kind"] == "end"] == ["trained", "trained"]
    train = [r for r in records[resumed:] if r["kind"] == "train"]
    assert [r["step"] for r in train] == [s for s in (3, 6, 9, 12) if s > step]
    assert [r for r in records[resumed:] if r["kind"] == "validation"][-1]["top1"] == [
        r for r in records[:resumed] if r["kind"] == "validation"
    ][-1]["top1"]


def test_another_number_of_ranks_and_another_scheme_go_on_close_by(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path
):
    whole = tmp_path / "whole"
    given = ["--checkpoint-every", "5", "--keep-checkpoints", "9"]
    mpirun(4, [*TRAIN, *options(shards, preset, whole), *given, "--scheme", "c"]).check()
    for name, ranks, scheme in (("d", 2, ["--scheme", "d", "--trunk-sync", "sharded"]), ("alone", 1, [])):
        run_dir = killed_after(whole, tmp_path / name, 5)
        mpirun(ranks, [*TRAIN, *options(shards, preset, run_dir), *scheme, "--resume", "auto"]).check()
        assert_same_weights(whole, run_dir, tolerance=1e-4)


def test_losses_of_fewer_ranks_follow_those_of_the_undisturbed_run_over_50_steps(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path
):
    whole = tmp_path / "whole"
    given = ["--checkpoint-every", "10", "--keep-checkpoints", "9", "--epochs", "10", "--log-every", "1"]
    mpirun(4, [*TRAIN, *options(shards, preset, whole), *given, "--scheme", "c"]).check()
    undisturbed = losses_by_step(records_of(whole))
    for ranks, scheme in ((2, "d"), (1, "c")):
        run_dir = killed_after(whole, tmp_path / str(ranks), 10)
        resumed = [*options(shards, preset, run_dir), *given, "--scheme", scheme, "--resume", "auto"]
        mpirun(ranks, [*TRAIN, *resumed]).check()
        records = records_of(run_dir)
        beginning = next(number for number, record in enumerate(records) if record["kind"] == "resume")
        followed = losses_by_step(records[beginning:])
        assert list(followed) == list(range(11, 61))
        np.testing.assert_allclose(list(followed.values()), [undisturbed[step] for step in followed], rtol=1e-4)


def test_a_run_that_is_over_goes_on_to_nothing(shards: Path, preset: Path, tmp_path: Path):
    given = [*options(shards, preset, tmp_path / "run"), "--virtual-ranks", "2", "--threads", "1"]
    assert train_alone(*given).returncode == 0
    before = read_weights(tmp_path / "run" / "weights.h5")
    again = train_alone(*given, "--resume", "auto")
    assert again.returncode == 0, again.stderr
    after = read_weights(tmp_path / "run" / "weights.h5")
    assert all(np.array_equal(before[name], values) for name, values in after.items())
    more = train_alone(*given, "--resume", "auto", "--epochs", "3")
    assert more.returncode == 0, more.stderr
    assert kept(tmp_path / "run") == [6, 12, 18]


def test_the_time_being_over_ends_the_run_with_a_checkpoint_and_its_own_code(
    shards: Path, preset: Path, tmp_path: Path
):
    given = [*options(shards, preset, tmp_path / "run"), "--virtual-ranks", "2", "--threads", "1"]
    stopped = train_alone(*given, "--max-minutes", "1e-6")
    assert stopped.returncode == 85
    assert "stopped after step 1 by --max-minutes 1e-06; go on by --run-dir and --resume auto" in stopped.stderr
    assert kept(tmp_path / "run") == [1]
    end = records_of(tmp_path / "run")[-1]
    assert (end["kind"], end["step"], end["how"]) == ("end", 1, "stopped")
    assert train_alone(*given, "--resume", "auto").returncode == 0
    whole = [*options(shards, preset, tmp_path / "whole"), "--virtual-ranks", "2", "--threads", "1"]
    assert train_alone(*whole).returncode == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_ends_the_run_with_a_checkpoint(shards: Path, preset: Path, tmp_path: Path, number: signal.Signals):
    run_dir = tmp_path / "run"
    arguments = [*options(shards, preset, run_dir), "--virtual-ranks", "2", "--threads", "1", "--epochs", "100000"]
    command = [sys.executable, *TRAIN, *arguments, "--log-every", "1"]
    with subprocess.Popen(
        command, cwd=REPO_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if "step 3/" in line:
                job.send_signal(number)
                break
        _, error = job.communicate(timeout=60)
    assert job.returncode == 85, error
    assert f"by {number.name}; go on by" in error
    (step,) = kept(run_dir)[-1:]
    assert f"stopped after step {step} " in error
    state = json.loads((run_dir / "checkpoints" / f"step-{step:09d}" / "checkpoint.json").read_text())["state"]
    assert (state["step"], state["epoch"], state["step_of_epoch"]) == (step, step // 6, step % 6)


def test_a_damaged_checkpoint_is_passed_over_by_name(shards: Path, preset: Path, tmp_path: Path):
    given = [*options(shards, preset, tmp_path / "run"), "--virtual-ranks", "2", "--threads", "1"]
    assert train_alone(*given, "--checkpoint-every", "4").returncode == 0
    whole = read_weights(tmp_path / "run" / "weights.h5")
    damaged = tmp_path / "run" / "checkpoints" / "step-000000012" / "part-00001-of-00002.h5"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = train_alone(*given, "--resume", "auto")
    assert again.returncode == 0, again.stderr
    assert f"passed over: {damaged} is damaged: its SHA-256 is another one" in again.stdout
    assert "going on from" in again.stdout
    after = read_weights(tmp_path / "run" / "weights.h5")
    assert all(np.array_equal(whole[name], values) for name, values in after.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--global-batch", "8"], "is of a run with global batch 16, this run has 8, and would see the images in"),
        (["--seed", "2"], "with seed 1, this run has 2, and would see the images in another order; give --seed 1"),
        (["--last-batch", "pad"], "with last batch drop, this run has pad, and would see the images in another order"),
        (["--shuffle", "block"], "with shuffle full, this run has block of 64, 16384 mixed, and would see"),
        (["--model", "small"], "; give the --model that the weights are of"),
        (["--resume", "nowhere"], "there is no checkpoint nowhere"),
    ],
)
def test_what_cannot_be_gone_on_from_is_one_line(shards: Path, preset: Path, tmp_path: Path, given, message):
    run = [*options(shards, preset, tmp_path / "run"), "--virtual-ranks", "2", "--threads", "1"]
    assert train_alone(*run).returncode == 0
    other = [*options(shards, preset, tmp_path / "other"), "--virtual-ranks", "2", "--resume", str(tmp_path / "run")]
    again = train_alone(*other, *given)
    assert again.returncode == 3, again.stderr
    assert message in again.stderr
    assert again.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "every"),
    [("500", Every(steps=500)), ("30m", Every(minutes=30)), ("0.5m", Every(minutes=0.5)), ("epoch", Every(epochs=True)),
     ("none", Every(never=True))],
)  # fmt: skip
def test_how_often_is_understood(text, every):
    assert parse_every(text) == every


@pytest.mark.parametrize("text", ["0", "-1", "0m", "m", "1.5", "hourly", ""])
def test_what_is_not_understood_has_the_forms_in_its_message(text):
    with pytest.raises(ValueError, match=r"give a number of steps \(500\), minutes \(30m\), epoch or none"):
        parse_every(text)


def test_no_checkpoints_are_written_where_none_are_wanted(shards: Path, preset: Path, tmp_path: Path):
    given = [*options(shards, preset, tmp_path / "run"), "--virtual-ranks", "2", "--max-steps", "1"]
    assert train_alone(*given, "--checkpoint-every", "none").returncode == 0
    assert not (tmp_path / "run" / "checkpoints").exists()
