"""The whole tape: tensors, operations, and the reverse pass.

A forward computation leaves a graph: each Tensor made by an Op points back to it, each Op to its inputs. `backward`
walks that graph once, from the output to the leaves, any directed acyclic graph. A tensor may be symbolic (shape and
no data): operations on it check and work out shapes only, which is how a model is measured without running it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from owt_mpi.backends.base import Array, Backend, Shape
from owt_mpi.backends.precision import is_half


class Tensor:
    """An array with its place in the graph. `data` is None in a symbolic tensor.

    `grad` is filled by `backward` in leaves that require a gradient.
    """

    def __init__(
        self, data: Array | None, backend: Backend | None, shape: Shape, dtype: Any, requires_grad: bool = False
    ) -> None:
        self.data, self.backend, self.shape, self.dtype = data, backend, tuple(shape), np.dtype(dtype)
        self.requires_grad = requires_grad
        self.creator: Op | None = None
        self.grad: Array | None = None

    def accumulate_grad(self, grad: Array) -> None:
        """Add `grad` to this leaf's gradient."""
        self.grad = grad if self.grad is None else self.grad + grad


def tensor(data: Array, backend: Backend, requires_grad: bool = False) -> Tensor:
    """Return a leaf that holds `data`, an array of `backend`."""
    return Tensor(data, backend, data.shape, data.dtype, requires_grad)


def symbolic(shape: Shape, dtype: Any = np.float32) -> Tensor:
    """Return a leaf with a shape and no data."""
    return Tensor(None, None, shape, dtype)


@dataclass(frozen=True)
class Shard:
    """Which part of a parameter a rank holds: block `index` of `count` equal ones along `axis`."""

    axis: int
    index: int
    count: int


class Init(Protocol):
    """How a parameter's first values are drawn."""

    def draw(self, key: int, indices: np.ndarray, shape: Shape) -> np.ndarray:
        """Return float64 values for the flat `indices` of a parameter of global `shape`, from the stream `key`."""
        ...


class Parameter(Tensor):
    """A named leaf that training changes; symbolic until `set_data`.

    `global_shape` is that of the whole parameter, `shape` that of the part this rank holds. Where operations compute in
    a half type, `data` has that type and is rounded from `master`, in float32, which training changes.

    The gradient adds up over calls of `backward` until `clear_grad`; given a `grad_buffer` (a part of an exchange
    bucket), it adds up there.
    `on_grad_ready(parameter)` is called once the last use in a graph has contributed.
    """

    def __init__(self, shape: Shape, init: Init, is_bias: bool = False, shard: Shard | None = None) -> None:
        local = list(shape)
        if shard is not None:
            assert local[shard.axis] % shard.count == 0, (shape, shard)
            local[shard.axis] //= shard.count
        super().__init__(None, None, tuple(local), np.float32, requires_grad=True)
        self.global_shape, self.init, self.is_bias, self.shard = tuple(shape), init, is_bias, shard
        self.name = ""
        self.on_grad_ready: Callable[[Parameter], None] | None = None
        self.grad_buffer: Array | None = None
        self.master: Array | None = None

    @property
    def exact(self) -> Array | None:
        """The values before they are rounded: `master`, or `data` where that is not rounded."""
        if self.master is None and self.data is not None:
            assert not is_half(self.dtype), f"another rank holds the master weights of {self.name}"
        return self.data if self.master is None else self.master

    @property
    def size(self) -> int:
        """The number of elements of the whole parameter."""
        return prod(self.global_shape)

    def set_data(self, data: Array, backend: Backend) -> None:
        """Give the parameter its values, an array of `backend` that it owns from now on."""
        assert tuple(data.shape) == self.shape, (self.name, data.shape, self.shape)
        self.data, self.dtype, self.backend = data, data.dtype, backend

    def set_values(self, values: Array, backend: Backend, dtype: Any) -> None:
        """Give the parameter its values, to compute with as `dtype`; it owns them from now on."""
        rounded = is_half(dtype)
        self.set_data(values.astype(dtype) if rounded else values, backend)
        self.master = values if rounded else None

    def accumulate_grad(self, grad: Array) -> None:
        """Add `grad` to the gradient, in `grad_buffer` where there is one."""
        if self.grad_buffer is None:
            super().accumulate_grad(grad)
        elif self.grad is None:
            self.grad = self.grad_buffer
            self.grad[...] = grad
        else:
            self.grad += grad

    def clear_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None


class Op:
    """One differentiable operation; an object serves one call and keeps what its backward needs.

    A subclass defines `out_shape`, which raises ValueError on shapes it cannot take, `forward` and `backward`.
    `backward` returns one gradient an input, or None where `needs_grad` is False.
    """

    backend: Backend
    inputs: tuple[Tensor, ...] = ()
    needs_grad: tuple[bool, ...] = ()
    stands_for_steps = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Apply the operation; the result requires a gradient if an input does and the tape is on."""
        self._check_dtypes(inputs)
        shape = self.out_shape(*(x.shape for x in inputs))
        self.needs_grad = tuple(x.requires_grad and _mode.recording for x in inputs)
        dtype = inputs[0].dtype
        without_data = [x for x in inputs if x.data is None]
        if without_data:
            if any(x.data is not None and not isinstance(x, Parameter) for x in inputs):
                raise ValueError(f"{self.name}: an input has no values; is its layer an attribute of a module?")
            out = Tensor(None, None, shape, dtype, any(self.needs_grad))
        else:
            backend = inputs[0].backend
            assert backend is not None
            assert all(x.backend is backend for x in inputs), f"{self.name}: inputs of different backends"
            self.backend = backend
            data = self.forward(*(x.data for x in inputs))
            assert tuple(data.shape) == tuple(shape), f"{self.name}: {data.shape} is not {shape}"
            out = Tensor(data, backend, shape, data.dtype, any(self.needs_grad))
        if out.requires_grad or out.data is None:
            self.inputs, out.creator = inputs, self
        return out

    @property
    def name(self) -> str:
        """The operation's name in messages."""
        return type(self).__name__

    def _check_dtypes(self, inputs: tuple[Tensor, ...]) -> None:
        dtypes = [x.dtype for x in inputs]
        if any(dtype != dtypes[0] for dtype in dtypes) or not (dtypes[0].kind == "f" or is_half(dtypes[0])):
            raise TypeError(f"{self.name} needs inputs of one floating-point dtype, got {[str(d) for d in dtypes]}")

    def out_shape(self, *shapes: Shape) -> Shape:
        """Return the output's shape for inputs of `shapes`."""
        raise NotImplementedError

    def forward(self, *xs: Array) -> Array:
        """Return the output."""
        raise NotImplementedError

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        """Return the gradient of each input, given the output's. Must not change `gy`."""
        raise NotImplementedError

    def multiply_adds(self, *shapes: Shape) -> int:
        """Return the multiply-adds of one forward, 0 for what is bound by memory."""
        return 0

    def record(self) -> Tensor:
        """Return the output made once more with all that leads to it, where this `stands_for_steps`."""
        raise NotImplementedError


class _Mode(threading.local):
    recording = True


_mode = _Mode()


def is_recording() -> bool:
    """Return whether there is a tape, in this thread."""
    return _mode.recording


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """Compute with a tape or without one, in this thread."""
    before, _mode.recording = _mode.recording, on
    try:
        yield
    finally:
        _mode.recording = before


def no_tape() -> AbstractContextManager[None]:
    """Compute without recording, in this thread: nothing is kept for a backward."""
    return recording(False)


def backward(output: Tensor, grad: Array) -> None:
    """Add to every leaf's gradient its part of <grad, output>, and take the graph apart on the way.

    `grad` has the output's shape. What an operation kept for its backward is freed as soon as it has run.
    """
    assert output.creator is not None, "the output does not depend on anything that requires a gradient"
    way_back = _WayBack()
    way_back.begin(output, grad)
    while way_back.order:
        way_back.go_on()


class _WayBack:
    """A reverse pass: the tensors that are still to come, last first, and what is known about them by their id."""

    def __init__(self) -> None:
        self.order: list[Tensor] = []
        self._uses: Counter[int] = Counter()  # by operations that are still to come
        self._grads: dict[int, Array] = {}

    def begin(self, output: Tensor, grad: Array, beyond: Iterable[Tensor] = ()) -> None:
        """Put what leads to `output`, whose gradient is `grad`, on the way, without what is `beyond`."""
        found = tensors_from_leaves(output, beyond)
        self._uses.update(id(x) for y in found if y.creator for x in y.creator.inputs if x.requires_grad)
        self._grads[id(output)] = grad
        self.order.extend(found)

    def go_on(self) -> None:
        """Take the next tensor off, and hand its gradient on to what it was made from."""
        y = self.order.pop()
        op, y.creator = y.creator, None
        if op is None:
            return
        if op.stands_for_steps:
            gy = self._grads.pop(id(y))
            del y  # its steps make it again
            self._uses.subtract(id(x) for x in op.inputs if x.requires_grad)  # the steps use them in its place
            self.begin(op.record(), gy, beyond=op.inputs)
            return
        for x, gx, needed in zip(op.inputs, op.backward(self._grads.pop(id(y))), op.needs_grad, strict=True):
            if not needed:
                continue
            assert gx is not None, f"{op.name}.backward gave no gradient for an input that needs one"
            self._hand_on(x, gx)

    def _hand_on(self, x: Tensor, gx: Array) -> None:
        self._uses[id(x)] -= 1
        if x.creator is not None:
            self._grads[id(x)] = gx if id(x) not in self._grads else self._grads[id(x)] + gx
            return
        x.accumulate_grad(gx)
        if isinstance(x, Parameter) and self._uses[id(x)] == 0 and x.on_grad_ready is not None:
            x.on_grad_ready(x)


def tensors_from_leaves(output: Tensor, beyond: Iterable[Tensor] = ()) -> list[Tensor]:
    """Return all tensors that `output` depends on through gradients, each after those it was made from.

    Those in `beyond`, and what they depend on, are left out.
    """
    order: list[Tensor] = []
    seen = {id(x) for x in beyond}
    stack: list[tuple[Tensor, bool]] = [(output, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if node.creator is not None:
                stack.extend((x, False) for x in node.creator.inputs if x.requires_grad)
    return order
