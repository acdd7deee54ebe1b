"""The bare kernels of the convolutions of our step: oneDNN's, weights in the layout that it chooses, no reorders.

Images are n, h, w, c as in our step. Their memory is there before, aligned, and each call has its own.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contestant import serve
from owt_mpi.backends import onednn_api as api
from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.backends.onednn import OneDnnBackend
from owt_mpi.backends.onednn_api import Handle, Library, sizes
from owt_mpi.backends.onednn_primitive import Context, Primitive, aligned_bytes
from owt_mpi.backends.threads import set_num_threads
from owt_mpi.backends.wrapper import BackendWrapper
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.measure.step import make_trainer, random_batch
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan

CHANNELS = 3


class Call(NamedTuple):
    """A convolution that a step asks for."""

    operation: str
    x: Shape
    w: Shape
    y: Shape
    stride: Pair
    pad: Pair
    bias: bool
    relu: bool


class NotingBackend(BackendWrapper):
    """A backend that notes the convolutions it is asked for, in order."""

    def __init__(self, inner: OneDnnBackend) -> None:
        super().__init__(inner)
        self.calls: list[Call] = []

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        y = super().conv2d(x, w, b, stride, pad, relu)
        self.calls.append(Call("conv2d", x.shape, w.shape, y.shape, stride, pad, b is not None, relu))
        return y

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        self.calls.append(Call("conv2d_grad_x", x_shape, w.shape, gy.shape, stride, pad, False, False))
        return super().conv2d_grad_x(gy, w, stride, pad, x_shape)

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        self.calls.append(Call("conv2d_grad_w", x.shape, w_shape, gy.shape, stride, pad, with_bias, False))
        return super().conv2d_grad_w(gy, x, stride, pad, w_shape, with_bias)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    for name in ("batch", "threads", "crop", "classes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", choices=("fp32",))
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    own = OneDnnBackend()
    backend = NotingBackend(own)
    set_num_threads(args.threads)
    spec = InputSpec(args.crop, CHANNELS, args.classes)
    trainer = make_trainer(find_builder(args.model), spec, args.batch, Plan(1), SerialCommunicator(), backend)
    trainer.train_step(random_batch(spec, args.batch, 0, backend), 0)
    del trainer
    context = Context(own.library)
    runs = [bare(context, call) for call in backend.calls]

    def step() -> None:
        for run in runs:
            run()

    serve(args.port, {"bare kernels": f"libdnnl {context.library.version}, {len(runs)} kernels"}, step)


def bare(context: Context, call: Call) -> Callable[[], None]:
    """Return what runs the kernel of a convolution on arrays of its own."""
    library = context.library
    x, y = (context.descriptor(_planes_first(shape), api.TAG_CHANNELS_LAST) for shape in (call.x, call.y))
    w = context.descriptor(_planes_first(call.w), api.TAG_ANY)
    b = context.descriptor(call.w[:1], api.TAG_VECTOR) if call.bias else None
    window = (sizes(call.stride), sizes((0, 0)), sizes(call.pad), sizes(call.pad))
    attributes = library.attributes_with_relu if call.relu else library.attributes
    kinds = (api.FORWARD_TRAINING, api.CONVOLUTION_DIRECT)
    forward = _descriptor(library, "forward", *kinds, x, w, b, y, *window, attributes)
    if call.operation == "conv2d":
        described, takes, gives, bias = forward, (api.SRC, api.WEIGHTS), api.DST, api.BIAS
    elif call.operation == "conv2d_grad_x":
        described = _descriptor(library, "backward_data", kinds[1], x, w, y, *window, forward, attributes)
        takes, gives, bias = (api.DIFF_DST, api.WEIGHTS), api.DIFF_SRC, api.BIAS
    else:
        described = _descriptor(library, "backward_weights", kinds[1], x, w, b, y, *window, forward, attributes)
        takes, gives, bias = (api.SRC, api.DIFF_DST), api.DIFF_WEIGHTS, api.DIFF_BIAS
    arguments = (*takes, gives, *((bias,) if call.bias else ()))
    # None stands for the kernel's own layout, which is ours of everything but the weights: nothing is reordered
    primitive = Primitive(context, described, dict.fromkeys(arguments[:-1]), dict.fromkeys(arguments[-1:]))
    return partial(primitive.run, {argument: _numbers(primitive.empty(argument).nbytes) for argument in arguments})


def _descriptor(library: Library, kind: str, *arguments: Any) -> Handle:
    return library.create(f"convolution_{kind}_primitive_desc_create", library.engine, *arguments)


def _planes_first(shape: Shape) -> Shape:
    """Return oneDNN's logical order of (n, h, w, c)."""
    n, h, w, c = shape
    return n, c, h, w


def _numbers(num_bytes: int) -> np.ndarray:
    """Return so many bytes of small float32 numbers."""
    array = aligned_bytes(num_bytes)
    array.view(np.float32)[:] = 0.1 * np.random.default_rng(1).standard_normal(num_bytes // 4, dtype=np.float32)
    return array


if __name__ == "__main__":
    main()
