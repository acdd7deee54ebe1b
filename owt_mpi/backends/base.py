"""The contract every compute backend fulfils: what an array library's element-wise maths and matmul cannot do well.

Shapes: activations are (n, h, w, c), C-contiguous; convolution weights (c_out, kh, kw, c_in); biases (c_out,).
Letters: `x` input, `y` output, `w` weight, `b` bias, `gx gy gw gb` their gradients. `Pair` is (vertical, horizontal).
All arrays of one call have one dtype; results are new arrays of that dtype, C-contiguous and owned by the caller.
Where that is float16 or bfloat16, an operation adds up in float32 and rounds its results once; losses are computed from
float32 (or float64) logits.
Inputs may be views of any strides and are left as they are, but for momentum_sgd, which updates in place. Operations
raise TypeError for a dtype that is not in `dtypes` or differs between arrays, and ValueError for shapes, strides and
pads that do not fit one another. Several threads may use one backend at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray
Pair = tuple[int, int]
Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class DropoutMask:
    """Which elements of x (n, ...) a dropout keeps, times `scale`, at a `rate` of dropping.

    Element (i, j) is kept or not by element rows[i] * num_columns + first_column + j of the stream `key`: `rows`, int64
    (n,), are the examples' places in the whole batch, and x holds the columns from `first_column` of `num_columns`.
    """

    rate: float
    key: int
    rows: np.ndarray
    first_column: int
    num_columns: int
    scale: float


class Memory(NamedTuple):
    """Memory that ends, in bytes: what is free now and all of it, and what may be swapped out, at a loss of speed.

    `name` is for people; `key` is the same for all processes of a node that share it, and for no other memory there.
    """

    name: str
    key: str
    free: int
    total: int
    swap: int = 0


class Backend(Protocol):
    """Compute on one rank's device. Knows nothing of ranks, layers or gradients of anything but its own operations."""

    name: str
    xp: ModuleType  # numpy or cupy: element-wise maths, reductions and matmul
    device: str | None  # what no other GPU of the node is called; None where arrays are the host's
    dtypes: tuple[np.dtype[Any], ...]  # what the operations below accept

    def from_host(self, array: np.ndarray) -> Array:
        """Return `array` on the device (the same object where the device is the host)."""
        ...

    def host_empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        """Return new memory on the host, C-contiguous; what is started from it crosses to the device at full speed."""
        ...

    def start_normalise(
        self,
        pixels: np.ndarray,
        flips: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        colours: np.ndarray | None,
        dtype: np.dtype[Any],
    ) -> Callable[[], Array]:
        """Start to bring images to the device as ((pixels - mean) + colours) * scale; return what gives them, once.

        `pixels`, uint8 (n, h, w, c) from `host_empty`, belong to the backend from now on; images where `flips`, bool
        (n,), is set are mirrored from left to right. mean and scale are (c,), colours (n, c) or None for 0; each of the
        three steps is rounded to `dtype`, float32 where that is a half, which the result is then rounded to.
        A thread that prepares batches calls this; what is returned is called by the thread that computes on the images:
        its work comes after their arrival, and neither thread waits for that.
        """
        ...

    def to_host(self, array: Array) -> np.ndarray:
        """Return a NumPy array with the values of `array`, complete when this returns."""
        ...

    def start_to_host(self, array: Array) -> Callable[[], np.ndarray]:
        """Start to copy `array` to the host; return what waits for the copy and gives it, once.

        It comes behind the work that was started before and waits for none that is started later, none of which may
        change `array`.
        """
        ...

    def synchronize(self) -> None:
        """Wait until all work issued so far is done."""
        ...

    def memory(self) -> list[Memory]:
        """Return every limit of the memory that arrays live in, as far as it is known."""
        ...

    def set_num_threads(self, num_threads: int) -> None:
        """Use that many CPU threads in the calling thread's operations from now on.

        The BLAS under NumPy knows one number for the whole process, so threads that compute at once agree on it.
        """
        ...

    def replayable(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return `function`, or what calls it twice and from then on starts again what its second call started.

        `function` takes arrays of the device, and must start the same work on them whenever it is called. Replayed, it
        returns the object of its second call: arrays there are overwritten. It is called as it is where its arguments
        are not like those of its first call. One thread calls all replayable functions, always in the same order.
        """
        ...

    def each_time(self, call: Callable[[], None]) -> None:
        """Make `call`; in a replayable function, every time that it is called, between the work before and after it."""
        ...

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        """Return the cross-correlation y[n, i, j, o] = sum x[n, i*s+a-p, j*s+e-p, c] * w[o, a, e, c] (+ b[o]).

        With `relu`, max(y, 0).
        """
        ...

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        """Return the gradient of conv2d with respect to x, shape `x_shape`."""
        ...

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        """Return the gradients of conv2d with respect to w and, if `with_bias`, to b (else None)."""
        ...

    def max_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, Array]:
        """Return (y, workspace): window maxima; padding never wins, so pad must be smaller than the kernel.

        The workspace is for max_pool2d_grad alone; what it holds is the backend's own affair.
        """
        ...

    def max_pool2d_grad(
        self, gy: Array, workspace: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> Array:
        """Return gx: each gy goes to the first maximum of its window in row-major order."""
        ...

    def avg_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Array:
        """Return window means over the elements inside the image: padding is not counted."""
        ...

    def avg_pool2d_grad(self, gy: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        """Return gx of avg_pool2d."""
        ...

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Array]:
        """Return (y, workspace) with y = x / (k + alpha * S)**beta, S = sum of x**2 over `size` channels around.

        `size` is odd; the window of channel c is c - size//2 .. c + size//2, cut at the ends. alpha is NOT divided by
        the size here (as in Krizhevsky 2012; torch and oneDNN divide: there alpha' = alpha * size).
        """
        ...

    def lrn_grad(self, gy: Array, x: Array, workspace: Array, size: int, alpha: float, beta: float, k: float) -> Array:
        """Return gx of lrn."""
        ...

    def linear(self, x: Array, w: Array, b: Array | None, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        """Return x w' (+ b), with `relu` max(., 0), with `drop` dropout of that, of x (n, inputs), w (outputs, inputs).

        `drop` comes with `relu`, here and below: the gradient of both is relu_grad with the mask's scale.
        """
        ...

    def linear_grad_x(self, gy: Array, w: Array) -> Array:
        """Return the gradient of linear with respect to x, gy w."""
        ...

    def linear_grad_w(self, gy: Array, x: Array) -> Array:
        """Return the gradient of linear with respect to w, gy' x."""
        ...

    def add_bias(self, x: Array, b: Array, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        """Return x + b, with `relu` max(., 0), with `drop` dropout of that, of x (n, columns) and b (columns,)."""
        ...

    def bias_grad(self, gy: Array) -> Array:
        """Return the gradient of add_bias with respect to b: the sum of the rows of gy."""
        ...

    def relu(self, x: Array, drop: DropoutMask | None = None) -> Array:
        """Return max(x, 0), element by element, with `drop` dropout of that."""
        ...

    def relu_grad(self, gy: Array, y: Array, scale: float = 1.0) -> Array:
        """Return gx of y = relu(x): scale * gy where y > 0, else 0.

        Of y = relu(x, drop) too, with scale = drop.scale, which is 1 or more: what was dropped is 0 in y.
        """
        ...

    def dropout(self, x: Array, mask: DropoutMask) -> tuple[Array, Any]:
        """Return (y, workspace): x * scale where `mask` keeps it, else 0."""
        ...

    def dropout_grad(self, gy: Array, mask: DropoutMask, workspace: Any) -> Array:
        """Return gx of dropout."""
        ...

    def logistic_loss(self, z: Array, labels: np.ndarray, first_class: int) -> tuple[Array, Array]:
        """Return (loss, gz): the sum over rows and classes of log(1 + exp(z)) - t z, shape (), and its gradient.

        z (n, classes) are logits of classes first_class, first_class + 1, ...; `labels`, int64 (n,) on the host, say
        where t is 1, else 0. Rows with a negative label count nothing.
        """
        ...

    def softmax_max(self, z: Array) -> Array:
        """Return the maximum of each row of z (n, classes), (n, 1)."""
        ...

    def softmax_sum(self, z: Array, row_max: Array) -> Array:
        """Return the sum over each row of exp(z - row_max), (n, 1)."""
        ...

    def softmax_loss(
        self, z: Array, row_max: Array, row_sum: Array, labels: np.ndarray, first_class: int
    ) -> tuple[Array, Array]:
        """Return (loss, gz): the sum over rows of log(row_sum) + row_max - z[label], shape (), and the gradient of z.

        Where z is a block of the classes, `row_max` and `row_sum` are over all of them, and a row's loss is counted by
        the block that holds its label; see logistic_loss.
        """
        ...

    def momentum_sgd(
        self,
        w: Array,
        v: Array,
        g: Array,
        lr: float,
        momentum: float,
        weight_decay: float,
        scale: float = 1.0,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """Update in place: v := momentum * v - lr * (scale * g + weight_decay * w);  w := w + v;  copy := w.

        All C-contiguous. w and v have one dtype, which is float32 where g, or `copy`, which gets the new weights
        rounded, is float16 or bfloat16. Where `skip`, int32 (1,), is not 0, all is left as it is.
        """
        ...

    def find_overflow(self, arrays: Sequence[Array]) -> Array:
        """Return 1 if a number of the arrays is infinite or NaN, else 0: int32 (1,), for momentum_sgd to skip by."""
        ...


def pooled_size(size: int, kernel: int, stride: int, pad: int) -> int:
    """Return how many windows fit along one axis: floor((size + 2 * pad - kernel) / stride) + 1."""
    return (size + 2 * pad - kernel) // stride + 1
