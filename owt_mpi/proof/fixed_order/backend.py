"""A backend that computes a batch piece by piece, and adds up what it makes in one order."""

from collections.abc import Callable
from typing import Any

from owt_mpi.backends.base import Array, Backend, Pair, Shape
from owt_mpi.backends.wrapper import BackendWrapper
from owt_mpi.proof.fixed_order.pieces import Pieces, pairwise_sum


class UnsteadyOperation(ArithmeticError):
    """An operation does not give the same bits for the same input, so no order of sums makes ranks equal."""


class FixedOrderBackend(BackendWrapper):
    """`inner`, every call of which gets one piece: of the rows of images, or of the classes.

    While `checks`, it makes every call twice, and raises UnsteadyOperation where the two differ in a bit.
    """

    def __init__(self, inner: Backend, pieces: Pieces, num_classes: int, checks: bool = False) -> None:
        super().__init__(inner)
        self._rows, self._classes = pieces.rows, num_classes // pieces.count
        self.checks = checks

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        return self._joined("conv2d", lambda x: self._inner.conv2d(x, w, b, stride, pad, relu), x)

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        shape = (self._rows, *x_shape[1:])
        return self._joined("conv2d_grad_x", lambda gy: self._inner.conv2d_grad_x(gy, w, stride, pad, shape), gy)

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        """Sum over pieces of the rows."""

        def call(gy: Array, x: Array) -> tuple[Array, Array | None]:
            return self._inner.conv2d_grad_w(gy, x, stride, pad, w_shape, with_bias)

        gw, gb = zip(*self._each("conv2d_grad_w", call, gy, x), strict=True)
        return pairwise_sum(self.xp.stack(gw)), pairwise_sum(self.xp.stack(gb)) if with_bias else None

    def max_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, list[Array]]:
        return self._with_workspaces("max_pool2d", lambda x: self._inner.max_pool2d(x, kernel, stride, pad), x)

    def max_pool2d_grad(
        self, gy: Array, workspace: list[Array], kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> Array:
        def call(gy: Array, own: Array) -> Array:
            return self._inner.max_pool2d_grad(gy, own, kernel, stride, pad, (self._rows, *x_shape[1:]))

        return self._joined("max_pool2d_grad", call, gy, workspaces=workspace)

    def avg_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Array:
        return self._joined("avg_pool2d", lambda x: self._inner.avg_pool2d(x, kernel, stride, pad), x)

    def avg_pool2d_grad(self, gy: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        shape = (self._rows, *x_shape[1:])
        return self._joined(
            "avg_pool2d_grad", lambda gy: self._inner.avg_pool2d_grad(gy, kernel, stride, pad, shape), gy
        )

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, list[Array]]:
        return self._with_workspaces("lrn", lambda x: self._inner.lrn(x, size, alpha, beta, k), x)

    def lrn_grad(
        self, gy: Array, x: Array, workspace: list[Array], size: int, alpha: float, beta: float, k: float
    ) -> Array:
        def call(gy: Array, x: Array, own: Array) -> Array:
            return self._inner.lrn_grad(gy, x, own, size, alpha, beta, k)

        return self._joined("lrn_grad", call, gy, x, workspaces=workspace)

    def softmax_sum(self, z: Array, row_max: Array) -> Array:
        """Sum over pieces of the classes."""
        blocks = (z[:, first : first + self._classes] for first in range(0, z.shape[1], self._classes))
        parts = [self._inner.softmax_sum(self.xp.ascontiguousarray(block), row_max) for block in blocks]
        return pairwise_sum(self.xp.stack(parts))

    def _each(
        self, operation: str, call: Callable[..., Any], *arrays: Array, workspaces: list[Array] | None = None
    ) -> list[Any]:
        """Return what `call` makes of each piece of the rows of `arrays`, and of its workspace where it needs one."""
        results = []
        for p, first in enumerate(range(0, len(arrays[0]), self._rows)):
            piece = [self.xp.ascontiguousarray(array[first : first + self._rows]) for array in arrays]
            if workspaces is not None:
                piece.append(workspaces[p])
            results.append(call(*piece))
            if self.checks and not _same_bits(results[-1], call(*piece)):
                raise UnsteadyOperation(
                    f"{operation} of {self.name} gives other bits when it is called again with the same input of shape "
                    f"{tuple(piece[0].shape)}: the library adds up in an order of its own each time; use another "
                    "--backend"
                )
        return results

    def _joined(
        self, operation: str, call: Callable[..., Array], *arrays: Array, workspaces: list[Array] | None = None
    ) -> Array:
        return self.xp.concatenate(self._each(operation, call, *arrays, workspaces=workspaces))

    def _with_workspaces(
        self, operation: str, call: Callable[[Array], tuple[Array, Array]], x: Array
    ) -> tuple[Array, list[Array]]:
        """Return the joined outputs, and the workspaces of the pieces."""
        outputs, workspaces = zip(*self._each(operation, call, x), strict=True)
        return self.xp.concatenate(outputs), list(workspaces)


def _same_bits(one: Any, other: Any) -> bool:
    """Return whether two results have the same first array, and second where that is a gradient too."""
    if isinstance(one, tuple):
        return all(_same_bits(a, b) for a, b in zip(one, other, strict=True))
    return one is None or one.tobytes() == other.tobytes()
