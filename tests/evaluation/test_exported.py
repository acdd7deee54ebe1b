"""Networks in .safetensors files and weights.h5 are scored as those in checkpoints are; what is wrong is one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from owt_mpi.checkpoint.format import CheckpointManifest
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.evaluation.answers import PredictOptions, run_prediction
from owt_mpi.evaluation.exporting import ExportOptions, run_export
from owt_mpi.evaluation.network import NetworkOptions
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.trained import FileOptions
from tests.evaluation.conftest import (
    CLASSES,
    MEAN,
    STD,
    Run,
    changed_manifest,
    evaluated,
    images_of,
    options_of,
    run_alone,
)
from tests.evaluation.test_evaluate import check_equals_plain
from tests.evaluation.test_predict import stored_files
from tests.evaluation.test_refusals import refusal
from tests.interchange.scoring import logits_in_onnxruntime
from tests.mpi_run import Result


def model_of(run: Run) -> str:
    return CheckpointManifest.read(run.folder / "checkpoints" / "latest").config["model"]["model"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory, softmax_run: Run, logistic_run: Run) -> dict[str, Path]:
    """The networks of the runs as safetensors, by their loss."""
    folder = tmp_path_factory.mktemp("exported")
    files = {run.loss: folder / f"{run.loss}.safetensors" for run in (softmax_run, logistic_run)}
    for run in (softmax_run, logistic_run):
        run_export(ExportOptions(str(run.folder), str(files[run.loss])))
    return files


def file_options(run: Run, file: Path, folder: Path, **more) -> EvaluateOptions:
    """Return the options for the run's network in a file."""
    return replace(
        options_of(run, folder, **more),
        checkpoint=str(file),
        data=str(run.shards),
        network=NetworkOptions(model=model_of(run)),
    )


@pytest.mark.parametrize(("size", "scheme", "group"), [(1, "auto", 0), (4, "c", 0), (4, "d", 2), (2, "dp", 0)])
def test_an_exported_network_is_scored_as_the_checkpoint_is(
    softmax_run: Run, exported: dict[str, Path], tmp_path: Path, size, scheme, group
):
    options = file_options(softmax_run, exported["softmax"], tmp_path, size=size, scheme=scheme, group=group)
    evaluated(options)
    check_equals_plain(softmax_run, tmp_path)


def test_ranks_of_mpi_score_an_exported_network(
    mpirun: Callable[..., Result], logistic_run: Run, exported: dict[str, Path], tmp_path: Path
):
    given = ["--data", str(logistic_run.shards), "--model", model_of(logistic_run)]
    files = ["--json", str(tmp_path / "a.json"), "--npz", str(tmp_path / "a.npz"), "--worst", "3"]
    done = mpirun(2, ["-m", "owt_mpi.evaluate", str(exported["logistic"]), *given, *files]).check()
    check_equals_plain(logistic_run, tmp_path)
    assert "8 classes, of the same names in checkpoint and data" in done.stdout


def test_a_runs_weights_are_scored_as_its_checkpoint_is(softmax_run: Run, tmp_path: Path):
    options = replace(options_of(softmax_run, tmp_path, size=2), checkpoint=str(softmax_run.folder / "weights.h5"))
    evaluated(options)
    check_equals_plain(softmax_run, tmp_path)


def bare(file: Path, folder: Path) -> Path:
    """Return a file with the same tensors that says nothing of them."""
    save_file(load_file(file), folder / "bare.safetensors")
    return folder / "bare.safetensors"


def test_what_a_file_does_not_say_is_given(softmax_run: Run, exported: dict[str, Path], tmp_path: Path, capfd):
    options = file_options(softmax_run, bare(exported["softmax"], tmp_path), tmp_path, size=2)
    evaluated(replace(options, file=FileOptions(crop=8, mean=(MEAN,) * 3, std=(STD,) * 3)))
    check_equals_plain(softmax_run, tmp_path)
    assert "has no names of its own to compare with" in capfd.readouterr().out


def test_answers_are_those_of_the_run(softmax_run: Run, exported: dict[str, Path], tmp_path: Path):
    images = tuple(stored_files(softmax_run.shards, tmp_path)[:5])
    network = NetworkOptions(model=model_of(softmax_run))
    answers = {}
    for name in ("run", "file", "named", "numbered"):
        named = str(softmax_run.folder if name == "run" else exported["softmax"])
        options = PredictOptions(named, images, json=str(tmp_path / f"{name}.json"), network=network)
        if name in ("named", "numbered"):
            file = FileOptions(crop=8, size=9, mean=(MEAN,) * 3, std=(STD,) * 3)
            data = str(softmax_run.shards) if name == "named" else ""
            options = replace(options, checkpoint=str(bare(exported["softmax"], tmp_path)), file=file, data=data)
        run_prediction(options)
        answers[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert answers["file"] == answers["run"]
    assert [[each["label"] for each in image["classes"]] for image in answers["numbered"]] == [
        [each["label"] for each in image["classes"]] for image in answers["run"]
    ]
    assert answers["numbered"][0]["classes"][0]["title"] == str(answers["run"][0]["classes"][0]["label"])
    assert [image["classes"] for image in answers["named"]] == [image["classes"] for image in answers["run"]]


def test_the_file_says_what_its_network_is(softmax_run: Run, exported: dict[str, Path]):
    with safe_open(exported["softmax"], "np") as file:
        said = file.metadata()
    assert said["format"] == "pt"
    assert (said["layout"], said["loss"], said["crop"], said["num_classes"]) == ("owt_mpi", "softmax", "8", "8")
    assert json.loads(said["mean"]) == [MEAN] * 3
    assert json.loads(said["std"]) == pytest.approx([STD] * 3)
    assert json.loads(said["class_names"]) == list(CLASSES)
    assert json.loads(said["class_titles"])[0] == "the ant"
    assert said["trained"] == "step 12, owt_mpi 0.1.0"
    assert said["model"] == model_of(softmax_run)


def test_pixels_that_are_not_divided_have_deviations_of_1(own_run: Run, tmp_path: Path):
    config = CheckpointManifest.read(own_run.folder / "checkpoints" / "latest").config
    config["data"]["normalise"] = "mean"
    changed_manifest(own_run.folder, lambda manifest: replace(manifest, config=config))
    run_export(ExportOptions(str(own_run.folder), str(tmp_path / "net.safetensors")))
    with safe_open(tmp_path / "net.safetensors", "np") as file:
        said = file.metadata()
    assert (json.loads(said["mean"]), json.loads(said["std"])) == ([MEAN] * 3, [1.0] * 3)


@pytest.mark.parametrize("pixels", [False, True])
def test_an_onnx_file_gives_the_scores_of_an_evaluation(logistic_run: Run, tmp_path: Path, pixels: bool):
    run_export(ExportOptions(str(logistic_run.folder), str(tmp_path / "net.onnx"), pixels=pixels))
    images = images_of(logistic_run.shards, 1, 0).astype(np.float32)
    logits = logits_in_onnxruntime(tmp_path / "net.onnx", images * STD + MEAN if pixels else images)
    evaluated(replace(options_of(logistic_run, tmp_path), data=str(logistic_run.shards)))
    told = np.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(logits.argmax(axis=1), told["predicted"])
    targets = np.eye(len(CLASSES))[told["labels"]]
    losses = (np.logaddexp(0, logits.astype(np.float64)) - targets * logits).sum(axis=1)
    np.testing.assert_allclose(losses, told["losses"], rtol=1e-4)


REFUSED = {
    "a user's file is not run": ({"network": NetworkOptions()}, "give --model FILE.py:FUNCTION, a file that you trust"),
    "no data": ({"data": ""}, "does not say what it was trained on; give --data"),
    "another network": ({"network": NetworkOptions(model="small")}, "has no biases of the last layer, head.fc4.bias"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_a_file_is_told(softmax_run: Run, exported: dict[str, Path], tmp_path: Path, case: str):
    changes, words = REFUSED[case]
    code, message = refusal(replace(file_options(softmax_run, exported["softmax"], tmp_path), **changes))
    assert words in message
    assert code == (2 if case == "no data" else 3)


def test_other_classes_are_told(softmax_run: Run, exported: dict[str, Path], tmp_path: Path):
    tensors = load_file(exported["softmax"])
    fewer = {name: values[:7] if name.startswith("head.fc3") else values for name, values in tensors.items()}
    save_file(fewer, tmp_path / "fewer.safetensors")
    options = replace(
        file_options(softmax_run, tmp_path / "fewer.safetensors", tmp_path),
        file=FileOptions(crop=8, mean=(MEAN,) * 3, std=(STD,) * 3),
    )
    code, message = refusal(options)
    assert code == 3
    assert "was trained on 7 classes" in message


def test_a_damaged_file_exits_with_3_and_one_line(exported: dict[str, Path], tmp_path: Path, softmax_run: Run):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(exported["softmax"].read_bytes()[:-9])
    for module, more in (("evaluate", ["--data", softmax_run.shards]), ("export", [tmp_path / "x.onnx"])):
        done = run_alone(module, damaged, *more)
        assert done.returncode == 3
        assert "is no sound safetensors file (" in done.stderr
        assert done.stderr.count("\n") == 1


def test_damaged_weights_exit_with_3(own_run: Run, tmp_path: Path):
    weights = own_run.folder / "weights.h5"
    options = replace(options_of(own_run, tmp_path), checkpoint=str(weights))
    with h5py.File(weights, "r+") as file:
        del file["head.fc2.bias"]
    assert refusal(options)[0] == 3
    weights.write_bytes(weights.read_bytes()[:100])
    code, message = refusal(options)
    assert code == 3
    assert "weights.h5 is truncated" in message
    (own_run.folder / "config.toml").unlink()
    code, message = refusal(options)
    assert code == 3
    assert "its run's config.toml is not beside it" in message


@pytest.mark.parametrize(
    ("named", "options", "words"),
    [
        (
            "run",
            FileOptions(mean=(1.0,), std=(1.0,)),
            "--mean is for a .safetensors file that does not say it; run does",
        ),
        ("run", FileOptions(crop=8), "--crop is for a .safetensors file"),
        ("x.safetensors", FileOptions(mean=(1.0, 2.0), std=(1.0,)), "they go together"),
        ("x.safetensors", FileOptions(mean=(1.0,), std=(0.0,)), "must be above 0"),
        ("x.safetensors", FileOptions(size=-1), "--size is -1"),
    ],
)
def test_options_of_files_are_checked(named: str, options: FileOptions, words: str):
    with pytest.raises(ValueError, match=words):
        EvaluateOptions(named, file=options).check()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions("run"), "give a run's folder or a checkpoint"),
        (ExportOptions("run", "out.pt"), "ends in neither of .safetensors, .onnx"),
        (ExportOptions("run", "/none/out.onnx"), "there is no folder /none"),
        (ExportOptions("run", "out.safetensors", pixels=True), "--pixels is for ONNX"),
        (ExportOptions("run", "out", "onnx", "torchvision"), "--names torchvision is for safetensors"),
    ],
)
def test_options_of_an_export_are_checked(options: ExportOptions, words: str):
    with pytest.raises(ValueError, match=words):
        options.check()


def test_the_export_command_says_in_one_line_what_is_wrong():
    done = run_alone("export", "run", "out.pt")
    assert done.returncode == 2
    assert done.stderr == "error: out.pt ends in neither of .safetensors, .onnx; name it so, or give --format\n"


def test_torchvisions_names_for_a_network_that_it_has_not_exit_with_2(softmax_run: Run, tmp_path: Path):
    with pytest.raises(CollectiveExit) as refused:
        run_export(ExportOptions(str(softmax_run.folder), str(tmp_path / "x.safetensors"), names="torchvision"))
    assert refused.value.code == 2
    assert "--names torchvision: torchvision has no" in refused.value.message
