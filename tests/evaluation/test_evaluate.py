"""An evaluation on any number of ranks tells what a plain calculation on the serial network's outputs tells."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from owt_mpi.evaluation.network import NetworkOptions
from tests.cuda_backend import cuda_backend
from tests.evaluation.conftest import (
    CLASSES,
    NUM_VAL,
    Run,
    evaluated,
    images_of,
    labels_of,
    options_of,
    outputs_of_layers,
)
from tests.mpi_run import Result

LAYOUTS = [(1, "auto", 0), (2, "dp", 0), (2, "c", 0), (2, "d", 0), (4, "dp", 0), (4, "c", 0), (4, "d", 2), (4, "b", 0)]
PLACES = [(0, 0), (0, 1), (2, 0), (2, 1), (1, 0)]  # of the ten views' windows


def losses_of(logits: np.ndarray, labels: np.ndarray, loss: str) -> np.ndarray:
    targets = np.eye(len(CLASSES))[labels]
    if loss == "softmax":
        return -np.log((np.exp(logits) * targets).sum(axis=1) / np.exp(logits).sum(axis=1))
    p = 1 / (1 + np.exp(-logits))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(axis=1)


def expected(run: Run, num_views: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of every image, and its classes from the highest score to the lowest."""
    places = [(*place, mirror) for mirror in (False, True) for place in PLACES] if num_views == 10 else [(1, 0, False)]
    logits = [outputs_of_layers(run, images_of(run.shards, *place))["head"] for place in places]
    if run.loss == "softmax":
        scores = [np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in logits]
    else:
        scores = [1 / (1 + np.exp(-z)) for z in logits]
    labels = labels_of(run.shards)
    losses = np.mean([losses_of(z, labels, run.loss) for z in logits], axis=0)
    return losses, np.argsort(-np.mean(scores, axis=0), axis=1, kind="stable")


def check_equals_plain(run: Run, folder: Path, num_views: int = 1) -> None:
    """Check what an evaluation wrote to `folder`."""
    losses, order = expected(run, num_views)
    labels = labels_of(run.shards)
    above = (order == labels[:, None]).argmax(axis=1)
    assert 0 < (above < 1).sum() < (above < 5).sum() < NUM_VAL, "nothing to tell apart"
    images = np.load(folder / "a.npz")
    np.testing.assert_array_equal(images["labels"], labels)
    np.testing.assert_array_equal(images["predicted"], order[:, 0])
    np.testing.assert_array_equal(images["above"], above)
    np.testing.assert_allclose(images["losses"], losses, rtol=1e-9)
    matrix = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(matrix, (labels, order[:, 0]), 1)
    np.testing.assert_array_equal(images["confusion"], matrix)
    told = json.loads((folder / "a.json").read_text())
    assert told["images"] == NUM_VAL
    assert told["loss"] == pytest.approx(losses.mean(), rel=1e-9)
    assert (told["top1"], told["top5"]) == ((above < 1).mean(), (above < 5).mean())
    assert {(a, b): n for a, b, n in told["confusion"]} == {
        (a, b): matrix[a, b] for a, b in zip(*matrix.nonzero(), strict=True)
    }
    assert [each["top1"] for each in told["classes"]] == sorted(each["top1"] for each in told["classes"])
    for each in told["classes"]:
        own = labels == each["label"]
        assert each["name"] == f"the {CLASSES[each['label']]}"
        assert each["images"] == own.sum()
        assert each["top1"] == pytest.approx((above[own] < 1).mean())
        assert each["top5"] == pytest.approx((above[own] < 5).mean())
        assert each["loss"] == pytest.approx(losses[own].mean())
    assert sum(each["images"] for each in told["classes"]) == NUM_VAL
    assert sum(each["images"] * each["top1"] for each in told["classes"]) == pytest.approx((above < 1).sum())
    worst = np.argsort(-losses)[:3]
    assert [each["name"] for each in told["worst"]] == [f"{CLASSES[labels[i]]}/{i}" for i in worst]
    assert [each["predicted"] for each in told["worst"]] == order[worst, 0].tolist()


@pytest.mark.parametrize(("size", "scheme", "group"), LAYOUTS)
def test_any_ranks_and_scheme_equal_the_plain_calculation(softmax_run: Run, tmp_path: Path, size, scheme, group):
    evaluated(options_of(softmax_run, tmp_path, size, scheme, group))
    check_equals_plain(softmax_run, tmp_path)


@pytest.mark.parametrize(("size", "scheme", "group"), [(1, "auto", 0), (4, "c", 0), (4, "d", 2)])
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_ten_views_are_averaged(request, tmp_path: Path, loss: str, size, scheme, group):
    run = request.getfixturevalue(f"{loss}_run")
    evaluated(options_of(run, tmp_path, size, scheme, group, views=10))
    check_equals_plain(run, tmp_path, 10)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_other_precisions_come_close(softmax_run: Run, tmp_path: Path, precision):
    file = tmp_path / "a.h5"
    network = NetworkOptions(precision=precision, backend="reference")
    options = options_of(softmax_run, tmp_path, 2, "d", network=network, features="fc2", features_out=str(file))
    evaluated(options)
    losses, _ = expected(softmax_run, 1)
    found = np.load(tmp_path / "a.npz")["losses"]
    tolerance = {"fp32": 1e-5, "bf16": 0.03, "fp16": 0.004}[precision]
    np.testing.assert_allclose(found, losses, rtol=tolerance)
    assert (found != losses).any()
    values = outputs_of_layers(softmax_run, images_of(softmax_run.shards))["head.fc2"]
    with h5py.File(file) as written:
        assert written["features"].dtype == np.float32
        np.testing.assert_allclose(written["features"][:], values, atol=tolerance * np.abs(values).max())


def test_a_gpu_tells_the_same(softmax_run: Run, tmp_path: Path):
    file = tmp_path / "a.h5"
    network = NetworkOptions(precision="fp32", backend="cuda")
    with cuda_backend():
        options = options_of(softmax_run, tmp_path, 2, "c", network=network, features="relu1", features_out=str(file))
        evaluated(options)
    losses, _ = expected(softmax_run, 1)
    np.testing.assert_allclose(np.load(tmp_path / "a.npz")["losses"], losses, rtol=1e-5)
    values = outputs_of_layers(softmax_run, images_of(softmax_run.shards))["trunk.relu1"]
    with h5py.File(file) as written:
        np.testing.assert_allclose(written["features"][:], values, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 37, 64])
def test_the_batch_does_not_matter(logistic_run: Run, tmp_path: Path, rows: int):
    evaluated(options_of(logistic_run, tmp_path, 2, "a", rows=rows))
    check_equals_plain(logistic_run, tmp_path)


def test_mpi_ranks_tell_it_once(mpirun: Callable[..., Result], softmax_run: Run, tmp_path: Path):
    files = ["--json", tmp_path / "a.json", "--npz", tmp_path / "a.npz", "--worst", "3"]
    result = mpirun(2, ["-m", "owt_mpi.evaluate", *map(str, [softmax_run.folder, *files])]).check()
    check_equals_plain(softmax_run, tmp_path)
    assert result.rank_stdout[1] == ""
    told = json.loads((tmp_path / "a.json").read_text())
    lines = result.rank_stdout[0].splitlines()
    assert f"loss {told['loss']:.4f}, top-1 {told['top1']:.2%}, top-5 {told['top5']:.2%} of 37 images" in lines[-1]
    assert "classes: 8 classes, of the same names in checkpoint and data" in lines


def test_it_is_the_validation_of_the_training(softmax_run: Run, tmp_path: Path):
    records = [json.loads(line) for line in (softmax_run.folder / "metrics.jsonl").read_text().splitlines()]
    validation = [each for each in records if each["kind"] == "validation"][-1]
    evaluated(options_of(softmax_run, tmp_path, 2))
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["loss"] == pytest.approx(validation["loss"], rel=1e-12)
    assert (told["top1"], told["top5"]) == (validation["top1"], validation["top5"])


@pytest.mark.parametrize("layer", ["conv1", "trunk.pool1", "trunk", "dropout2", "fc2", "head.relu2", "head"])
@pytest.mark.parametrize(("size", "scheme", "group"), [(1, "auto", 0), (2, "d", 0), (4, "c", 0), (4, "d", 2)])
def test_features_are_the_serial_layers_outputs(
    softmax_run: Run, tmp_path: Path, monkeypatch, layer: str, size, scheme, group
):
    monkeypatch.setattr("owt_mpi.evaluation.run.PIECE_BYTES", 4 * size * 100)  # so that rows cross in pieces
    file = tmp_path / "features.h5"
    evaluated(options_of(softmax_run, tmp_path, size, scheme, group, features=layer, features_out=str(file)))
    seen = outputs_of_layers(softmax_run, images_of(softmax_run.shards))
    (values,) = (each for name, each in seen.items() if name == layer or name.endswith(f".{layer}"))
    with h5py.File(file) as written:
        np.testing.assert_allclose(written["features"][:], values, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(written["labels"][:], labels_of(softmax_run.shards))
        assert [name.decode() for name in written["names"][:]] == [
            f"{CLASSES[label]}/{i}" for i, label in enumerate(labels_of(softmax_run.shards))
        ]
    assert list(tmp_path.glob("*.part")) == []
