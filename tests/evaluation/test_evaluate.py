"""An evaluation on any number of ranks tells what a plain calculation on the serial network's outputs tells."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.evaluation.network import NetworkOptions, RankOptions
from owt_mpi.evaluation.options import EvaluateOptions
from tests.cuda_backend import cuda_backend
from tests.evaluation.conftest import (
    CLASSES,
    NUM_VAL,
    Run,
    changed_manifest,
    evaluated,
    images_of,
    labels_of,
    outputs_of_layers,
    run_alone,
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


def options_of(run: Run, folder: Path, size: int = 1, scheme: str = "auto", group: int = 0, **more) -> EvaluateOptions:
    ranks = RankOptions(scheme=scheme, head_group_size=group, virtual_ranks=size, images_per_rank=more.pop("rows", 0))
    return EvaluateOptions(
        str(run.folder), json=str(folder / "a.json"), npz=str(folder / "a.npz"), ranks=ranks, worst=3, **more
    )


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


def refusal(options: EvaluateOptions) -> tuple[int, str]:
    """Return exit code and message of an evaluation that is refused on two ranks."""
    with pytest.raises(CollectiveExit) as refused:
        evaluated(replace(options, ranks=replace(options.ranks, virtual_ranks=2)))
    message = refused.value.message
    assert message.startswith("error: ")
    assert "\n" not in message
    return refused.value.code, message


def test_a_damaged_checkpoint_exits_with_3(own_run: Run, tmp_path: Path):
    part = next((own_run.folder / "checkpoints" / "latest").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    code, message = refusal(options_of(own_run, tmp_path))
    assert code == 3
    assert "is damaged: its SHA-256 is another one" in message


def test_folders_without_a_checkpoint_exit_with_3(tmp_path: Path):
    for folder, words in ((tmp_path, "holds no checkpoint"), (tmp_path / "none", "there is no checkpoint")):
        code, message = refusal(EvaluateOptions(str(folder)))
        assert code == 3
        assert words in message


def test_a_configuration_that_is_none_exits_with_3(own_run: Run, tmp_path: Path):
    for config, words in (
        ({"model": {"depth": 3}}, "has no option 'depth'"),
        ({"parallel": {"bucket_mib": -1.0}, "data": {"data": "x"}}, "--bucket-mib is -1.0"),
    ):
        changed_manifest(own_run.folder, lambda manifest, config=config: replace(manifest, config=config))
        code, message = refusal(options_of(own_run, tmp_path))
        assert code == 3
        assert "its configuration" in message
        assert words in message


def test_facts_of_a_data_set_that_are_none_exit_with_3(own_run: Run, tmp_path: Path):
    changed_manifest(own_run.folder, lambda manifest: replace(manifest, data_set={"class_names": 3}))
    code, message = refusal(options_of(own_run, tmp_path))
    assert code == 3
    assert "its data set is malformed" in message


def test_other_classes_exit_with_3_and_name_the_first(own_run: Run, tmp_path: Path):
    for names, words in (
        (("ant", "bee", "cow", *CLASSES[3:]), "class 2 is 'cow' in "),
        (CLASSES[:7], "was trained on 7 classes"),
    ):
        facts = {"class_names": list(names), "class_titles": []}
        changed_manifest(own_run.folder, lambda m, facts=facts: replace(m, data_set={**m.data_set, **facts}))
        code, message = refusal(options_of(own_run, tmp_path))
        assert code == 3
        assert words in message


def test_a_checkpoint_without_names_is_compared_by_number(own_run: Run, shards: Path, tmp_path: Path, capfd):
    changed_manifest(own_run.folder, lambda manifest: replace(manifest, data_set={}))
    evaluated(options_of(own_run, tmp_path, 2))
    check_equals_plain(own_run, tmp_path)
    assert "the checkpoint, an early one, has no names of its own" in capfd.readouterr().out
    fewer = tmp_path / "fewer"
    shutil.copytree(shards, fewer)
    manifest = json.loads((fewer / "manifest.json").read_text())
    manifest["class_names"].append("ibex")
    manifest["class_titles"].append("the ibex")
    for entry in [*manifest["splits"].values(), *(s for each in manifest["splits"].values() for s in each["shards"])]:
        entry["class_histogram"].append(0)
    (fewer / "manifest.json").write_text(json.dumps(manifest))
    code, message = refusal(options_of(own_run, tmp_path, scheme="dp", data=str(fewer)))
    assert code == 3
    assert "tells 8 classes apart, the data has 9" in message


def test_outputs_that_are_no_numbers_end_it_with_the_image(own_run: Run, tmp_path: Path, monkeypatch):
    def spoilt(trainer, batch, layer):
        return np.where((batch.indices == 35)[:, None], np.inf, np.zeros((len(batch.rows), len(CLASSES)))), None

    monkeypatch.setattr("owt_mpi.evaluation.run.outputs_of", spoilt)
    code, message = refusal(options_of(own_run, tmp_path))
    assert code == 1
    assert f"the network's outputs for {CLASSES[35 * 5 % 8]}/35 are no finite numbers" in message


@pytest.mark.parametrize("fails", ["write", "finish"])
def test_a_full_disk_leaves_no_features_and_exits_with_3(softmax_run: Run, tmp_path: Path, monkeypatch, fails: str):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"owt_mpi.evaluation.feature_file.FeatureFile.{fails}", full)
    options = options_of(softmax_run, tmp_path, features="fc2", features_out=str(tmp_path / "features.h5"))
    code, message = refusal(options)
    assert code == 3
    assert "No space left on device" in message
    assert list(tmp_path.glob("features*")) == []


USAGE = {
    "layer": ({"features": "fc9", "features_out": "x.h5"}, "--features fc9: the network has no such layer; choose one"),
    "views": ({"features": "fc2", "features_out": "x.h5", "views": 10}, "give --views 1"),
    "random images": ({"data": "synthetic"}, "give --data a folder of shards"),
    "model": ({"network": NetworkOptions(model="nets.py:x")}, "there is no file nets.py"),
    "rows": ({"rows": 3, "scheme": "c"}, "scheme 'c' needs images-per-rank divisible by the 2 ranks"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_options_exit_with_2(softmax_run: Run, tmp_path: Path, case: str):
    more, words = USAGE[case]
    code, message = refusal(options_of(softmax_run, tmp_path, **more))
    assert code == 2
    assert words in message


def test_data_that_is_not_there_exits_with_3(softmax_run: Run, tmp_path: Path):
    for more, words in (
        ({"data": str(tmp_path / "none")}, "manifest.json does not exist"),
        ({"split": "test"}, "has no split 'test'"),
    ):
        code, message = refusal(options_of(softmax_run, tmp_path, **more))
        assert code == 3
        assert words in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "CHECKPOINT is missing"),
        (["x", "--features", "fc2"], "give both, or none"),
        (["x", "--json", "/none/a.json"], "there is no folder /none"),
        (["x", "--worst", "-1"], "--worst is -1"),
        (["x", "--threads", "-1"], "--threads is -1"),
        (["x", "--virtual-ranks", "-1"], "--virtual-ranks is -1"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(arguments: list[str], words: str):
    done = run_alone("evaluate", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
