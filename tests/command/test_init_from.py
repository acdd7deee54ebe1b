"""`--init-from`: a run begins with the weights in a file, to the bit, on any number of ranks and in every scheme."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.evaluation.exporting import ExportOptions, run_export
from owt_mpi.train import parse
from owt_mpi.training.run import run_training
from tests.command.test_train import TRAIN, options, records_of
from tests.mpi_run import Result

Weights = dict[str, np.ndarray]
UNCHANGED = ("--lr", "0", "--max-steps", "1", "--checkpoint-every", "none")  # weights stay as they begin
LAYOUTS = [(1, "auto", 0), (2, "c", 0), (2, "d", 0), (4, "dp", 0), (4, "a", 0), (4, "b", 0), (4, "c", 2), (4, "d", 2)]


def trained(arguments: Sequence[str | Path], size: int = 1) -> None:
    """Train in this process."""
    config = parse([*map(str, arguments), "--threads", "1"])
    run_ranks(size, lambda comm: run_training(config, comm, size))


@pytest.fixture
def run_dir(shards: Path, preset: Path, tmp_path: Path) -> Path:
    """A run of some steps."""
    trained(options(shards, preset, tmp_path / "first"), 2)
    return tmp_path / "first"


@pytest.fixture
def exported(run_dir: Path, tmp_path: Path) -> Path:
    """Its network."""
    run_export(ExportOptions(str(run_dir), str(tmp_path / "net.safetensors")))
    return tmp_path / "net.safetensors"


def assert_same(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_any_ranks_and_scheme_begin_with_the_exported_bits(
    shards: Path, preset: Path, run_dir: Path, exported: Path, tmp_path: Path
):
    expected = read_weights(run_dir / "weights.h5")
    for size, scheme, group in LAYOUTS:
        out = tmp_path / f"{size}-{scheme}-{group}"
        given = ["--init-from", exported, *UNCHANGED, "--scheme", scheme, "--head-group-size", str(group)]
        trained([*options(shards, preset, out), *given], size)
        assert_same(read_weights(out / "weights.h5"), expected)
        run_export(ExportOptions(str(out / "weights.h5"), str(out / "again.safetensors")))
        assert_same(load_file(out / "again.safetensors"), load_file(exported))


def test_ranks_of_mpi_begin_with_the_exported_bits(
    mpirun: Callable[..., Result], shards: Path, preset: Path, run_dir: Path, exported: Path, tmp_path: Path
):
    given = ["--init-from", str(exported), *UNCHANGED, "--scheme", "d"]
    done = mpirun(4, [*TRAIN, *options(shards, preset, tmp_path / "run"), *given]).check()
    assert f"first weights: 8 arrays of {exported}\n" in done.stdout
    assert_same(read_weights(tmp_path / "run" / "weights.h5"), read_weights(run_dir / "weights.h5"))


def test_a_run_from_exported_first_values_is_the_run_from_the_seed(shards: Path, preset: Path, tmp_path: Path):
    trained([*options(shards, preset, tmp_path / "seed"), "--max-steps", "5"], 2)
    trained([*options(shards, preset, tmp_path / "begin"), *UNCHANGED])
    run_export(ExportOptions(str(tmp_path / "begin" / "weights.h5"), str(tmp_path / "begin.safetensors")))
    given = ["--init-from", tmp_path / "begin.safetensors", "--max-steps", "5"]
    trained([*options(shards, preset, tmp_path / "file"), *given], 2)
    assert_same(read_weights(tmp_path / "file" / "weights.h5"), read_weights(tmp_path / "seed" / "weights.h5"))
    steps = [record["step"] for record in records_of(tmp_path / "file") if record["kind"] == "train"]
    assert steps == [3, 5]


def test_layers_left_out_begin_from_the_seed(
    shards: Path, preset: Path, run_dir: Path, exported: Path, tmp_path: Path, capfd
):
    others = load_file(exported)
    others["head.fc4.bias"] = np.zeros(7, np.float32)  # of other classes
    save_file(others, tmp_path / "others.safetensors")
    trained([*options(shards, preset, tmp_path / "seed"), *UNCHANGED])
    given = ["--init-from", tmp_path / "others.safetensors", "--init-except", "trunk.conv1,fc4"]
    trained([*options(shards, preset, tmp_path / "run"), *given, *UNCHANGED, "--scheme", "d"], 2)
    from_file, from_seed = (read_weights(each / "weights.h5") for each in (run_dir, tmp_path / "seed"))
    new = ("trunk.conv1.", "head.fc4.")
    assert_same(
        read_weights(tmp_path / "run" / "weights.h5"),
        {name: from_seed[name] if name.startswith(new) else values for name, values in from_file.items()},
    )
    assert "others.safetensors, trunk.conv1,fc4 anew" in capfd.readouterr().out


def test_a_checkpoint_goes_before(shards: Path, preset: Path, run_dir: Path, exported: Path, capfd):
    trained([*options(shards, preset, run_dir), "--resume", "auto", "--init-from", "gone.safetensors"], 2)
    assert "--init-from gone.safetensors is left aside: the checkpoint goes before" in capfd.readouterr().out


def test_pixels_of_another_range_are_warned_of(shards: Path, preset: Path, exported: Path, tmp_path: Path, capfd):
    given = ["--init-from", exported, *UNCHANGED]
    trained([*options(shards, preset, tmp_path / "same"), *given])
    assert "WARNING" not in capfd.readouterr().out
    trained([*options(shards, preset, tmp_path / "other"), *given, "--normalise", "mean"])
    assert (
        "was trained on pixels divided by 57, 57, 57, and this run divides them by 1, 1, 1;" in capfd.readouterr().out
    )


def test_a_dry_run_looks_into_the_file(shards: Path, preset: Path, exported: Path, tmp_path: Path, capfd):
    trained([*options(shards, preset, tmp_path / "run"), "--init-from", exported, "--dry-run"], 2)
    assert capfd.readouterr().out.startswith(f"first weights: 8 arrays of {exported}\n")


WRONG = {
    "resume": (["--resume", "runs/x"], 2, "both say what to begin with; give one of the two, or --resume auto"),
    "layer": (["--init-except", "fc9"], 2, "--init-except fc9: the network has no such layer with weights; it has"),
    "network": (["--model", "small", "--crop", "8"], 3, "does not fit small at --crop 8 with 3 channels: it has no"),
    "no file": (["--init-from", "none.safetensors"], 3, "there is no file none.safetensors"),
    "no tensors": (["--init-from", __file__], 3, "is no sound safetensors file ("),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(shards: Path, preset: Path, exported: Path, tmp_path: Path, case: str):
    given, code, words = WRONG[case]
    with pytest.raises(CollectiveExit) as refused:
        trained([*options(shards, preset, tmp_path / "run"), "--init-from", exported, *given], 2)
    assert words in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.code == code


def test_other_classes_have_their_way_out(shards: Path, preset: Path, exported: Path, tmp_path: Path):
    fewer = {
        name: values[:3] if name.startswith("head.fc4") else values for name, values in load_file(exported).items()
    }
    save_file(fewer, tmp_path / "fewer.safetensors")
    with pytest.raises(CollectiveExit) as refused:
        trained([*options(shards, preset, tmp_path / "run"), "--init-from", tmp_path / "fewer.safetensors"], 2)
    assert refused.value.code == 3
    assert refused.value.message.endswith(
        "tells 3 classes apart, the data has 4; give --init-except fc4 to begin that layer anew, or the --data of the "
        "file's classes"
    )


def test_layers_are_left_out_of_a_file_alone():
    with pytest.raises(CollectiveExit) as refused:
        parse(["--data", "x", "--init-except", "fc8"])
    assert "--init-except fc8 goes with --init-from" in refused.value.message
