"""A small run whose network still errs, on images of more classes than top-5 takes in."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.autograd import tensor
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.checkpoint.format import CheckpointManifest
from owt_mpi.checkpoint.reader import Checkpoint
from owt_mpi.comm.threads import run_ranks
from owt_mpi.data.manifest import Manifest, Statistics
from owt_mpi.evaluation.network import RankOptions
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.run import run_evaluation
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.module import Context, load_weights
from tests.mpi_run import REPO_ROOT
from tests.shards import write_split

SHAPE, CROP, MEAN, STD = (10, 9, 3), 8, 104.0, 57.0
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
NUM_TRAIN, NUM_VAL = 64, 37
BACKEND = ReferenceBackend()

NETWORK = """
from owt_mpi.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import Model, num_features
from owt_mpi.nn.module import Sequential


def build(spec, loss):
    trunk = Sequential({'conv1': Conv2d(spec.channels, 8, 3), 'relu1': ReLU(), 'pool1': MaxPool2d(2, 2),
                        'flatten': Flatten()})
    head = Sequential({'dropout2': Dropout(0.1), 'fc2': Linear(num_features(trunk, spec), 16), 'relu2': ReLU(),
                       'dropout3': Dropout(0.1), 'fc3': Linear(16, spec.num_classes)})
    return Model('net', spec, trunk, head, loss)


def softmax(spec):
    return build(spec, 'softmax')


def logistic(spec):
    return build(spec, 'logistic')
"""


@dataclass(frozen=True)
class Run:
    """A run's folder, its data, and the loss that its network was trained with."""

    folder: Path
    shards: Path
    loss: str


def run_alone(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a module of owt_mpi without mpirun."""
    command = [sys.executable, "-m", f"owt_mpi.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=90)


def evaluated(options: EvaluateOptions) -> None:
    """Evaluate in this process, on the virtual ranks of the options."""
    size = options.ranks.virtual_ranks
    run_ranks(size, lambda comm: run_evaluation(options, comm, size))


def options_of(run: Run, folder: Path, size: int = 1, scheme: str = "auto", group: int = 0, **more) -> EvaluateOptions:
    ranks = RankOptions(scheme=scheme, head_group_size=group, virtual_ranks=size, images_per_rank=more.pop("rows", 0))
    return EvaluateOptions(
        str(run.folder), json=str(folder / "a.json"), npz=str(folder / "a.npz"), ranks=ranks, worst=3, **more
    )


def changed_manifest(folder: Path, change: Callable[[CheckpointManifest], CheckpointManifest]) -> None:
    """Write the manifest of the newest checkpoint of a run anew, changed."""
    path = folder / "checkpoints" / "latest"
    change(CheckpointManifest.read(path)).write(path)


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """64 training images, and 37 validation images in two shards; brightness tells of the class, but not always."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    folder.mkdir()
    rng = np.random.default_rng(5)
    splits = {}
    for split, count, num_shards in (("train", NUM_TRAIN, 1), ("val", NUM_VAL, 2)):
        labels = [position * 5 % len(CLASSES) for position in range(count)]
        shown = [(label + 4 * (position % 6 == 5)) % len(CLASSES) for position, label in enumerate(labels)]
        images = [rng.integers(0, 80, SHAPE, dtype=np.uint8) + np.uint8(24 * like) for like in shown]
        splits[split] = write_split(folder, split, images, labels, num_shards, CLASSES)
    statistics = Statistics.from_moments(np.full(3, MEAN), np.eye(3) * STD**2)
    titles = tuple(f"the {name}" for name in CLASSES)
    Manifest(CLASSES, SHAPE, splits, statistics, seed=0, class_titles=titles).write(folder)
    return folder


def make_run(folder: Path, shards: Path, loss: str) -> Run:
    (folder / "nets.py").write_text(NETWORK)
    (folder / "small.toml").write_text(
        f'[model]\nmodel = "{folder}/nets.py:{loss}"\ncrop = {CROP}\n[data]\nnormalise = "mean-std"\n'
        "[batch]\nglobal_batch = 16\nepochs = 3\n[optimizer]\nlr = 0.01\nlr_base_batch = 16\n"
        '[parallel]\nbackend = "reference"\ndtype = "float64"\n'
    )
    arguments = ["--preset", folder / "small.toml", "--data", shards, "--run-dir", folder / "run"]
    done = run_alone("train", *arguments)
    assert done.returncode == 0, done.stderr
    return Run(folder / "run", shards, loss)


@pytest.fixture(scope="session")
def softmax_run(tmp_path_factory, shards: Path) -> Run:
    return make_run(tmp_path_factory.mktemp("softmax"), shards, "softmax")


@pytest.fixture(scope="session")
def logistic_run(tmp_path_factory, shards: Path) -> Run:
    return make_run(tmp_path_factory.mktemp("logistic"), shards, "logistic")


@pytest.fixture
def own_run(softmax_run: Run, tmp_path: Path) -> Run:
    """A copy of the run, to be damaged."""
    shutil.copytree(softmax_run.folder, tmp_path / "own", symlinks=True)
    return replace(softmax_run, folder=tmp_path / "own")


def network_of(run: Run) -> Model:
    """Return the network of the newest checkpoint, on one rank."""
    with Checkpoint(run.folder / "checkpoints" / "latest") as checkpoint:
        builder = find_builder(checkpoint.manifest.config["model"]["model"])
        model = builder(InputSpec(CROP, 3, len(CLASSES)))
        load_weights(model.parameters(), checkpoint.weights, BACKEND, np.dtype(np.float64))
    return model


def images_of(shards: Path, top: int = 1, left: int = 0, mirror: bool = False) -> np.ndarray:
    """Return a window of the validation images as the network is shown them, with plain h5py."""
    import h5py

    parts = []
    for path in sorted(shards.glob("val-*.h5")):
        with h5py.File(path) as file:
            parts.append(file["images"][:, top : top + CROP, left : left + CROP])
    pixels = np.concatenate(parts)[:, :, :: -1 if mirror else 1]
    return (pixels.astype(np.float64) - MEAN) / STD


def outputs_of_layers(run: Run, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each layer of the serial network makes of the images."""
    model, seen = network_of(run), {}
    ctx = Context(False, np.arange(len(images)), watch=lambda name, y: seen.__setitem__(name, y.data))
    model.head(model.trunk(tensor(np.ascontiguousarray(images), BACKEND), ctx), ctx)
    return seen


def labels_of(shards: Path) -> np.ndarray:
    """Return the labels of the validation images."""
    assert json.loads((shards / "manifest.json").read_text())["splits"]["val"]["count"] == NUM_VAL
    return np.arange(NUM_VAL) * 5 % len(CLASSES)
