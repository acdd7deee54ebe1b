"""A chain of small layers, and ranks that train it: what the tests of weight synchronisation share."""

import numpy as np

from owt_mpi.autograd import Parameter, Tensor, backward, tensor
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.nn.init import Constant
from owt_mpi.ops.linear import LinearOp, linear
from owt_mpi.ops.relu import relu
from owt_mpi.optim import MomentumSGD
from owt_mpi.parallel.grad_sync import GradSync
from tests.comm.recording import RecordingCommunicator
from tests.op_check import REFERENCE

NUM_LAYERS = 4
MATRIX_BYTES = 6 * 6 * 8
LAYER_BYTES = MATRIX_BYTES + 6 * 8


class TwoAlike(SerialCommunicator):
    """Rank 0 of two, the other of which has the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 2

    def start_all_reduce(self, x, out=None):
        return super().start_all_reduce(2 * x, out)

    def start_reduce_scatter(self, x, axis=0):
        return super().start_reduce_scatter(np.split(2 * x, 2, axis)[0], axis)

    def start_all_gather(self, x, axis=0):
        return super().start_all_gather(np.concatenate([x, x], axis), axis)

    def start_all_to_all(self, x, split_axis, concat_axis):
        own = np.split(x, 2, split_axis)[0]
        return super().start_all_to_all(np.concatenate([own, own], concat_axis), split_axis, concat_axis)


def sgd(parameters: list[Parameter]) -> MomentumSGD:
    """Return an optimizer of which every term matters."""
    return MomentumSGD(parameters, REFERENCE, momentum=0.7, weight_decay=0.1, bias_lr_multiplier=3.0)


def make_parameters() -> list[Parameter]:
    """Return weight, bias, weight, bias, ... with the same values on every rank."""
    parameters = []
    for i in range(NUM_LAYERS):
        for kind, shape in (("weight", (6, 6)), ("bias", (6,))):
            parameter = Parameter(shape, Constant(0.0), is_bias=kind == "bias")
            parameter.name = f"layer{i}.{kind}"
            parameter.set_data(np.random.default_rng((i, len(shape))).standard_normal(shape), REFERENCE)
            parameters.append(parameter)
    return parameters


def forward(parameters: list[Parameter], rows: np.ndarray) -> Tensor:
    y = tensor(rows, REFERENCE)
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        y = relu(linear(y, weight, bias))
    return y


def rows_of(rank: int, step: int = 0) -> np.ndarray:
    return np.random.default_rng((100 + rank, step)).standard_normal((3, 6))


def train(parameters: list[Parameter], sync: GradSync, rank: int, num_steps: int = 5) -> list[np.ndarray]:
    """Train by this rank's rows and return the weights."""
    for step in range(num_steps):
        y = forward(parameters, rows_of(rank, step))
        with sync:
            backward(y, np.ones((3, 6)))
        sync.start_step(0.01).wait()
    return [p.data.copy() for p in parameters]


def train_alone(num_ranks: int, num_steps: int = 5) -> list[np.ndarray]:
    """Return the weights that one rank gets from the rows of all."""
    parameters = make_parameters()
    optimizer = sgd(parameters)
    for step in range(num_steps):
        for rank in range(num_ranks):
            backward(forward(parameters, rows_of(rank, step)), np.ones((3, 6)))
        optimizer.step(0.01)
    return [p.data for p in parameters]


def events_of_step(sync_type: type[GradSync], comm: Communicator, monkeypatch, *options) -> list[str]:
    """Return what is started and waited for in a step, and between what; `options` go to the synchronisation."""
    events: list[str] = []
    parameters = make_parameters()
    sync = sync_type(parameters, RecordingCommunicator(comm, events), REFERENCE, sgd, *options)
    plain_backward, plain_step = LinearOp.backward, MomentumSGD.step
    y = forward(parameters, rows_of(0))

    def noted_backward(self, gy):
        events.append("backward of a layer")
        return plain_backward(self, gy)

    def noted_step(self, lr, grad_scale=1.0, skip=None):
        events.append("update")
        plain_step(self, lr, grad_scale, skip)

    with monkeypatch.context() as patch:
        patch.setattr(LinearOp, "backward", noted_backward)
        patch.setattr(MomentumSGD, "step", noted_step)
        with sync:
            backward(y, np.ones((3, 6)))
        weights = sync.start_step(0.01)
        events.append("other work")
        weights.wait()
    return events
