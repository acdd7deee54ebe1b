"""The network of the benchmark table1: the demo's `small`, whose last layer 2, 4 and 8 ranks can split."""

from dataclasses import replace

from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import small

MOST_RANKS = 8


def net(spec: InputSpec) -> Model:
    """Return `small` with as many units in the last layer as classes, and unused ones up to a multiple of 8.

    No image has an unused unit's class, so the loss makes such a unit say next to nothing after a few steps.
    """
    spec = replace(spec, num_classes=-(-spec.num_classes // MOST_RANKS) * MOST_RANKS)
    demo = small(spec)
    return Model("table1-net", spec, demo.trunk, demo.head, demo.loss)
