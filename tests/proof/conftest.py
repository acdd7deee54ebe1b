"""A tiny network in a file of its own, as the command takes one."""

from pathlib import Path

import pytest

NETS = """
from owt_mpi.nn.layers import LRN, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import Model, num_features
from owt_mpi.nn.module import Sequential


def tiny(spec):
    trunk = Sequential(
        {
            "conv1": Conv2d(spec.channels, 4, 3, 2, 1),
            "lrn1": LRN(size=3, alpha=0.5),
            "relu1": ReLU(),
            "pool1": MaxPool2d(3, 2),
            "flatten": Flatten(),
        }
    )
    head = Sequential(
        {
            "dropout2": Dropout(0.25),
            "fc2": Linear(num_features(trunk, spec), 12),
            "relu2": ReLU(),
            "fc3": Linear(12, spec.num_classes),
        }
    )
    return Model("tiny", spec, trunk, head, "logistic")
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The network, as --model names it."""
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    return f"{tmp_path}/nets.py:tiny"
