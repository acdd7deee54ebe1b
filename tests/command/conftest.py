"""A small data set that can be learnt, on which the training command runs within seconds."""

from pathlib import Path

import numpy as np
import pytest

from owt_mpi.data.manifest import Manifest, Statistics
from tests.shards import write_split

SHAPE = (10, 9, 3)
CLASS_NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """See write_shards."""
    return write_shards(tmp_path / "shards")


@pytest.fixture
def jpeg_shards(tmp_path: Path) -> Path:
    """The same, each image stored as a JPEG file."""
    return write_shards(tmp_path / "jpeg_shards", "jpeg")


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """See write_preset."""
    return write_preset(tmp_path)


def write_shards(folder: Path, storage: str = "raw") -> Path:
    """Write 96 training images in two shards and 21 validation images; a class has its own brightness."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    splits = {}
    for split, count, num_shards in (("train", 96, 2), ("val", 21, 1)):
        labels = [position * 7 % len(CLASS_NAMES) for position in range(count)]
        images = [rng.integers(0, 64, SHAPE, dtype=np.uint8) + np.uint8(48 * label) for label in labels]
        splits[split] = write_split(folder, split, images, labels, num_shards, CLASS_NAMES, storage)
    statistics = Statistics.from_moments(np.full(3, 104.0), np.eye(3) * 57.0**2)
    Manifest(CLASS_NAMES, SHAPE, splits, statistics, seed=0, storage=storage).write(folder)
    return folder


def write_preset(folder: Path) -> Path:
    """Write a preset of a small network for these images, and the network in a user's file."""
    (folder / "my_nets.py").write_text(
        "from owt_mpi.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU\n"
        "from owt_mpi.nn.model import Model, num_features\n"
        "from owt_mpi.nn.module import Module, Sequential\n"
        "from owt_mpi.ops.add import add\n"
        "class Block(Module):\n"
        "    def __init__(self, channels):\n"
        "        self.conv, self.relu = Conv2d(channels, channels, 3, 1, 1), ReLU()\n"
        "    def forward(self, x, ctx):\n"
        "        return add(x, self.relu(self.conv(x, ctx), ctx))\n"
        "def residual(spec):\n"
        "    trunk = Sequential({'conv1': Conv2d(spec.channels, 8, 3), 'block2': Block(8), 'pool2': MaxPool2d(2, 2),\n"
        "                        'flatten': Flatten()})\n"
        "    head = Sequential({'fc3': Linear(num_features(trunk, spec), 16), 'relu3': ReLU(),\n"
        "                       'dropout4': Dropout(0.1), 'fc4': Linear(16, spec.num_classes)})\n"
        "    return Model('residual', spec, trunk, head, 'softmax')\n"
    )
    file = folder / "small.toml"
    file.write_text(
        f'[model]\nmodel = "{folder}/my_nets.py:residual"\ncrop = 8\n[data]\nnormalise = "mean-std"\n'
        "[batch]\nglobal_batch = 16\nepochs = 2\n[optimizer]\nlr = 0.01\nlr_base_batch = 16\n[run]\nlog_every = 3\n"
    )
    return file
