"""Momentum SGD as in the paper, the learning-rate schedule, and the rules that tie the rate to the batch size."""

from collections.abc import Sequence
from math import sqrt
from typing import Literal

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array, Backend
from owt_mpi.backends.precision import exact_dtype

LrRule = Literal["linear", "sqrt", "none"]


class MomentumSGD:
    """v := momentum v - rate (grad + weight_decay w);  w := w + v.

    Biases learn at `bias_lr_multiplier` times the rate and do not decay, as in the author's released configuration.
    Where a parameter is rounded to a half type, its float32 master weights are what changes, by float32 momentum: most
    updates are smaller than the spacing of halves, and would be lost. The rounded weights are written in the same pass.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        backend: Backend,
        momentum: float = 0.9,
        weight_decay: float = 0.0005,
        bias_lr_multiplier: float = 2.0,
    ) -> None:
        self.parameters, self._backend = parameters, backend
        self.momentum, self.weight_decay, self.bias_lr_multiplier = momentum, weight_decay, bias_lr_multiplier
        self.velocities = [backend.xp.zeros(p.shape, exact_dtype(p.dtype)) for p in parameters]

    def step(self, lr: float, grad_scale: float = 1.0, skip: Array | None = None) -> None:
        """Update every parameter by `grad_scale` times its gradient, in place, and forget the gradients.

        Where `skip`, int32 (1,), is not 0, they are forgotten and nothing is updated.
        """
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            assert parameter.grad is not None, f"{parameter.name} has no gradient"
            rate, decay = (lr * self.bias_lr_multiplier, 0.0) if parameter.is_bias else (lr, self.weight_decay)
            rounded = parameter.data if parameter.master is not None else None
            self._backend.momentum_sgd(
                parameter.exact, velocity, parameter.grad, rate, self.momentum, decay, grad_scale, rounded, skip
            )
            parameter.clear_grad()


def lr_for_batch(lr: float, base_batch: int, batch: int, rule: LrRule) -> float:
    """Return the rate for `batch`, given that `lr` is right for `base_batch`; k = batch / base_batch.

    "linear": lr k, which the author found to work better; "sqrt": lr sqrt(k), which keeps the variance of the
    gradient's expectation; "none": lr (paper, section 5).
    """
    k = batch / base_batch
    return lr * {"linear": k, "sqrt": sqrt(k), "none": 1.0}[rule]


def schedule_factor(progress: float, milestones: Sequence[float], factor: float) -> float:
    """Return what multiplies the rate at `progress` in [0, 1) of the training: `factor` for each milestone passed."""
    return float(factor ** sum(progress >= milestone for milestone in milestones))
