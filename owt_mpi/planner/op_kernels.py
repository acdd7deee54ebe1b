"""The kernels of one operation, forward and backward, none of them fused with another."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from owt_mpi.autograd import Op
from owt_mpi.backends.base import Shape
from owt_mpi.ops.add import AddOp
from owt_mpi.ops.add_bias import AddBiasOp
from owt_mpi.ops.avg_pool2d import AvgPool2dOp
from owt_mpi.ops.block_columns import BlockColumnsOp
from owt_mpi.ops.block_linear import BlockLinearOp
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.dropout import DropoutOp
from owt_mpi.ops.flatten import FlattenOp
from owt_mpi.ops.linear import LinearOp
from owt_mpi.ops.lrn import LrnOp
from owt_mpi.ops.max_pool2d import MaxPool2dOp
from owt_mpi.ops.pool2d import Pool2dOp
from owt_mpi.ops.relu import ReluOp
from owt_mpi.parallel.collective_ops import AllGatherOp, ReduceScatterOp
from owt_mpi.planner.kernel import Kernel, Operand


@dataclass(frozen=True)
class Call:
    """An operation of a step, and the arrays it is applied to."""

    layer: str
    op: Op
    inputs: tuple[Operand, ...]
    output: Operand
    itemsize: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of the inputs."""
        return tuple(x.shape for x in self.op.inputs)

    @property
    def output_size(self) -> int:
        """The number of elements of the output."""
        return prod(self.op.out_shape(*self.shapes))


@dataclass(frozen=True)
class Work:
    """What a call makes a step do: kernels forward, and kernels backward in the order in which they run."""

    forward: tuple[Kernel, ...] = ()
    backward: tuple[Kernel, ...] = ()


def grad_of(operand: Operand) -> Operand:
    """Return the gradient of `operand`."""
    return Operand(f"gradient of {operand.name}", operand.num_bytes)


def kernels_of(call: Call) -> Work:
    """Return the kernels of `call`. An operation that has no rule here reads and writes what the tape hands it."""
    if isinstance(call.op, Conv2dOp | LinearOp | AddBiasOp) and call.op.relu:
        return _rectified(call)
    return _work(call)


def _work(call: Call) -> Work:
    return next((rule for kinds, rule in _RULES.items() if isinstance(call.op, kinds)), _unknown)(call)


def _rectified(call: Call) -> Work:
    """The operation, then a ReLU."""
    y = call.output
    before = Operand(f"{y.name} before ReLU", y.num_bytes)
    work = _work(replace(call, output=before))
    relu_grad = _other(call, "ReLU grad", (grad_of(y), y), (grad_of(before),))
    return Work(
        (*work.forward, _other(call, "ReLU", (before,), (y,))),
        (relu_grad, *work.backward) if any(call.op.needs_grad) else (),
    )


def _product(call: Call) -> Work:
    """Convolutions and linear layers: the factors x (and cross-talk features), w, and perhaps b."""
    kind = "conv" if isinstance(call.op, Conv2dOp) else "linear"
    flop = 2 * call.op.multiply_adds(*call.shapes)
    with_bias = len(call.shapes[-1]) == 1
    *factors, weight = call.inputs[:-1] if with_bias else call.inputs
    needs_grad = call.op.needs_grad
    product, gy = call.output, grad_of(call.output)
    forward, backward = [], []
    if with_bias:
        bias = call.inputs[-1]
        product = Operand(f"{call.output.name} without bias", call.output.num_bytes)
        forward = [_other(call, "bias", (product, bias), (call.output,))]
        if needs_grad[-1]:
            backward = [_other(call, "bias grad", (gy,), (grad_of(bias),))]
    if needs_grad[len(factors)]:
        backward.append(Kernel(call.layer, f"{kind} grad_w", (gy, *factors), (grad_of(weight),), flop))
    wanted = tuple(grad_of(x) for x, needed in zip(factors, needs_grad, strict=False) if needed)
    if wanted:
        backward.append(Kernel(call.layer, f"{kind} grad_x", (gy, weight), wanted, flop))
    return Work((Kernel(call.layer, kind, (*factors, weight), (product,), flop), *forward), tuple(backward))


def _relu(call: Call) -> Work:
    (x,), y = call.inputs, call.output
    return _one_input(call, _other(call, "ReLU", (x,), (y,)), _other(call, "ReLU grad", (grad_of(y), y), (grad_of(x),)))


def _pool(call: Call) -> Work:
    """Forward, a window of k elements costs k - 1 FLOP; backward, each gradient is added to its places.

    A maximum's place in its window is kept, in a byte: less than reading x and y again.
    """
    assert isinstance(call.op, Pool2dOp)
    (x,), y, area, windows = call.inputs, call.output, prod(call.op.kernel), call.output_size
    is_max = isinstance(call.op, MaxPool2dOp)
    places = (Operand(f"places of {y.name}", windows * (1 if area <= 256 else 2)),) if is_max else ()
    name = "max pool" if is_max else "average pool"
    return _one_input(
        call,
        Kernel(call.layer, name, (x,), (y, *places), other_flop=windows * (area - is_max)),
        Kernel(
            call.layer,
            f"{name} grad",
            (grad_of(y), *places),
            (grad_of(x),),
            other_flop=windows * (1 if is_max else area),
        ),
    )


def _lrn(call: Call) -> Work:
    """Backward the denominator is worked out again: cheaper than keeping it."""
    assert isinstance(call.op, LrnOp)
    (x,), y = call.inputs, call.output
    denominator = call.op.settings[0] + 2  # a square, a sum over the window, times alpha, plus k
    return _one_input(
        call,
        _other(call, "LRN", (x,), (y,), denominator + 2),
        _other(call, "LRN grad", (grad_of(y), x), (grad_of(x),), 2 * denominator + 5),
    )


def _dropout(call: Call) -> Work:
    """The mask is drawn again backward, from its counter."""
    (x,), y = call.inputs, call.output
    return _one_input(
        call, _other(call, "dropout", (x,), (y,)), _other(call, "dropout grad", (grad_of(y),), (grad_of(x),))
    )


def _add_bias(call: Call) -> Work:
    x, bias = call.inputs
    grad = _other(call, "bias grad", (grad_of(call.output),), (grad_of(bias),))
    return Work((_other(call, "bias", (x, bias), (call.output,)),), (grad,) if call.op.needs_grad[1] else ())


def _add(call: Call) -> Work:
    """Backward, both inputs take the output's gradient as it is."""
    return Work((_other(call, "add", call.inputs, (call.output,)),))


def _block_columns(call: Call) -> Work:
    (x,), y = call.inputs, call.output
    return _one_input(
        call,
        _other(call, "columns", (Operand(f"columns of {x.name}", y.num_bytes),), (y,), 0),
        _other(call, "columns grad", (grad_of(y),), (grad_of(x),), 0),
    )


def _nothing(call: Call) -> Work:
    """Views, and what crosses the wire."""
    return Work()


def _unknown(call: Call) -> Work:
    """Forward once, and backward for each gradient as much arithmetic again, from all inputs."""
    flop, name = 2 * call.op.multiply_adds(*call.shapes), call.op.name
    other = 0 if flop else call.output_size
    wanted = [x for x, needed in zip(call.inputs, call.op.needs_grad, strict=True) if needed]
    gy = grad_of(call.output)
    return Work(
        (Kernel(call.layer, name, call.inputs, (call.output,), flop, other),),
        tuple(Kernel(call.layer, f"{name} grad", (gy, *call.inputs), (grad_of(x),), flop, other) for x in wanted),
    )


_RULES: dict[tuple[type[Op], ...], Callable[[Call], Work]] = {
    (Conv2dOp, LinearOp, BlockLinearOp): _product,
    (ReluOp,): _relu,
    (MaxPool2dOp, AvgPool2dOp): _pool,
    (LrnOp,): _lrn,
    (DropoutOp,): _dropout,
    (AddBiasOp,): _add_bias,
    (AddOp,): _add,
    (BlockColumnsOp,): _block_columns,
    (FlattenOp, AllGatherOp, ReduceScatterOp): _nothing,
}


def _one_input(call: Call, forward: Kernel, backward: Kernel) -> Work:
    return Work((forward,), (backward,) if call.op.needs_grad[0] else ())


def _other(
    call: Call, work: str, reads: tuple[Operand, ...], writes: tuple[Operand, ...], flop_per_element: int = 1
) -> Kernel:
    """Return a kernel that does `flop_per_element` for each element of the call's output."""
    return Kernel(call.layer, work, reads, writes, other_flop=flop_per_element * call.output_size)
