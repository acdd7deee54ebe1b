"""The program that ranks are compared with: one process, a plain loop, the paper's definitions written out once more.

It shares layers, tape, backend and optimizer with the program that it is to judge, and nothing that knows of ranks:
which rows make a head batch, and what gradients are divided by, is worked out here a second time.
"""

from dataclasses import dataclass

import numpy as np

from owt_mpi.autograd import Parameter, Tensor, backward, tensor
from owt_mpi.backends.base import Backend
from owt_mpi.nn.init import initialise
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context
from owt_mpi.ops.logistic_loss import logistic_loss
from owt_mpi.ops.softmax_loss import softmax_loss
from owt_mpi.optim import MomentumSGD
from owt_mpi.proof.problem import Problem

LEAST_TERM = 2.0**-14  # what is smaller, float16 rounds as this


@dataclass(frozen=True)
class Trained:
    """A network after its training: the values of each parameter, and how far training moved them.

    `moved` is the largest change of an element, relative to the parameter's largest element.
    """

    values: dict[str, np.ndarray]
    moved: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether the training did not diverge."""
        return all(bool(np.isfinite(values).all()) for values in self.values.values())


def head_batch_of_rows(
    scheme: str, senders: int, group_size: int, num_ranks: int, batch_size: int, passes_per_update: int
) -> np.ndarray:
    """Return for each row of the whole batch which update of the head it belongs to: 0, 1, ..., int64 (batch_size,).

    Row i is row i mod n of rank i div n (n images a rank), which is member (rank mod G) of its group. It reaches the
    head in pass
    (dp), (a): 0, there is one;
    (b): the number of its rank in the group, as the ranks send one after the other;
    (c), (d): that of the n/G rows of its rank among which it is, as each rank sends its first n/G rows in pass 0;
    `senders` ranks a pass: they take turns, and each turn lasts as many passes, n/senders rows in each.
    The head is updated every `passes_per_update` passes; 0: once, with all rows.
    """
    images_per_rank = batch_size // num_ranks
    ranks, rows = np.divmod(np.arange(batch_size), images_per_rank)
    members = ranks % group_size
    if scheme in ("dp", "a") or passes_per_update == 0:
        return np.zeros(batch_size, dtype=np.int64)
    if senders:
        passes = members // senders * senders + rows * senders // images_per_rank
    elif scheme == "b":
        passes = members
    else:
        passes = rows * group_size // images_per_rank
    return np.asarray(passes // passes_per_update)


def train_serially(problem: Problem, head_batch_of_row: np.ndarray, backend: Backend) -> Trained:
    """Return the network after the training, its head updated once for each head batch, its trunk once a step."""
    model = problem.new_model()
    initialise(model.parameters(), backend, problem.seed, problem.dtype)
    before = _values_of(model.parameters(), backend)
    options = problem.optimizer
    settings = (options.momentum, options.weight_decay, options.bias_lr_multiplier)
    trunk_sgd = MomentumSGD(model.trunk.parameters(), backend, *settings)
    head_sgd = MomentumSGD(model.head.parameters(), backend, *settings)
    batch_size = problem.batch_size
    for step in range(problem.num_steps):
        images, labels = problem.batch(step)
        ctx = Context(True, np.arange(batch_size), problem.seed, step)
        acts = model.trunk(tensor(backend.from_host(images), backend), ctx)
        acts_here, grad_acts = backend.to_host(acts.data), np.zeros(acts.shape, acts.dtype)
        for update in range(int(head_batch_of_row.max()) + 1):
            rows = np.flatnonzero(head_batch_of_row == update)
            share = len(rows) / batch_size
            inputs = tensor(backend.from_host(acts_here[rows]), backend, requires_grad=True)
            logits = model.head(inputs, Context(True, rows, problem.seed, step))
            loss = _summed_loss(model, logits, labels[rows])
            backward(loss, backend.xp.full((), 1.0 / len(rows), problem.dtype))  # the mean over the head's batch
            # of the mean over the whole batch
            grad_acts[rows] = backend.to_host(inputs.grad) * problem.dtype.type(share)
            head_sgd.step(options.lr * share)
        if acts.requires_grad:
            backward(acts, backend.from_host(grad_acts))
        trunk_sgd.step(options.lr)
    after = _values_of(model.parameters(), backend)
    moved = {name: _change(before[name], values) for name, values in after.items()}
    return Trained(after, moved)


def update_magnitudes(problem: Problem, trained: Trained, num_parts: int, backend: Backend) -> dict[str, float]:
    """Return how large the first update of each parameter is if no part of the batch pulls against another.

    That is the largest element of the rate times the sum of the magnitudes of the parts' gradients, relative to the
    parameter's largest element in `trained`. The batch is in `num_parts` parts of successive rows, as the ranks'. A
    magnitude counts as at least LEAST_TERM.
    """
    model = problem.new_model()
    parameters = model.parameters()
    initialise(parameters, backend, problem.seed, problem.dtype)
    images, labels = problem.batch(0)
    sums = {parameter.name: backend.xp.zeros(parameter.shape, problem.dtype) for parameter in parameters}
    for rows in np.split(np.arange(problem.batch_size), num_parts):
        ctx = Context(True, rows, problem.seed, 0)
        logits = model.head(model.trunk(tensor(backend.from_host(images[rows]), backend), ctx), ctx)
        loss = _summed_loss(model, logits, labels[rows])
        backward(loss, backend.xp.full((), 1.0 / problem.batch_size, problem.dtype))
        for parameter in parameters:
            sums[parameter.name] += backend.xp.maximum(backend.xp.abs(parameter.grad), LEAST_TERM)
            parameter.clear_grad()
    options = problem.optimizer
    rates = {p.name: options.lr * (options.bias_lr_multiplier if p.is_bias else 1.0) for p in parameters}
    return {
        name: rates[name] * float(backend.xp.abs(total).max()) / (float(np.abs(trained.values[name]).max()) or 1.0)
        for name, total in sums.items()
    }


def _summed_loss(model: Model, logits: Tensor, labels: np.ndarray) -> Tensor:
    return (logistic_loss if model.loss == "logistic" else softmax_loss)(logits, labels)


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """Return the largest change of an element, relative to the largest element."""
    return float(np.abs(after - before).max()) / (float(np.abs(after).max()) or 1.0)


def _values_of(parameters: list[Parameter], backend: Backend) -> dict[str, np.ndarray]:
    return {p.name: np.array(backend.to_host(p.data)) for p in parameters}
