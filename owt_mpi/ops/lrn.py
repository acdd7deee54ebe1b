"""Local response normalisation across channels."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class LrnOp(Op):
    """y = x / (k + alpha * S)**beta, S the sum of x**2 over the `size` channels around; alpha is not divided."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        self.settings = (size, alpha, beta, k)

    def out_shape(self, *shapes: Shape) -> Shape:
        check_rank("lrn", "x", shapes[0], "n h w c")
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        (self.x,) = xs
        y, self.workspace = self.backend.lrn(self.x, *self.settings)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.backend.lrn_grad(gy, self.x, self.workspace, *self.settings),)


def lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return x normalised by its neighbours across channels (Krizhevsky et al. 2012, section 3.3); `size` is odd."""
    if size % 2 == 0 or size < 1:
        raise ValueError(f"lrn: size is {size}, but must be odd, so that the window has a middle channel")
    return LrnOp(size, alpha, beta, k)(x)
