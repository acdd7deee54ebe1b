"""Image files are answered as the validation of the training would have scored them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data_prep.images import Recipe, prepare
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.evaluation.answers import PredictOptions, run_prediction
from owt_mpi.evaluation.network import NetworkOptions
from owt_mpi.evaluation.options import EvaluateOptions
from tests.cuda_backend import cuda_backend
from tests.evaluation.conftest import (
    CLASSES,
    CROP,
    MEAN,
    NUM_VAL,
    STD,
    Run,
    changed_manifest,
    evaluated,
    outputs_of_layers,
    run_alone,
)
from tests.fake_cupy import RACES
from tests.mpi_run import Result


def stored_files(shards: Path, folder: Path) -> list[str]:
    """Write the validation images to files, as they are stored, and return their paths."""
    parts = [h5py.File(path)["images"][:] for path in sorted(shards.glob("val-*.h5"))]
    paths = []
    for number, pixels in enumerate(np.concatenate(parts)):
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def answered(options: PredictOptions, folder: Path) -> list[dict]:
    """Return what the JSON holds."""
    run_prediction(replace(options, json=str(folder / "answers.json")))
    return json.loads((folder / "answers.json").read_text())


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_stored_samples_get_the_scores_of_an_evaluation(request, tmp_path: Path, loss: str, views):
    run = request.getfixturevalue(f"{loss}_run")
    evaluated_options = EvaluateOptions(str(run.folder), views=views, npz=str(tmp_path / "a.npz"))
    evaluated(replace(evaluated_options, ranks=replace(evaluated_options.ranks, virtual_ranks=2)))
    images = np.load(tmp_path / "a.npz")
    files = stored_files(run.shards, tmp_path)
    answers = answered(PredictOptions(str(run.folder), tuple(files), views=views), tmp_path)
    assert [each["image"] for each in answers] == files
    assert len(answers) == NUM_VAL
    for number, answer in enumerate(answers):
        first = answer["classes"][0]
        assert first["label"] == images["predicted"][number]
        assert first["score"] == pytest.approx(images["scores"][number], rel=1e-12)
        assert len(answer["classes"]) == 5
        labels = [each["label"] for each in answer["classes"]]
        assert (
            labels.index(images["labels"][number]) == images["above"][number]
            if images["above"][number] < 5
            else (images["labels"][number] not in labels)
        )


def test_a_gpu_answers_the_same(softmax_run: Run, tmp_path: Path):
    """It prepares images and computes on them in one thread."""
    files = tuple(stored_files(softmax_run.shards, tmp_path)[:5])
    network = NetworkOptions(precision="fp32", backend="cuda")
    expected = answered(PredictOptions(str(softmax_run.folder), files, views=10), tmp_path)
    with cuda_backend():
        answers = answered(PredictOptions(str(softmax_run.folder), files, views=10, network=network), tmp_path)
        assert RACES == []
    for answer, other in zip(answers, expected, strict=True):
        scores = [each["score"] for each in other["classes"]]
        assert [each["score"] for each in answer["classes"]] == pytest.approx(scores, rel=1e-4)


def test_files_are_brought_to_the_size_of_the_data_set_as_build_shards_does(own_run: Run, tmp_path: Path):
    facts = {"size": 10, "square": True}
    changed_manifest(own_run.folder, lambda manifest: replace(manifest, data_set={**manifest.data_set, **facts}))
    file = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (23, 41), dtype=np.uint8)).save(file)
    (answer,) = answered(PredictOptions(str(own_run.folder), (str(file),), top=8), tmp_path)
    pixels = prepare(file.read_bytes(), "photo.jpg", Recipe("raw", 3, 10, True, 90)).pixels
    window = (pixels[None, 1 : 1 + CROP, 1 : 1 + CROP] - MEAN) / STD
    logits = outputs_of_layers(own_run, window)["head"][0]
    scores = np.exp(logits) / np.exp(logits).sum()
    assert [each["label"] for each in answer["classes"]] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([each["score"] for each in answer["classes"]], np.sort(scores)[::-1], rtol=1e-9)


def test_the_command_prints_titles_and_scores(softmax_run: Run, tmp_path: Path):
    files = stored_files(softmax_run.shards, tmp_path)[:2]
    done = run_alone("predict", softmax_run.folder, *files, "--json", tmp_path / "answers.json", "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    answers = json.loads((tmp_path / "answers.json").read_text())
    expected = []
    for answer in answers:
        expected += [answer["image"], *(f"  {each['score']:8.4f}  {each['title']}" for each in answer["classes"])]
    assert done.stdout.splitlines() == expected
    assert len(expected) == 2 * (1 + 3)
    assert all(each["title"] == f"the {each['name']}" for answer in answers for each in answer["classes"])


def test_titles_of_hostile_data_do_not_move_the_cursor(own_run: Run, tmp_path: Path, capsys):
    titles = [f"\x1b[2J\n{name}" for name in CLASSES]
    changed_manifest(own_run.folder, lambda m: replace(m, data_set={**m.data_set, "class_titles": titles}))
    run_prediction(PredictOptions(str(own_run.folder), (str(stored_files(own_run.shards, tmp_path)[0]),), top=1))
    assert "\\x1b[2J\\n" in capsys.readouterr().out.splitlines()[1]


def test_several_ranks_are_refused_in_one_line(mpirun: Callable[..., Result], softmax_run: Run):
    result = mpirun(2, ["-m", "owt_mpi.predict", str(softmax_run.folder), "x.png"])
    assert result.returncode == 2
    assert [text.count("\n") for text in result.rank_stderr] == [1, 0]
    assert "predict answers on one rank, and 2 were started" in result.rank_stderr[0]


def test_an_early_checkpoint_takes_names_from_the_data(own_run: Run, tmp_path: Path, shards: Path):
    files = tuple(stored_files(own_run.shards, tmp_path)[:3])
    expected = answered(PredictOptions(str(own_run.folder), files), tmp_path)
    changed_manifest(own_run.folder, lambda manifest: replace(manifest, data_set={}))
    assert answered(PredictOptions(str(own_run.folder), files), tmp_path) == expected
    assert refusal(PredictOptions(str(own_run.folder), files, data=str(tmp_path))) == 3


def refusal(options: PredictOptions, *words: str) -> int:
    """Return the exit code with which it is refused, with one line with `words`."""
    with pytest.raises(CollectiveExit) as refused:
        run_prediction(options)
    assert refused.value.message.startswith("error: ")
    assert "\n" not in refused.value.message
    for word in words:
        assert word in refused.value.message
    return refused.value.code


HOSTILE = {
    "nothing": (None, "there is no such file"),
    "empty": (b"", "it is empty"),
    "text": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is no JPEG, PNG"),
    "bomb": (b"P5 20000 20000 255\n", "it is too large"),
    "truncated": (b"P6 20 20 255\n" + bytes(7), "cannot be decoded"),
    "small": (b"P6 7 20 255\n" + bytes(7 * 20 * 3), "it is 20x7, and the network sees 8x8 of it"),
    "deep": (b"P5 20 20 65535\n" + bytes(20 * 20 * 2), "more than 8 bits"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_exits_with_3_and_is_named(softmax_run: Run, tmp_path: Path, case: str):
    content, words = HOSTILE[case]
    file = tmp_path / "image.png"
    if content is not None:
        file.write_bytes(content)
    assert refusal(PredictOptions(str(softmax_run.folder), (str(file),)), f"{file} cannot be used: ", words) == 3


def test_a_folder_in_place_of_an_image_exits_with_3(softmax_run: Run, tmp_path: Path):
    assert refusal(PredictOptions(str(softmax_run.folder), (str(tmp_path),)), "there is no such file") == 3


def test_a_checkpoint_that_is_none_exits_with_3(tmp_path: Path):
    assert refusal(PredictOptions(str(tmp_path / "none"), ("x.png",)), "there is no checkpoint") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a checkpoint (step-...) or a run's folder, and then image files"),
        (["x"], "give a checkpoint (step-...) or a run's folder, and then image files"),
        (["x", "y.png", "--top", "0"], "--top is 0"),
        (["x", "y.png", "--json", "/none/a.json"], "there is no folder /none"),
    ],
)
def test_wrong_options_exit_with_2(arguments: list[str], words: str):
    done = run_alone("predict", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_titles_default_to_names(own_run: Run, tmp_path: Path):
    changed_manifest(own_run.folder, lambda m: replace(m, data_set={**m.data_set, "class_titles": []}))
    files = tuple(stored_files(own_run.shards, tmp_path)[:1])
    (answer,) = answered(PredictOptions(str(own_run.folder), files, top=8), tmp_path)
    assert {each["title"] for each in answer["classes"]} == set(CLASSES)
