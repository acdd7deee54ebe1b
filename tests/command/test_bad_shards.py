"""A shard that goes bad while it is trained on ends the job with its name; the run goes on when it is repaired."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from owt_mpi.checkpoint.folder import checkpoints_in
from owt_mpi.checkpoint.reader import verify
from tests.command.test_resume import assert_same_weights
from tests.command.test_train import TRAIN, options, train_alone
from tests.mpi_run import Result

Run = Callable[..., Result]
LIMIT_S = 60  # a job that lives longer hangs
NAME = "train-00001-of-00002.h5"
GIVEN = ["--epochs", "4", "--checkpoint-every", "2", "--keep-checkpoints", "99"]
CHANGED = " was changed while it was open; restore it"
CUT = "os.truncate(shard, 0)"
OVERWRITTEN = "os.pwrite(os.open(shard, os.O_WRONLY), bytes(shard.stat().st_size), 0)"
TOUCHED = "os.utime(shard)"
REPLACED = "shard.with_suffix('.new').write_bytes(shard.read_bytes()); shard.with_suffix('.new').replace(shard)"


def changing(preset: Path, shard: Path, change: str) -> Path:
    """Return the preset, with a network whose rank 1 makes the `change` of `shard` in the forward pass of step 6."""
    nets = preset.parent / "my_nets.py"
    condition = "if ctx.training and ctx.step == 6 and (launcher_rank() == 1 or current_thread().name == 'rank 1')"
    text = nets.read_text().replace(
        "    def forward(self, x, ctx):\n", f"    def forward(self, x, ctx):\n        {condition}: {change}\n"
    )
    nets.write_text(
        "import os\nfrom pathlib import Path\nfrom threading import current_thread\n"
        f"from owt_mpi.comm.launcher import launcher_rank\nshard = Path('{shard}')\n{text}"
    )
    return preset


@pytest.mark.parametrize(
    ("storage", "change", "said"),
    [
        ("raw", CUT, " cannot be read: the file was cut to 0 bytes while it was open; restore it"),
        ("jpeg", CUT, " cannot be read: the file was cut to 0 bytes while it was open; restore it"),
        ("raw", OVERWRITTEN, CHANGED),
    ],
    ids=["cut", "JPEGs cut", "overwritten"],
)
def test_the_file_the_sample_and_the_rank_are_named_and_the_run_goes_on_with_the_repaired_shard(
    mpirun: Run,
    shards: Path,
    jpeg_shards: Path,
    preset: Path,
    tmp_path: Path,
    storage: str,
    change: str,
    said: str,
):
    folder, run_dir, original = {"raw": shards, "jpeg": jpeg_shards}[storage], tmp_path / "run", tmp_path / NAME
    shutil.copy(folder / NAME, original)
    given = [*options(folder, changing(preset, folder / NAME, change), run_dir), *GIVEN]
    result = mpirun(2, [*TRAIN, *given], LIMIT_S)
    assert result.returncode == 3, result.stderr
    lines = [line for text in result.rank_stderr for line in text.splitlines()]
    assert lines
    for line in lines:
        assert line.startswith("rank ")
        assert f": error: {folder / NAME}" in line
        assert said in line or CHANGED in line, "the latter where a rank has just read a batch"
        assert ": sample " in line or CHANGED in line
    assert all(verify(path) for path in checkpoints_in(run_dir / "checkpoints"))
    if storage == "raw":
        shutil.copy(original, folder / NAME)
        nets = preset.parent / "my_nets.py"
        nets.write_text(nets.read_text().replace("ctx.step == 6", "False"))
        resumed = mpirun(2, [*TRAIN, *given, "--resume", "auto"], LIMIT_S).check()
        assert "going on from" in resumed.stdout
        mpirun(2, [*TRAIN, *options(folder, preset, tmp_path / "whole"), "--epochs", "4"], LIMIT_S).check()
        assert_same_weights(tmp_path / "whole", run_dir)


@pytest.mark.parametrize("change", [TOUCHED, REPLACED], ids=["touched", "replaced"])
def test_a_shard_whose_content_is_what_it_was_is_trained_on(shards: Path, preset: Path, tmp_path: Path, change: str):
    """A new file of the name is not looked at while the old one is open."""
    same = ["--virtual-ranks", "2", "--threads", "1"]
    whole = train_alone(*options(shards, preset, tmp_path / "whole"), *same)
    assert whole.returncode == 0, whole.stderr
    before = (shards / NAME).stat()
    done = train_alone(*options(shards, changing(preset, shards / NAME, change), tmp_path / "run"), *same)
    assert done.returncode == 0, done.stderr
    after = (shards / NAME).stat()
    assert (after.st_mtime_ns, after.st_ino) != (before.st_mtime_ns, before.st_ino)
    assert_same_weights(tmp_path / "whole", tmp_path / "run")
