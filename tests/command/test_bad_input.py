"""Bad input gets one clear line and the right exit code, on all ranks, and nothing hangs."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tests.command.test_train import options, train_alone
from tests.mpi_run import Result, find_mpirun, is_open_mpi

Run = Callable[..., Result]
LIMIT_S = 20


def check_refused(result: Result, code: int, *words: str) -> None:
    """Check that rank 0 alone printed one line with `words`, and that the job ended with `code`."""
    assert result.returncode == code, result.stderr
    assert result.rank_stderr[1:] == ("",) * (len(result.rank_stderr) - 1)
    (line,) = result.rank_stderr[0].splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    launcher = find_mpirun()
    assert launcher is not None
    if not is_open_mpi(launcher):
        assert result.launcher_output == ""


USAGE = {
    "unknown preset": (["--preset", "alexnot"], "there is no preset 'alexnot'; choose one of alexnet-owt"),
    "preset file that is not there": (["--preset", "no.toml"], "--preset no.toml: the file cannot be read"),
    "unknown model": (["--model", "alexnot"], "there is no model 'alexnot'; choose one of alexnet-owt"),
    "model file that is not there": (["--model", "nets.py:x"], "there is no file nets.py"),
    "batch not divisible": (
        ["--global-batch", "17"],
        "--global-batch 17 is not divisible by the 2 ranks; use 16 or 18",
    ),
    "batch larger than the data": (["--global-batch", "100"], "the training set has 96 images"),
    "crop larger than the images": (["--crop", "10"], "a crop of 10x10 does not fit into images of 10x9"),
    "images too small for the model": (["--model", "alexnet"], "window does not fit into a"),
    "rate that is no number": (["--lr", "nan"], "--lr is nan, but must be a finite number"),
    "negative number": (["--epochs", "0"], "--epochs is 0, but must be at least 1"),
    "backend that cannot do it": (["--backend", "onednn", "--dtype", "float64"], "onednn"),
    "backend that is not there": (["--backend", "cuda"], "cuda"),
    "head update that is not understood": (["--head-update", "daily"], "--head-update 'daily' is not understood"),
    "head update that does not come out even": (
        ["--head-update", "every-3-passes"],
        "does not divide the 2 head passes",
    ),
    "groups that do not come out even": (["--head-group-size", "3"], "--head-group-size 3 does not divide the 2 ranks"),
    "senders that do not come out even": (["--senders", "3"], "--senders 3 needs scheme b or c"),
    "cross-talk that is no share": (["--fc-crosstalk", "1.5"], "--fc-crosstalk is 1.5, but must be a share"),
    "blocks that do not come out even": (
        ["--fc-crosstalk", "0.5", "--fc-blocks", "3"],
        "--fc-blocks 3 does not divide the 72 inputs and 16 units of head.fc3; use 2 or 4",
    ),
    "thread count": (["--threads", "-1"], "--threads is -1"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_options_exit_with_2(mpirun: Run, shards: Path, preset: Path, tmp_path: Path, case: str):
    extra, words = USAGE[case]
    base = options(shards, preset, tmp_path / "run")
    arguments = [*base[2:], *extra] if "--preset" in extra else [*base, *extra]
    check_refused(mpirun(2, ["-m", "owt_mpi.train", *arguments], LIMIT_S), 2, words)
    assert not (tmp_path / "run").exists()


def test_units_that_the_ranks_cannot_share_exit_with_2(mpirun: Run, shards: Path, preset: Path, tmp_path: Path):
    extra = ["--global-batch", "15", "--scheme", "a"]
    result = mpirun(3, ["-m", "owt_mpi.train", *options(shards, preset, tmp_path / "run"), *extra], LIMIT_S)
    check_refused(result, 2, "splits the 16 units of head.fc3 over 3 ranks", "use --head-group-size 1, or --scheme dp")


def test_a_value_of_the_wrong_type_exits_with_2_and_names_the_option(mpirun: Run, shards: Path):
    result = mpirun(2, ["-m", "owt_mpi.train", "--data", str(shards), "--lr", "fast"], LIMIT_S)
    assert result.returncode == 2
    assert "--lr" in result.stdout + result.stderr
    assert (result.rank_stdout[1], result.rank_stderr[1]) == ("", "")


def missing_shard(shards: Path) -> None:
    (shards / "train-00001-of-00002.h5").unlink()


def truncated_shard(shards: Path) -> None:
    file = shards / "train-00000-of-00002.h5"
    file.write_bytes(file.read_bytes()[:-9000])


def wrong_format_version(shards: Path) -> None:
    with h5py.File(shards / "val-00000-of-00001.h5", "r+") as file:
        file.attrs["format_version"] = 99


def label_out_of_range(shards: Path) -> None:
    with h5py.File(shards / "train-00001-of-00002.h5", "r+") as file:
        file["labels"][3] = 77


def no_manifest(shards: Path) -> None:
    (shards / "manifest.json").unlink()


def broken_manifest(shards: Path) -> None:
    (shards / "manifest.json").write_text("{")


def counts_that_do_not_add_up(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["splits"]["train"]["count"] = 5
    (shards / "manifest.json").write_text(json.dumps(manifest))


DATA = {
    missing_shard: "train-00001-of-00002.h5",
    truncated_shard: "train-00000-of-00002.h5",
    wrong_format_version: "99",
    label_out_of_range: "77",
    no_manifest: "manifest.json",
    broken_manifest: "manifest.json",
    counts_that_do_not_add_up: "manifest.json",
}


@pytest.mark.parametrize("damage", DATA, ids=lambda damage: damage.__name__)
def test_damaged_data_exits_with_3(mpirun: Run, shards: Path, preset: Path, tmp_path: Path, damage):
    damage(shards)
    result = mpirun(2, ["-m", "owt_mpi.train", *options(shards, preset, tmp_path / "run")], LIMIT_S)
    check_refused(result, 3, DATA[damage])
    assert not (tmp_path / "run").exists()


def test_a_model_with_other_classes_than_the_data_exits_with_2(mpirun: Run, shards: Path, preset: Path, tmp_path: Path):
    nets = tmp_path / "my_nets.py"
    nets.write_text(nets.read_text().replace("spec.num_classes", "6"))
    result = mpirun(2, ["-m", "owt_mpi.train", *options(shards, preset, tmp_path / "run")], LIMIT_S)
    check_refused(result, 2, "the head ends in 6 outputs, but the data has 4 classes")


def test_a_loss_that_is_no_number_names_step_and_layer_and_exits_with_1(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path
):
    arguments = [*options(shards, preset, tmp_path / "run"), "--lr", "1e30"]
    check_refused(
        mpirun(2, ["-m", "owt_mpi.train", *arguments], LIMIT_S), 1, "the loss is ", "at step ", "trunk.", "--lr"
    )


def test_a_run_folder_is_not_overwritten(shards: Path, preset: Path, tmp_path: Path):
    arguments = [*options(shards, preset, tmp_path / "run"), "--max-steps", "1"]
    assert train_alone(*arguments).returncode == 0
    kept = (tmp_path / "run" / "weights.h5").read_bytes()
    again = train_alone(*arguments)
    assert again.returncode == 2
    assert "holds a run already; go on with it by --resume auto, or choose another folder" in again.stderr
    assert (tmp_path / "run" / "weights.h5").read_bytes() == kept


def test_tasks_of_srun_that_do_not_find_each_other_are_told_the_fix(shards: Path, preset: Path, tmp_path: Path):
    for rank, expected in (("0", "srun --mpi=pmi2"), ("1", "")):
        slurm = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": rank}
        done = train_alone(*options(shards, preset, tmp_path / "run"), **slurm)
        assert done.returncode == 2
        assert expected in done.stderr
        assert bool(done.stderr) == bool(expected)


def test_without_an_mpi_library_the_way_out_is_named(tmp_path: Path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("class rc: pass\n")
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    done = train_alone("--data", "synthetic", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "error: mpi4py finds no MPI library: pip install 'owt_mpi[mpich]', or load your cluster's MPI "
        "(cannot load MPI library)\n"
    )
