"""What cuDNN offers for a convolution: from shapes, precision and device to plans that can be run.

A graph of cuDNN's frontend describes the operation; the library's heuristics list plans for it (an engine and its
settings), the one they deem fastest first. The frontend's sizes are in the order (n, c, h, w) throughout; the strides
say that the arrays lie in memory as ours do. Batches and channels are never regrouped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from owt_mpi.backends.base import Pair, Shape

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
Operation = Literal["conv2d", "conv2d_grad_x", "conv2d_grad_w"]

X, W, Y, B = 1, 2, 3, 4  # how plans name their arrays; a gradient goes by the name of what it is the gradient of

FULL_ALIGNMENT = 16  # bytes
MIN_COMPUTE_CAPABILITY: dict[Precision, int] = {"fp32": 50, "tf32": 80, "fp16": 70, "bf16": 80}

# fp32 means fp32: no TF32, which is what tensor cores make of float32. Half precision is always summed up in float32.
_EXCLUDED_NOTES: dict[Precision, tuple[str, ...]] = {
    "fp32": ("TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"),
    "tf32": ("DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"),
    "fp16": ("REDUCED_PRECISION_REDUCTION",),
    "bf16": ("REDUCED_PRECISION_REDUCTION",),
}
_DATA_TYPES: dict[Precision, str] = {"fp32": "FLOAT", "tf32": "FLOAT", "fp16": "HALF", "bf16": "BFLOAT16"}
_LONGEST_QUOTE = 400  # characters of what cuDNN says; it repeats itself for every engine


class NoPlanError(RuntimeError):
    """cuDNN has no plan for a convolution within the limits that were set."""


class Conv(NamedTuple):
    """One convolution or gradient of one: all that its plans depend on, but for the device.

    Shapes are ours: x (n, h, w, c_in), w (c_out, kh, kw, c_in), y (n, h_out, w_out, c_out). `bias` and `relu` are for
    conv2d alone. `alignment` is a power of 2 that divides the addresses of all arrays, in bytes: 16 is the most that
    cuDNN makes use of, and with less most of the engines for tensor cores drop out.
    """

    operation: Operation
    x: Shape
    w: Shape
    y: Shape
    stride: Pair
    pad: Pair
    precision: Precision
    bias: bool = False
    relu: bool = False
    alignment: int = FULL_ALIGNMENT

    def __str__(self) -> str:
        added = " + bias" * self.bias + " + ReLU" * self.relu
        aligned = "" if self.alignment == FULL_ALIGNMENT else f", arrays aligned to {self.alignment} bytes"
        shapes = f"x {self.x}, w {self.w}, y {self.y}, stride {self.stride}, pad {self.pad}"
        return f"{self.operation}{added} in {self.precision}, {shapes}{aligned}"


@dataclass(frozen=True)
class Device:
    """What plans are made for: the GPU that a cuDNN handle is bound to, or one that is described.

    A plan for a described GPU tells what would run there and with how much workspace, but cannot be run, and engines
    that compile their kernel when the plan is built are left out. `description` is the JSON that
    cudnn.create_device_properties reads.
    """

    compute_capability: int  # 10 * major + minor
    handle: int | None = None
    description: str | None = None


@dataclass(frozen=True)
class Limits:
    """What plans may do. `deterministic` leaves those out that may give other bits when run again."""

    workspace_bytes: int
    deterministic: bool = False

    def __str__(self) -> str:
        mebibytes = f"at most {self.workspace_bytes / 2**20:.0f} MiB of workspace"
        return f"{mebibytes}, deterministic" if self.deterministic else mebibytes


@dataclass(frozen=True)
class Plan:
    """A plan that is built. It reads and writes the arrays `names`, any of X, W, Y and B.

    `bias_and_relu_left`: it is of the convolution alone, and the caller adds bias and ReLU to what it leaves in Y.
    """

    graph: Any
    index: int
    names: tuple[int, ...]
    bias_and_relu_left: bool
    engine: str  # as cuDNN writes it: the engine's number and its settings ("knobs")
    workspace_bytes: int

    def run(self, handle: int, addresses: dict[int, int], workspace: int) -> None:
        """Start the work on the stream of `handle`: on device addresses by name, and that of the workspace."""
        self.graph.execute_plan_at_index(addresses, workspace, self.index, handle=handle)


def check_precision(precision: Precision, compute_capability: int) -> None:
    """Raise ValueError if a device of that compute capability (10 * major + minor) does not compute in `precision`."""
    needed = MIN_COMPUTE_CAPABILITY[precision]
    if compute_capability < needed:
        others = [name for name, least in MIN_COMPUTE_CAPABILITY.items() if least <= compute_capability]
        raise ValueError(
            f"precision {precision!r} needs a GPU of compute capability {needed / 10} or higher, this one has "
            f"{compute_capability / 10}; use {' or '.join(others)}"
        )


def find_plans(conv: Conv, device: Device, limits: Limits) -> Iterator[Plan]:
    """Yield plans for `conv` as they are built, in the order of cuDNN's heuristics.

    With bias or ReLU those that fuse them come first, if the arrays are fully aligned, then those that leave them to
    the caller. NoPlanError if there are none at all, ValueError if the device does not have the precision.
    """
    check_precision(conv.precision, device.compute_capability)
    said = "nothing"
    found = False
    apart = conv._replace(bias=False, relu=False)
    # of plans that fuse, cuDNN 9.28 lists those too that need arrays aligned to 16 bytes where they are not
    for each in dict.fromkeys((conv, apart) if conv.alignment == FULL_ALIGNMENT else (apart,)):
        try:
            graph = make_graph(each, device, limits)
        except _cudnn_errors() as error:
            said = str(error)
            continue
        names = tuple(name for name in (X, W, Y, B) if name != B or each.bias)
        for index in range(graph.get_execution_plan_count()):
            try:
                graph.build_plan_at_index(index)
            except _cudnn_errors() as error:
                said = str(error)
                continue
            found = True
            engine, workspace = graph.get_plan_name_at_index(index), graph.get_workspace_size_plan_at_index(index)
            yield Plan(graph, index, names, each != conv, engine, workspace)
    if not found:
        raise NoPlanError(no_plan_message(conv, limits, said))


def make_graph(conv: Conv, device: Device, limits: Limits, more_excluded_notes: tuple[str, ...] = ()) -> Any:
    """Return the frontend's graph for `conv`, with its candidates listed and none built.

    `more_excluded_notes` are names of cudnn.numerical_note. What an exclusion strikes out stays in the list and does
    not build. Raises what cuDNN raises.
    """
    import cudnn

    if device.handle is not None:
        where = {"handle": device.handle}
    else:
        properties = cudnn.create_device_properties(device.description)
        where = {"device_property": properties, "sm_version": device.compute_capability}
    data_type, single = getattr(cudnn.data_type, _DATA_TYPES[conv.precision]), cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        name=conv.operation, io_data_type=data_type, intermediate_data_type=single, compute_data_type=single, **where
    )
    _add_operation(graph, conv, data_type)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    notes = (*_EXCLUDED_NOTES[conv.precision], *("NONDETERMINISTIC",) * limits.deterministic, *more_excluded_notes)
    graph.deselect_numeric_notes([getattr(cudnn.numerical_note, note) for note in notes])
    graph.deselect_workspace_greater_than(limits.workspace_bytes)
    if device.handle is None:
        graph.deselect_behavior_notes([cudnn.behavior_note.RUNTIME_COMPILATION])
    graph.check_support()
    return graph


def no_plan_message(conv: Conv, limits: Limits, said: str) -> str:
    """Return what to tell a user about a convolution that has no plan, from what cuDNN said."""
    reasons = list(dict.fromkeys(re.findall(r"Reason: (.*)", said))) or [said]
    quote = "; ".join(reasons)[:_LONGEST_QUOTE]
    return (
        f"cuDNN has no plan for {conv} with {limits} (it says: {quote}); allow more workspace, align the arrays to "
        f"{FULL_ALIGNMENT} bytes, do without deterministic plans, or compute in another precision"
    )


def _add_operation(graph: Any, conv: Conv, data_type: Any) -> None:
    windows = {"stride": list(conv.stride), "padding": list(conv.pad), "dilation": [1, 1]}
    shapes = {X: conv.x, W: conv.w, Y: conv.y}

    def given(name: int) -> Any:
        return graph.tensor(**_layout(shapes[name]), uid=name).set_alignment(conv.alignment)

    if conv.operation == "conv2d":
        name, result = Y, graph.conv_fprop(image=given(X), weight=given(W), **windows)
        if conv.bias:
            bias = graph.tensor(**_layout((1, 1, 1, conv.w[0])), uid=B).set_alignment(conv.alignment)
            result = graph.bias(input=result, bias=bias)
        if conv.relu:
            result = graph.relu(input=result)
    elif conv.operation == "conv2d_grad_x":
        name, result = X, graph.conv_dgrad(loss=given(Y), filter=given(W), **windows)
    else:
        name, result = W, graph.conv_wgrad(image=given(X), loss=given(Y), **windows)
    layout = _layout(shapes[name])
    # sizes are always given: those of a gradient do not follow from its inputs where the stride leaves rows over
    result.set_output(True).set_uid(name).set_data_type(data_type).set_alignment(conv.alignment)
    result.set_dim(layout["dim"]).set_stride(layout["stride"])


def _layout(shape: Shape) -> dict[str, list[int]]:
    """Return the frontend's sizes and strides for an array of our shape (n, h, w, c), C-contiguous."""
    n, h, w, c = shape
    return {"dim": [n, c, h, w], "stride": [h * w * c, 1, w * c, c]}


def _cudnn_errors() -> tuple[type[Exception], ...]:
    """Return what the frontend raises: its own class where a graph has no plan, RuntimeError for the rest."""
    import cudnn

    return cudnn.cudnnGraphNotSupportedError, RuntimeError
