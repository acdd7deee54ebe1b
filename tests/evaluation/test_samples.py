"""What a run keeps of sample images is what its network says of them, and what it was shown."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, DataOptions, ModelOptions, RunOptions
from owt_mpi.data.facts import DataFacts
from owt_mpi.data.readers import SyntheticReader
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training.data import make_loaders
from owt_mpi.training.samples import SampleRecorder
from tests.evaluation.conftest import CLASSES, MEAN, STD, Run, images_of, labels_of, outputs_of_layers
from tests.tiny import GLOBAL_BATCH, SPEC, tiny_model

CHOSEN = np.array([0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33])  # 12 of 37

FACTS = DataFacts(tuple("abcdefgh"), (), (MEAN,) * 3, (STD,) * 3, None, False)


def pixels_of(picture: str) -> np.ndarray:
    head, _, content = picture.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_samples_of_a_run_are_what_its_last_network_says(request: pytest.FixtureRequest, loss: str):
    run: Run = request.getfixturevalue(f"{loss}_run")
    content = json.loads((run.folder / "samples.json").read_text())
    assert (content["epoch"], content["step"], len(content["images"])) == (3, 12, 12)
    images = images_of(run.shards)[CHOSEN]
    logits = outputs_of_layers(run, images)["head"]
    scores = (
        np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) if loss == "softmax" else 1 / (1 + np.exp(-logits))
    )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    labels = labels_of(run.shards)[CHOSEN]
    assert (order[:, 0] == labels).any()
    assert (order[:, 0] != labels).any()
    for number, sample in enumerate(content["images"]):
        assert sample["name"] == f"{CLASSES[labels[number]]}/{CHOSEN[number]}"
        assert sample["title"] == f"the {CLASSES[labels[number]]}"
        assert [each["title"] for each in sample["classes"]] == [f"the {CLASSES[c]}" for c in order[number]]
        assert [each["score"] for each in sample["classes"]] == pytest.approx(list(scores[number][order[number]]))
        np.testing.assert_array_equal(pixels_of(sample["picture"]), np.rint(images[number] * STD + MEAN))
    assert not (run.folder / "samples.json.part").exists()


def recorded(tmp_path, plan: Plan, count: int = 12):
    """Return what is recorded of a network that was not trained, and what all ranks say."""
    config = Config(
        model=ModelOptions(crop=SPEC.crop), data=DataOptions(data="x"), run=RunOptions(samples=count),
        parallel=ParallelOptions(dtype="float64"),
    )  # fmt: skip
    reader, validation = (SyntheticReader(20, (12, 11, 3), SPEC.num_classes, seed) for seed in (1, 2))

    def of_rank(comm):
        backend = ReferenceBackend()
        trainer = Trainer(config, tiny_model("softmax"), make_layout(comm, plan), backend, GLOBAL_BATCH)
        data = make_loaders(config, reader, validation, GLOBAL_BATCH // comm.size, comm, backend)
        recorder = SampleRecorder(data.samples, validation, FACTS, SPEC.crop, tmp_path / "samples.json")
        return recorder.record(trainer, 1, 5)

    said = run_ranks(plan.num_ranks, of_rank)
    file = tmp_path / "samples.json"
    return json.loads(file.read_text()) if file.exists() else None, said


def test_any_number_of_ranks_records_the_same(tmp_path):
    one, _ = recorded(tmp_path, Plan(1))
    assert len(one["images"]) == 12
    for plan in (Plan(4, "b"), Plan(4, "c", group_size=2), Plan(2, "d"), Plan(4, "dp")):
        other, said = recorded(tmp_path, plan)
        assert said == [None] * plan.num_ranks
        for ours, serial in zip(other["images"], one["images"], strict=True):
            assert {**ours, "classes": 0} == {**serial, "classes": 0}
            assert [each["title"] for each in ours["classes"]] == [each["title"] for each in serial["classes"]]
            scores = [[each["score"] for each in sample["classes"]] for sample in (ours, serial)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def test_no_more_samples_than_images_or_rows_are_recorded(tmp_path):
    content, _ = recorded(tmp_path, Plan(2), count=1000)
    assert len(content["images"]) == GLOBAL_BATCH


def test_what_cannot_be_written_is_said_and_ends_nothing(tmp_path):
    (tmp_path / "samples.json.tmp").mkdir()
    content, (said, silent) = recorded(tmp_path, Plan(2))
    assert content is None
    assert silent is None
    assert said.startswith(f"WARNING: {tmp_path}/samples.json could not be written (")


def test_large_images_are_kept_as_small_photographs(tmp_path):
    reader = SyntheticReader(4, (300, 280, 1), SPEC.num_classes, seed=1)
    recorder = SampleRecorder(None, reader, FACTS, 224, tmp_path / "samples.json")
    ((label, picture),) = recorder._pictures(np.array([2]))
    assert picture.startswith("data:image/jpeg;base64,")
    assert pixels_of(picture).shape == (112, 112)
    assert label == reader.read_windows(np.array([2]), np.array([[0, 0, 1, 1]]), np.empty((1, 1, 1, 1), np.uint8))
