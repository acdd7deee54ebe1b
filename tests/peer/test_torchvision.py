"""torchvision's alexnet and vgg: they load our files strictly, theirs are scored here, and all outputs are equal."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owt_mpi.comm.threads import run_ranks
from owt_mpi.data.manifest import Manifest, Statistics
from owt_mpi.evaluation.answers import PredictOptions, run_prediction
from owt_mpi.evaluation.exporting import ExportOptions, run_export
from owt_mpi.evaluation.network import NetworkOptions, RankOptions
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.run import run_evaluation
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.network_file import names_in, write_network
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.train import parse
from owt_mpi.training.run import run_training
from tests.interchange.scoring import logits_in_onnxruntime, logits_of, random_images, random_weights
from tests.interchange.torchvision_case import record, tensors
from tests.shards import write_split

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from safetensors.torch import load_file, save_file  # noqa: E402 - needs torch

from tests.interchange.record_torchvision import alexnet_logits, shapes_of  # noqa: E402 - needs torchvision

pytestmark = pytest.mark.peer

NETWORKS = ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19")
CLASSES = tuple("abcdefgh")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights for ImageNet


def their_network(name: str):
    """Return torchvision's network with given weights, such that its outputs differ."""
    network = torchvision.models.get_model(name, num_classes=len(CLASSES)).eval()
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict({key: torch.from_numpy(value) for key, value in tensors(shapes).items()}, strict=True)
    return network


def their_logits(network, images: np.ndarray) -> np.ndarray:
    """Return what torchvision's network makes of images (n, h, w, c)."""
    with torch.no_grad():
        return network(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()


def assert_close(measured: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std(axis=1).min() > 0.01, "nothing to tell apart"
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_record_is_what_torchvision_says():
    for name in NETWORKS:
        assert shapes_of(name) == record()["shapes"][name]
    assert_close(np.array(alexnet_logits()), np.array(record()["alexnet_logits"]))


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_loads_our_file_strictly_and_gives_our_logits(tmp_path: Path, name: str):
    model = MODELS[name](InputSpec(224, 3, len(CLASSES)))
    weights, images = random_weights(model), random_images(model, 2)
    write_network(tmp_path / "net.safetensors", model, names_in("torchvision", model, name), weights, NetworkFacts())
    ours = logits_of(model, weights, images)
    network = torchvision.models.get_model(name, num_classes=len(CLASSES)).eval()
    network.load_state_dict(load_file(tmp_path / "net.safetensors"), strict=True)
    assert_close(ours, their_logits(network, images))


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(5)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory, pixels: list[np.ndarray]) -> Path:
    """Images whose own mean and deviation are not those of torchvision's weights."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    folder.mkdir()
    splits = {split: write_split(folder, split, pixels, [0, 1, 2, 3, 4], 1, CLASSES) for split in ("train", "val")}
    statistics = Statistics.from_moments(np.full(3, 10.0), np.eye(3) * 20.0**2)
    Manifest(CLASSES, (256, 256, 3), splits, statistics, seed=0).write(folder)
    return folder


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_their_file_is_scored_here_as_there(tmp_path: Path, shards: Path, pixels: list[np.ndarray], name: str):
    network = their_network(name)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    prepare = torchvision.transforms.Compose(
        [
            torchvision.transforms.ToTensor(),
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.Normalize(MEAN, STD),
        ]
    )
    with torch.no_grad():
        logits = network(torch.stack([prepare(image) for image in pixels]))
        losses = torch.nn.functional.cross_entropy(logits, torch.arange(5), reduction="none").numpy()
    options = EvaluateOptions(
        str(tmp_path / "net.safetensors"), str(shards), npz=str(tmp_path / "a.npz"), network=NetworkOptions(model=name),
        ranks=RankOptions(scheme="d", images_per_rank=2),
    )  # fmt: skip
    run_ranks(2, lambda comm: run_evaluation(options, comm, 2))
    told = np.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(told["predicted"], logits.numpy().argmax(axis=1))
    np.testing.assert_allclose(told["losses"], losses, rtol=1e-4, atol=1e-4)


def test_their_file_answers_about_image_files_as_there(tmp_path: Path):
    network = their_network("alexnet")
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    small = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((450, 300), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.png")
    prepare = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(256),
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(MEAN, STD),
        ]
    )
    with torch.no_grad():
        scores = network(prepare(picture)[None]).softmax(dim=1)[0].numpy()
    asked = PredictOptions(str(tmp_path / "net.safetensors"), (str(tmp_path / "picture.png"),), top=8)
    run_prediction(replace(asked, network=NetworkOptions(model="alexnet"), json=str(tmp_path / "a.json")))
    (told,) = json.loads((tmp_path / "a.json").read_text())
    ours = {each["label"]: each["score"] for each in told["classes"]}
    np.testing.assert_allclose([ours[label] for label in range(8)], scores, atol=1e-4)


def test_their_file_becomes_an_onnx_file_with_equal_outputs(tmp_path: Path):
    network = their_network("alexnet")
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    run_export(ExportOptions(str(tmp_path / "net.safetensors"), str(tmp_path / "net.onnx"), model="alexnet"))
    images = random_images(MODELS["alexnet"](InputSpec(224, 3, 8)), 2)
    assert_close(logits_in_onnxruntime(tmp_path / "net.onnx", images), their_logits(network, images))


def test_a_run_that_begins_with_their_file_exports_its_bits(tmp_path: Path, shards: Path):
    """On two ranks that split the FC layers by inputs: the columns that a rank reads are scattered over the file."""
    given = their_network("alexnet").state_dict()
    save_file(given, tmp_path / "in.safetensors")
    arguments = ["--model", "alexnet", "--data", str(shards), "--images-per-rank", "2", "--normalise", "mean-std"]
    arguments += ["--run-dir", str(tmp_path / "run"), "--init-from", str(tmp_path / "in.safetensors"), "--scheme", "d"]
    config = parse([*arguments, "--lr", "0", "--max-steps", "1", "--threads", "1"])
    run_ranks(2, lambda comm: run_training(config, comm, 2))
    run_export(ExportOptions(str(tmp_path / "run"), str(tmp_path / "out.safetensors")))
    exported = load_file(tmp_path / "out.safetensors")
    torchvision.models.alexnet(num_classes=len(CLASSES)).load_state_dict(exported, strict=True)
    assert all(torch.equal(exported[name], values) for name, values in given.items())
