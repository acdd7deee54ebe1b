"""A network on one batch, everything a function of a seed: what we and PyTorch compute to compare."""

import functools
from dataclasses import dataclass
from math import prod

import numpy as np

from owt_mpi import rng
from owt_mpi.autograd import backward, tensor
from owt_mpi.backends.base import Backend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.nn.init import initialise
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context
from owt_mpi.parallel.sharded import sharded_loss

SEED, STEP = 20140423, 3
CHANNELS = 3


@dataclass(frozen=True)
class Case:
    """`model` on `batch` images of side `crop` and standard deviation `image_std`; with `training`, dropout acts."""

    model: str
    crop: int
    num_classes: int
    batch: int
    training: bool
    image_std: float = 1.0

    def build(self) -> Model:
        """Return the network, without values yet."""
        return MODELS[self.model](InputSpec(self.crop, CHANNELS, self.num_classes))

    def images(self, dtype: np.dtype) -> np.ndarray:
        """Return the images, (n, h, w, c)."""
        shape = (self.batch, self.crop, self.crop, CHANNELS)
        values = rng.normal(rng.stream_key(SEED, "images"), np.arange(prod(shape)))
        return (self.image_std * values).astype(dtype).reshape(shape)

    def labels(self) -> np.ndarray:
        """Return one label for each image."""
        return rng.integers(rng.stream_key(SEED, "labels"), np.arange(self.batch), self.num_classes)

    def context(self) -> Context:
        """Return what keys the dropout masks."""
        return Context(self.training, np.arange(self.batch), SEED, STEP)


@dataclass(frozen=True)
class Outcome:
    """What a network gives: logits (n, classes), the mean loss of an example, and its gradient by parameter name."""

    logits: np.ndarray
    loss: float
    grads: dict[str, np.ndarray]


@functools.cache
def initial_values(case: Case, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Return the network's initial values by parameter name, shared between calls: not to be changed."""
    parameters = case.build().parameters()
    initialise(parameters, ReferenceBackend(), SEED, dtype)
    return {p.name: p.data for p in parameters}


def build_with_values(case: Case, backend: Backend, dtype: np.dtype) -> Model:
    """Return the network with a copy of its initial values on `backend`."""
    model = case.build()
    values = initial_values(case, dtype)
    for parameter in model.parameters():
        parameter.set_data(backend.from_host(values[parameter.name].copy()), backend)
    return model


def compute(case: Case, model: Model, backend: Backend, dtype: np.dtype) -> Outcome:
    """Return what `model` gives on the case's batch. Its gradients are set, for an update to follow."""
    acts = model.trunk(tensor(backend.from_host(case.images(dtype)), backend), case.context())
    logits = model.head(acts, case.context())
    loss = sharded_loss(model.loss, logits, case.labels(), SerialCommunicator())
    backward(loss, backend.xp.full((), 1.0 / case.batch, dtype))
    grads = {p.name: backend.to_host(p.grad) for p in model.parameters()}
    return Outcome(backend.to_host(logits.data), float(backend.to_host(loss.data)) / case.batch, grads)


def relative_error(measured: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of an element, relative to the largest expected element."""
    assert measured.shape == expected.shape, (measured.shape, expected.shape)
    return float(np.abs(measured - expected).max() / np.abs(expected).max())
