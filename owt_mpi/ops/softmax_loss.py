"""Cross-entropy of the softmax over classes, for all classes or a block of them."""

from collections.abc import Callable

import numpy as np

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.labels import check_labels

Combine = Callable[[Array], Array]


class SoftmaxLossOp(Op):
    """logits z (n, classes) -> the scalar sum over rows whose label is in this block of log(sum exp z) - z[label]."""

    def __init__(self, labels: np.ndarray, first_class: int, combine_max: Combine, combine_sum: Combine) -> None:
        self.labels, self.first_class = labels, first_class
        self.combine_max, self.combine_sum = combine_max, combine_sum

    def out_shape(self, *shapes: Shape) -> Shape:
        check_labels("softmax_loss", shapes[0], self.labels)
        return ()

    def forward(self, *xs: Array) -> Array:
        (z,) = xs
        row_max = self.combine_max(self.backend.softmax_max(z))
        row_sum = self.combine_sum(self.backend.softmax_sum(z, row_max))
        loss, self.gz = self.backend.softmax_loss(z, row_max, row_sum, self.labels, self.first_class)
        return loss

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.gz * gy,)


def softmax_loss(
    logits: Tensor,
    labels: np.ndarray,
    first_class: int = 0,
    combine_max: Combine = lambda row_max: row_max,
    combine_sum: Combine = lambda row_sum: row_sum,
) -> Tensor:
    """Return the summed cross-entropy of logits for classes first_class, first_class + 1, ...

    Where the logits are a block of the classes, `combine_max` and `combine_sum` turn a column (n, 1) of this block's
    row maxima and row sums into those over all classes. The loss of a row is counted by the block that holds its
    label; the gradient is exact in every block. Rows with a negative label count nothing.
    """
    return SoftmaxLossOp(labels, first_class, combine_max, combine_sum)(logits)
