"""The network of the benchmark table1: the demo's `small`, whose last layer 2, 4 and 8 ranks can split."""

from dataclasses import replace

from owt_mpi.nn.init import HeNormal, Normal
from owt_mpi.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.module import Sequential

MOST_RANKS = 8


def net(spec: InputSpec) -> Model:
    """Return `small` with as many units in the last layer as classes, and unused ones up to a multiple of 8.

    No image has an unused unit's class, so the loss makes such a unit say next to nothing after a few steps.
    """
    spec = replace(spec, num_classes=-(-spec.num_classes // MOST_RANKS) * MOST_RANKS)
    trunk = Sequential(
        {
            "conv1": Conv2d(spec.channels, 32, 5, 1, 2, HeNormal()),
            "relu1": ReLU(),
            "pool1": MaxPool2d(2, 2),
            "conv2": Conv2d(32, 64, 3, 1, 1, HeNormal()),
            "relu2": ReLU(),
            "pool2": MaxPool2d(2, 2),
            "flatten": Flatten(),
        }
    )
    head = Sequential(
        {
            "dropout3": Dropout(0.25),
            "fc3": Linear(num_features(trunk, spec), 256, HeNormal()),
            "relu3": ReLU(),
            "dropout4": Dropout(0.5),
            "fc4": Linear(256, spec.num_classes, Normal(0.01)),
        }
    )
    return Model("table1-net", spec, trunk, head, "softmax")
