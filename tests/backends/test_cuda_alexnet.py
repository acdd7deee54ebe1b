"""alexnet-owt, an eighth as wide, trained on the stand-in for CuPy by every scheme of the paper on 1, 2 and 4 ranks.

It has what the tiny network has not: strides and padding of several sizes, LRN over 5 channels, windows that overlap,
more channels than a pack, a logistic loss of the paper's initial values.
"""

import functools

import numpy as np
import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.checkpoint.weights import whole_parameter
from owt_mpi.comm.staged import staged
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.init import Normal, initialise
from owt_mpi.nn.layers import Conv2d, Linear
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.models import alexnet_owt
from owt_mpi.nn.module import Module, Sequential
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.proof.compare import new_config, own_part
from owt_mpi.proof.problem import Problem
from owt_mpi.proof.serial_program import train_serially
from owt_mpi.trainer import Trainer
from tests.fake_cupy import RACES

NARROWER = 8
TOLERANCE = 1e-3  # of what training changes in a parameter; a unit that rounding turns on or off makes up to 3e-4 of it


def narrow_alexnet(spec: InputSpec) -> Model:
    """Return the shipped network with an eighth of its filters and units."""
    shipped = alexnet_owt(spec)
    trunk = Sequential({name: narrowed(layer) for name, layer in shipped.trunk.layers.items()})
    inputs, head = num_features(trunk, spec), dict[str, Module]()
    for name, layer in shipped.head.layers.items():
        if isinstance(layer, Linear):
            outputs = layer.outputs // (1 if layer.outputs == spec.num_classes else NARROWER)
            head[name] = Linear(inputs, outputs, wider(layer.weight.init), layer.bias.init)
            inputs = outputs
        else:
            head[name] = layer
    return Model("narrow", spec, trunk, Sequential(head), shipped.loss)


def narrowed(layer: Module) -> Module:
    if not isinstance(layer, Conv2d):
        return layer
    c_out, kernel, _, c_in = layer.weight.shape
    c_in = c_in if c_in == 3 else c_in // NARROWER
    return Conv2d(c_in, c_out // NARROWER, kernel, layer.stride, layer.pad, wider(layer.weight.init), layer.bias.init)


def wider(init: Normal) -> Normal:
    """Return what makes sums over fewer terms as large."""
    return Normal(init.std * NARROWER**0.5)


PROBLEM = Problem(narrow_alexnet, InputSpec(63, 3, 8), 16, num_steps=1, dtype=np.dtype(np.float32), seed=1, lr=1.0)


@functools.cache
def on_the_reference():
    """Return the parameters before and after training."""
    parameters, backend = PROBLEM.new_model().parameters(), ReferenceBackend()
    initialise(parameters, backend, PROBLEM.seed, PROBLEM.dtype)
    trained = train_serially(PROBLEM, np.zeros(PROBLEM.batch_size, np.int64), backend)
    return {p.name: p.data for p in parameters}, trained.values


def train(comm, plan):
    backend = CudaBackend()
    world = staged(comm, backend)
    plan.check(PROBLEM.new_model(), PROBLEM.batch_size // comm.size)
    layout = make_layout(world, plan)
    trainer = Trainer(new_config(PROBLEM), PROBLEM.new_model(), layout, backend, PROBLEM.batch_size)
    for step in range(PROBLEM.num_steps):
        trainer.train_step(own_part(PROBLEM, step, world, backend), step)
    parameters = trainer.trunk.parameters() + trainer.head.parameters()
    return {p.name: np.array(whole_parameter(p, layout.head)) for p in parameters}


@pytest.mark.parametrize(
    ("num_ranks", "scheme"), [(1, "c"), *((k, scheme) for k in (2, 4) for scheme in ("a", "b", "c", "d"))]
)
def test_k_ranks_train_the_network_of_the_reference(cuda, num_ranks, scheme):
    before, after = on_the_reference()
    for parameters in run_ranks(num_ranks, lambda comm: train(comm, Plan(num_ranks, scheme))):
        assert parameters.keys() == after.keys()
        for name, values in after.items():
            change = np.linalg.norm(values - before[name])
            assert change > 1e-4 * np.linalg.norm(values), name  # more than rounding makes of TOLERANCE
            assert np.linalg.norm(parameters[name] - values) < TOLERANCE * change, name
    assert RACES == []
