"""A step that cannot be used: it ends the run with a checkpoint of before it, or is left out, and is spoken of."""

import re
from pathlib import Path

import pytest

from owt_mpi.checkpoint.format import CheckpointManifest
from owt_mpi.checkpoint.reader import verify
from tests.command.test_resume import assert_same_weights, kept
from tests.command.test_train import options, records_of, train_alone

VIRTUAL = ["--virtual-ranks", "2", "--threads", "1", "--checkpoint-every", "2", "--keep-checkpoints", "2"]


def spoiling(preset: Path, when: str, change: str) -> Path:
    """Return the preset, with a network that makes the `change` of its input x in training steps `when` says."""
    nets = preset.parent / "my_nets.py"
    text = nets.read_text().replace(
        "    def forward(self, x, ctx):\n",
        f"    def forward(self, x, ctx):\n        if ctx.training and {when}: {change}\n",
    )
    nets.write_text(f"from threading import current_thread\n{text}")
    return preset


NO_NUMBER = "x.data[0, 0, 0, 0] = float('nan')"
LOUD = "x.data[...] *= 1000"


def test_a_loss_that_is_no_number_ends_the_run_with_the_state_before_and_may_be_left_out_afterwards(
    shards: Path, preset: Path, tmp_path: Path
):
    spoiling(preset, "ctx.step == 7 and current_thread().name == 'rank 1'", NO_NUMBER)
    given = [*options(shards, preset, tmp_path / "run"), *VIRTUAL]
    stopped = train_alone(*given)
    assert stopped.returncode == 1, stopped.stderr
    newest = tmp_path / "run" / "checkpoints" / "step-000000007"
    (line,) = stopped.stderr.splitlines()
    # oneDNN's pooling makes numbers of it, but not its gradients
    assert re.match("error: (the loss is nan|gradients are no finite numbers) at step 7; the first ", line)
    assert line.endswith(f"; lower --lr, or look at the data; the newest checkpoint is {newest}")
    assert kept(tmp_path / "run") == [4, 6, 7], "none goes for that of the step before"
    assert verify(newest).state["step"] == 7
    assert train_alone(*given, "--resume", "auto").returncode == 1, "it fails as before"
    assert kept(tmp_path / "run") == [4, 6, 7]

    resumed = train_alone(*given, "--on-nan", "skip", "--resume", "auto")
    assert resumed.returncode == 0, resumed.stderr
    assert "WARNING: the step is left out, 1 so far: " in resumed.stdout
    assert "steps left out (--on-nan skip): 1" in resumed.stdout
    other = train_alone(*options(shards, preset, tmp_path / "other"), *VIRTUAL, "--on-nan", "skip")
    assert other.returncode == 0, other.stderr
    assert_same_weights(tmp_path / "run", tmp_path / "other")
    records = records_of(tmp_path / "other")
    assert [r["step"] for r in records if r["kind"] == "warning"] == [7]
    assert [r["steps_left_out"] for r in records if r["kind"] == "train"] == [0, 0, 1, 1]
    assert CheckpointManifest.read(tmp_path / "other" / "checkpoints" / "latest").state["bad_steps"]["left_out"] == 1


def test_a_window_of_steps_that_were_all_left_out_has_no_loss_and_too_many_end_the_run(
    shards: Path, preset: Path, tmp_path: Path
):
    given = options(shards, spoiling(preset, "3 <= ctx.step", NO_NUMBER), tmp_path / "run")
    done = train_alone(*given, *VIRTUAL, "--on-nan", "skip", "--max-bad-steps", "7")
    assert done.returncode == 1, done.stderr
    assert "; bad steps in a row: 7 (--max-bad-steps); the newest checkpoint is " in done.stderr
    assert kept(tmp_path / "run")[-1] == 9
    records = records_of(tmp_path / "run")
    assert [r["step"] for r in records if r["kind"] == "train"] == [3]
    assert [r["step"] for r in records if r["kind"] == "ranks"] == [3, 6, 9]


def test_an_exploding_loss_ends_the_run_and_no_checkpoint_is_of_its_time(shards: Path, preset: Path, tmp_path: Path):
    given = options(shards, spoiling(preset, "ctx.step >= 15", LOUD), tmp_path / "run")
    stopped = train_alone(*given, *VIRTUAL, "--epochs", "5", "--lr", "1e-5", "--max-bad-steps", "8")
    assert stopped.returncode == 1, stopped.stderr
    assert "WARNING: the loss is " in stopped.stdout
    assert (
        " at step 15; lower --lr, or look at the data; the run ends when 8 such steps come in a row" in stopped.stdout
    )
    assert stopped.stderr.count("\n") == 1
    assert "more than 5 times the median of those before, " in stopped.stderr
    assert " at step 22; lower --lr, or look at the data; bad steps in a row: 8 (--max-bad-steps); " in stopped.stderr
    assert "the newest checkpoint is " in stopped.stderr
    assert kept(tmp_path / "run")[-2:] == [12, 14]


def test_a_loss_that_comes_down_again_is_trained_on_and_its_checkpoints_put_off(
    shards: Path, preset: Path, tmp_path: Path
):
    given = options(shards, spoiling(preset, "15 <= ctx.step < 19", LOUD), tmp_path / "run")
    lenient = [*VIRTUAL, "--epochs", "5", "--lr", "1e-5", "--keep-checkpoints", "99"]
    assert train_alone(*given, *lenient).returncode == 0
    assert kept(tmp_path / "run") == [*range(2, 15, 2), *range(20, 31, 2)]


@pytest.mark.parametrize(
    "wrong", [["--on-nan", "ignore"], ["--loss-limit", "-1"], ["--loss-limit", "nan"], ["--max-bad-steps", "0"]]
)
def test_wrong_options_are_refused(shards: Path, preset: Path, tmp_path: Path, wrong: list[str]):
    done = train_alone(*options(shards, preset, tmp_path / "run"), *wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr + done.stdout
