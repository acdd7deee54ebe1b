"""A tiny network and its training on K ranks in one process: what many tests compare."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import Precision, compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.checkpoint.weights import whole_parameter
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.staged import staged
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, OptimizerOptions
from owt_mpi.data.loader import Batch
from owt_mpi.nn.layers import LRN, AvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Loss, Model, num_features
from owt_mpi.nn.module import Sequential
from owt_mpi.nn.recompute import RecomputedSequential
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel.wire_format import WireDtype
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer

SPEC = InputSpec(crop=9, channels=3, num_classes=8)
GLOBAL_BATCH = 16


def tiny_model(loss: Loss = "logistic", trunk_dropout: float = 0.1) -> Model:
    """Return a network with every kind of layer that the shipped ones have, and dropout in the trunk."""
    trunk = Sequential(
        {
            "conv1": Conv2d(SPEC.channels, 4, 3, 1, 1),
            "lrn1": LRN(size=3, alpha=0.5),
            "pool1": MaxPool2d(3, 2),
            "relu1": ReLU(),
            "conv2": Conv2d(4, 6, 3, 1, 1),
            "relu2": ReLU(),
            "dropout2": Dropout(trunk_dropout),
            "pool2": AvgPool2d(2, 2),
            "flatten": Flatten(),
        }
    )
    head = Sequential(
        {
            "dropout3": Dropout(0.25),
            "fc3": Linear(num_features(trunk, SPEC), 16),
            "relu3": ReLU(),
            "dropout4": Dropout(0.25),
            "fc4": Linear(16, 12),
            "relu4": ReLU(),
            "fc5": Linear(12, SPEC.num_classes),
        }
    )
    return Model("tiny", SPEC, trunk, head, loss)


def global_batch(step: int, dtype: Any) -> Batch:
    """Return the whole batch of `step`, over all ranks: random images whose class shows in their mean."""
    rng = np.random.default_rng(step)
    labels = rng.integers(0, SPEC.num_classes, GLOBAL_BATCH)
    images = rng.standard_normal((GLOBAL_BATCH, SPEC.crop, SPEC.crop, SPEC.channels)) + labels[:, None, None, None] / 4
    rows = np.arange(GLOBAL_BATCH)
    return Batch(images.astype(dtype), labels, rows, rows, None)


def on_device(batch: Batch, backend: Backend) -> Batch:
    """Return the batch with its images on the device of `backend`."""
    return replace(batch, images=backend.from_host(batch.images))


def part_of(batch: Batch, rank: int, size: int) -> Batch:
    """Return rank's part of a global batch."""
    n = len(batch.rows) // size
    own = slice(rank * n, (rank + 1) * n)
    return replace(
        batch, images=batch.images[own], labels=batch.labels[own], rows=batch.rows[own], indices=batch.indices[own]
    )


def train_tiny(
    comm: Communicator,
    plan: Plan | None = None,
    passes_per_update: int = 0,
    dtype: str = "float64",
    num_steps: int = 20,
    loss: Loss = "logistic",
    backend: Backend | None = None,
    trunk_sync: TrunkSync = "all-reduce",
    wire_dtype: WireDtype = "auto",
    hosts: Sequence[str] = (),
    precision: Precision = "fp32",
    cuts: Sequence[int] | None = None,
    trunk_dropout: float = 0.1,
    cuda_graph: bool = False,
    lr_factors: Sequence[float] = (1.0,),
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Train on the ranks of `comm`; return the parameters as global arrays, and the loss of every step.

    `plan` is for as many ranks as `comm` has; by default scheme (c). With `cuts` the trunk recomputes its blocks. Steps
    take the `lr_factors` in turn.
    """
    config = Config(
        optimizer=OptimizerOptions(lr=0.02, lr_base_batch=GLOBAL_BATCH),
        parallel=ParallelOptions(
            dtype=dtype,
            bucket_mib=0.001,
            trunk_sync=trunk_sync,
            wire_dtype=wire_dtype,
            precision=precision,
            cuda_graph=cuda_graph,
        ),
    )
    computed = compute_dtype(precision, dtype)
    backend = backend or select_backend("reference", computed)[0]
    model, plan = tiny_model(loss, trunk_dropout), plan or Plan(comm.size)
    if cuts is not None:
        model.trunk = RecomputedSequential(model.trunk, cuts)
    plan.check(model, GLOBAL_BATCH // comm.size)
    layout = make_layout(carrying_halves(staged(comm, backend), computed), plan, hosts[comm.rank] if hosts else "")
    trainer = Trainer(config, model, layout, backend, GLOBAL_BATCH)
    trainer.set_head_update(HeadUpdate(passes_per_update))
    losses = []
    for step in range(num_steps):
        batch = on_device(part_of(global_batch(step, computed), comm.rank, comm.size), backend)
        losses.append(trainer.train_step(batch, step, lr_factors[step % len(lr_factors)]).loss)
    trainer.collect_masters()
    parameters = trainer.trunk.parameters() + trainer.head.parameters()
    return {p.name: np.array(whole_parameter(p, layout.head)) for p in parameters}, losses


def train_tiny_on(plan: Plan, **options) -> tuple[dict[str, np.ndarray], list[float]]:
    """Return what `train_tiny` returns on rank 0 of the plan's ranks, after a look that all ranks agree."""
    results = run_ranks(plan.num_ranks, lambda comm: train_tiny(comm, plan, **options))
    for parameters, losses in results[1:]:
        assert losses == results[0][1]
        for name, values in parameters.items():
            np.testing.assert_array_equal(values, results[0][0][name], err_msg=f"{name} differs between ranks")
    return results[0]


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any parameter, relative to that parameter's largest element."""
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max()) for name in b)
