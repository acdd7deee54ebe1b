"""Cross-entropy of independent logistic units, one a class: the loss of the paper's network."""

import numpy as np

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.labels import check_labels


class LogisticLossOp(Op):
    """logits z (n, classes) -> the scalar sum over rows and classes of log(1 + exp(z)) - t z, t = 1 at the label."""

    def __init__(self, labels: np.ndarray, first_class: int) -> None:
        self.labels, self.first_class = labels, first_class

    def out_shape(self, *shapes: Shape) -> Shape:
        check_labels("logistic_loss", shapes[0], self.labels)
        return ()

    def forward(self, *xs: Array) -> Array:
        loss, self.gz = self.backend.logistic_loss(xs[0], self.labels, self.first_class)
        return loss

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.gz * gy,)


def logistic_loss(logits: Tensor, labels: np.ndarray, first_class: int = 0) -> Tensor:
    """Return the summed cross-entropy of logits for classes first_class, first_class + 1, ...

    The classes do not interact, so a rank with a block of them has its block's part of the loss, and no more is
    needed. Rows with a negative label count nothing.
    """
    return LogisticLossOp(labels, first_class)(logits)
