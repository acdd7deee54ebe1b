"""The memory that a rank needs, worked out from shapes alone: what is held throughout, and the peak of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from owt_mpi.autograd import Parameter, Tensor, symbolic
from owt_mpi.backends.cudnn import default_workspace_bytes
from owt_mpi.backends.precision import exact_dtype, is_half
from owt_mpi.nn.kept import Step, backward_peak_bytes, kept_bytes, steps_of
from owt_mpi.nn.model import Model
from owt_mpi.nn.recompute import backward_peak_of, blocks_of, kept_by
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.max_pool2d import MaxPool2dOp
from owt_mpi.parallel.layout import Layout
from owt_mpi.parallel.sharded import shard_head
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel.wire_format import WireDtype, crossing_type, wire_itemsize


@dataclass(frozen=True)
class MemoryOptions:
    """What the memory depends on besides model, layout, batch and dtype.

    `device_bytes`: a GPU's memory, 0: not known. `workspace_bytes`: cuDNN's limit, None: what it is by default.
    """

    backend: str = "onednn"
    trunk_sync: TrunkSync = "all-reduce"
    wire_dtype: WireDtype = "auto"
    prefetch: int = 2
    device_bytes: int = 0
    workspace_bytes: int | None = None


# measured on the host: of the memory that keep_freed_memory lets a process keep, that much more than its arrays
# need at once lies between them
_LOST_SHARE = 1 / 6


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes a rank needs: what it always holds, and what it holds besides in each phase of a step.

    `lost_share` of that is lost between arrays.
    """

    always: dict[str, int]
    phases: dict[str, dict[str, int]]
    lost_share: float

    @property
    def peak(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def parts(self) -> dict[str, int]:
        """What is held at the peak."""
        held = {**self.always, **self.phases[self.peak]}
        return {**held, "lost between arrays": int(sum(held.values()) * self.lost_share)}

    @property
    def num_bytes(self) -> int:
        """The sum of it."""
        return sum(self.parts.values())


def forecast_memory(
    model: Model, layout: Layout, images_per_rank: int, dtype: np.dtype, options: MemoryOptions
) -> MemoryForecast:
    """Return what one rank of `layout` needs to train `model` on `images_per_rank` (n) images a step in `dtype`.

    The memory of interpreter, libraries and driver is not counted, nor, on a GPU, what is lost between arrays.
    """
    backend, itemsize, exact = options.backend, dtype.itemsize, exact_dtype(dtype).itemsize
    spec, size = model.spec, layout.boundary.size
    images = symbolic((images_per_rank, spec.crop, spec.crop, spec.channels))
    scheme, num_passes = layout.scheme, layout.scheme.num_passes(size)
    rows = len(scheme.group_rows(size, images_per_rank, 0))
    features = model.num_features // size if scheme.splits_inputs else model.num_features
    head = shard_head(model.head, layout.head, model.num_features, scheme.splits_inputs)
    boundary = Tensor(None, None, (rows, features), np.float32, requires_grad=True)
    head_steps, logits = steps_of(head, boundary, itemsize, backend)
    trunk_blocks = blocks_of(model.trunk, images, itemsize, backend)

    trunk, head_held = (_Weights.of(part.parameters()) for part in (model.trunk, head))
    weights = trunk.number + head_held.number
    acts, assembled = images_per_rank * model.num_features * itemsize, rows * features * itemsize
    loss = prod(logits.shape) * exact  # the gradient of the logits, which comes with the loss
    all_logits = (num_passes - 1) * loss
    # in a bucket a gradient is copied from where it was made; without, passes are added up in a third array
    trunk_grads = int(layout.trunk.size > 1)
    head_grads = 1 if layout.replicas.size > 1 else 2 if num_passes > 1 else 0
    head_peak = backward_peak_bytes(head_steps, head_grads)
    kept = kept_by(trunk_blocks)
    shares = (layout.trunk.size, layout.replicas.size) if options.trunk_sync == "sharded" else (1, 1)
    momentum = (trunk.number // shares[0] + head_held.number // shares[1]) * exact
    syncs = ((trunk, layout.trunk.size), (head_held, layout.replicas.size))
    crossing = sum(_sync_bytes(held.number, ranks, dtype, options) for held, ranks in syncs)
    steps = [*(step for block in trunk_blocks for step in block.steps), *head_steps]
    return MemoryForecast(
        always={
            "weights": weights * itemsize,
            **({"master weights": momentum} if is_half(dtype) else {}),
            "gradients": weights * itemsize,
            "momentum": momentum,
            "images": _images_bytes(prod(images.shape), dtype, options),
            "workspace": _workspace_bytes(steps, itemsize, options),
        },
        phases={
            "head": {
                "activations of the trunk": kept,
                # with the gradient as it is made and, if scaled, again; logits in float32 are a copy of halves
                "activations of the head": kept_bytes(head_steps) + all_logits + (3 if is_half(dtype) else 2) * loss,
                "gradients under way": head_peak - kept_bytes(head_steps),
                # assembled for this pass and the next; a gradient that leaves, and what has come back
                "exchange": assembled * (2 + (num_passes > 1)) + acts,
            },
            "trunk backward": {
                "activations of the trunk": kept,
                "activations of the head": all_logits + loss,
                "gradients under way": backward_peak_of(trunk_blocks, trunk_grads) - kept,
                "exchange": crossing + 2 * acts,  # the boundary's activations and gradient stay to the end
            },
            "update": {
                "exchange": crossing,
                "update": max(trunk.largest, head_held.largest) * exact * (3 if backend == "reference" else 0),
            },
        },
        lost_share=0.0 if backend == "cuda" else _LOST_SHARE,
    )


class _Weights(NamedTuple):
    """How many weights a rank holds, in all and in the largest parameter."""

    number: int
    largest: int

    @classmethod
    def of(cls, parameters: Sequence[Parameter]) -> "_Weights":
        sizes = [prod(parameter.shape) for parameter in parameters]
        return cls(sum(sizes), max(sizes, default=0))


def _images_bytes(size: int, dtype: np.dtype, options: MemoryOptions) -> int:
    """Return what `size` numbers of images take: on the host with those made ahead, and those read and cropped."""
    if options.backend == "cuda":
        return size * dtype.itemsize
    rounded = size * dtype.itemsize if is_half(dtype) else 0  # the loader makes float32
    return size * exact_dtype(dtype).itemsize * (options.prefetch + 2) + 2 * size + rounded


def _workspace_bytes(steps: Sequence[Step], itemsize: int, options: MemoryOptions) -> int:
    """Return what convolutions and pooling work in: a limit on the GPU, an estimate on the host."""
    if options.backend == "cuda":
        limit = options.workspace_bytes
        return default_workspace_bytes(options.device_bytes) if limit is None else limit
    if options.backend == "onednn":  # filters in the library's layout, of each convolution and its two gradients
        return 3 * sum(prod(step.op.inputs[1].shape) * itemsize for step in steps if isinstance(step.op, Conv2dOp))
    return max((_reference_bytes(step, itemsize) for step in steps), default=0)


def _reference_bytes(step: Step, itemsize: int) -> int:
    """Return what the reference backend makes on the way to one output: every window's elements, or a padded input.

    For halves that and all operands and results are made in float32.
    """
    exact = max(itemsize, 4)
    grad_y = step.grad_y // itemsize * exact
    wide = grad_y + sum(prod(x.shape) for x in step.op.inputs) * exact if exact > itemsize else 0
    if isinstance(step.op, MaxPool2dOp):
        return wide + prod(step.op.kernel) * grad_y
    if isinstance(step.op, Conv2dOp):
        return wide + prod(step.op.inputs[0].shape) * exact + 2 * grad_y
    return wide


def _sync_bytes(num_weights: int, num_ranks: int, dtype: np.dtype, options: MemoryOptions) -> int:
    """Return what is held besides the gradients while they, and new weights, cross: sent and received copies."""
    if num_ranks == 1:
        return 0
    wire, exact, crossing = crossing_type(options.wire_dtype, dtype), exact_dtype(dtype).itemsize, 0
    if wire != "auto":
        crossing = 2 * num_weights * wire_itemsize(wire, dtype)
    if options.trunk_sync == "sharded":
        crossing += num_weights // num_ranks * exact + num_weights * dtype.itemsize
    return crossing
