"""The memory that a rank needs, worked out from shapes alone: what is held throughout, and the peak of a step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np

from owt_mpi.autograd import Parameter, Tensor, symbolic
from owt_mpi.backends.cuda_device import PINNED_BYTES
from owt_mpi.backends.cudnn import default_workspace_bytes
from owt_mpi.backends.precision import exact_dtype, is_half
from owt_mpi.nn.kept import Step, backward_peak_bytes, kept_bytes, steps_of
from owt_mpi.nn.model import Model
from owt_mpi.nn.recompute import backward_peak_of, blocks_of, kept_by, kept_while_backward
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.lrn import LrnOp
from owt_mpi.ops.max_pool2d import MaxPool2dOp
from owt_mpi.parallel.layout import Layout
from owt_mpi.parallel.sharded import shard_head
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel.wire_format import WireDtype, crossing_type, wire_itemsize


@dataclass(frozen=True)
class MemoryOptions:
    """What the memory depends on besides model, layout, batch and dtype.

    `device_bytes`: a GPU's memory, 0: not known. `workspace_bytes`: what convolutions on it may work in, None: what
    cuDNN may by default; `widens`: those of halves work on float32 copies besides. `pinned_bytes`: pinned memory of the
    transport. `replayed`: the trunk has memory of its own, for what it is given too. `copies_head`: what the head
    learns within a step can be taken back.
    """

    backend: str = "onednn"
    trunk_sync: TrunkSync = "all-reduce"
    wire_dtype: WireDtype = "auto"
    prefetch: int = 2
    device_bytes: int = 0
    workspace_bytes: int | None = None
    widens: bool = False
    pinned_bytes: int = 0
    replayed: bool = False
    copies_head: bool = False


# of the memory that keep_freed_memory lets a process keep on the host, that much more than its arrays need at once
# lies between them: fitted to alexnet-owt; runs of several nets lost from 7 to 26 %
_LOST_SHARE = 1 / 6


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes a rank needs: what it always holds, and what it holds besides in each phase of a step.

    `lost_share` of that is lost between arrays. `least_bytes` are those among them that no step can do without, from
    the second on: no workspace, nothing on its way or made ahead, no gradient longer than until it is used, nothing
    lost. `beside` is what a GPU's rank takes on the host.
    """

    always: dict[str, int]
    phases: dict[str, dict[str, int]]
    lost_share: float
    least_bytes: int
    beside: dict[str, int] = field(default_factory=dict)

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
    rank, is_gpu = _Rank(model, layout, images_per_rank, dtype, options), options.backend == "cuda"
    return MemoryForecast(
        always=rank.always(),
        phases={"head": rank.in_head(), "trunk backward": rank.in_trunk_backward(), "update": rank.in_update()},
        lost_share=0.0 if is_gpu else _LOST_SHARE,
        least_bytes=rank.least_bytes(),
        beside={"images": rank.images_beside, "pinned memory": PINNED_BYTES + options.pinned_bytes} if is_gpu else {},
    )


class _Rank:
    """The sizes of what one rank computes and holds, in bytes."""

    def __init__(self, model: Model, layout: Layout, n: int, dtype: np.dtype, options: MemoryOptions) -> None:
        self.options, self.dtype, self.exact = options, dtype, exact_dtype(dtype).itemsize
        itemsize, size, scheme = dtype.itemsize, layout.boundary.size, layout.scheme
        self.num_passes = scheme.num_passes(size)
        rows = len(scheme.group_rows(size, n, 0))
        features = model.num_features // size if scheme.splits_inputs else model.num_features
        self.acts, self.assembled = n * model.num_features * itemsize, rows * features * itemsize
        self.is_shared = size > 1

        head = shard_head(model.head, layout.head, model.num_features, scheme.splits_inputs)
        boundary = Tensor(None, None, (rows, features), np.float32, requires_grad=True)
        self.head_steps, logits = steps_of(head, boundary, itemsize, options.backend)
        self.logits = prod(logits.shape) * self.exact  # of a pass, and as much for their gradient
        images = symbolic((n, model.spec.crop, model.spec.crop, model.spec.channels))
        self.blocks = blocks_of(model.trunk, images, itemsize, options.backend)
        self.kept = kept_by(self.blocks)
        self.trunk_peak = backward_peak_of(self.blocks, int(layout.trunk.size > 1))
        self.images, self.made_ahead, self.images_beside = _images_bytes(prod(images.shape), dtype, options)

        self.trunk, self.head = (_Weights.of(part.parameters()) for part in (model.trunk, head))
        self.weights = (self.trunk.number + self.head.number) * itemsize
        syncs = ((self.trunk, layout.trunk.size), (self.head, layout.replicas.size))
        shares = [ranks if options.trunk_sync == "sharded" else 1 for _, ranks in syncs]
        self.momentum = sum(held.number // share for (held, _), share in zip(syncs, shares, strict=True)) * self.exact
        self.masters = self.momentum if is_half(dtype) else 0
        of_updates = self.head.number // shares[1] * self.exact * (2 if is_half(dtype) else 1)
        self.copies = (self.head.number * itemsize + of_updates) * (options.copies_head and self.num_passes > 1)
        self.trunk_bucket, self.head_bucket = (held.number * itemsize * (ranks > 1) for held, ranks in syncs)
        self.crossing = sum(_sync_bytes(held.number, ranks, dtype, options) for held, ranks in syncs)

    @property
    def kept_in_head(self) -> int:
        """What a pass has made when its loss is known: outputs, their exact copy, the last gradient, past logits."""
        copies = 2 if is_half(self.dtype) else 1
        return kept_bytes(self.head_steps) + (copies + self.num_passes - 1) * self.logits

    def always(self) -> dict[str, int]:
        """Return what is held throughout."""
        steps = [*(step for block in self.blocks for step in block.steps), *self.head_steps]
        return {
            "weights": self.weights,
            **({"master weights": self.masters} if self.masters else {}),
            "gradients": self.weights,
            "momentum": self.momentum,
            **({"the head before the step": self.copies} if self.copies else {}),
            "images": self.images + self.made_ahead,
            **({"inputs of graphs": self.images + self.acts} if self.options.replayed else {}),
            "workspace": _workspace_bytes(steps, self.dtype.itemsize, self.options),
        }

    def in_head(self) -> dict[str, int]:
        """Return what is held besides in a pass of the head."""
        # in a bucket a gradient is copied from where it was made; without, passes are added up in a third array
        weight_grads = 1 if self.head_bucket else 2 if self.num_passes > 1 else 0
        return {
            "activations of the trunk": self.kept,
            "activations of the head": self.kept_in_head + self.logits,  # whose gradient is there unscaled too
            "gradients under way": backward_peak_bytes(self.head_steps, weight_grads) - kept_bytes(self.head_steps),
            # assembled for this pass and the next; a gradient that leaves, and what has come back
            "exchange": self.assembled * (2 + (self.num_passes > 1)) + self.acts,
            **self._set_aside(self.trunk_peak - self.kept),
        }

    def in_trunk_backward(self) -> dict[str, int]:
        """Return what is held besides in the trunk's backward pass."""
        return {
            "activations of the trunk": self.kept,
            "activations of the head": self.num_passes * self.logits,
            "gradients under way": self.trunk_peak - self.kept,
            "exchange": self.crossing + 2 * self.acts,  # the boundary's activations and gradient stay to the end
        }

    def in_update(self) -> dict[str, int]:
        """Return what is held besides in the update."""
        terms = 3 if self.options.backend == "reference" else 0
        largest = max(self.trunk.largest, self.head.largest)
        return {
            "exchange": self.crossing,
            "update": terms * largest * self.exact,
            **self._set_aside(self.trunk_peak),
        }

    def least_bytes(self) -> int:
        """Return MemoryForecast.least_bytes."""
        buckets = self.trunk_bucket + self.head_bucket
        head_gradients = self.head.number * self.dtype.itemsize - self.head_bucket
        in_head = self.kept + self.kept_in_head + self.assembled * self.is_shared
        in_backward = kept_while_backward(self.blocks) + head_gradients
        most = max(in_head, in_backward, self.weights - buckets)
        lasting = self.weights + self.masters + self.momentum + self.copies + self.images + buckets
        return lasting + most - self._spare_bytes()

    def _set_aside(self, num_bytes: int) -> dict[str, int]:
        """Return what the trunk holds and does not need, where it has memory of its own."""
        return {"set aside for the trunk": num_bytes} if self.options.replayed else {}

    def _spare_bytes(self) -> int:
        """Return what may not be kept after all: oneDNN's second array for LRN, where NumPy computes that."""
        if self.options.backend != "onednn":
            return 0
        return sum(step.grad_y for block in self.blocks for step in block.steps if isinstance(step.op, LrnOp))


class _Weights(NamedTuple):
    """How many weights a rank holds, in all and in the largest parameter."""

    number: int
    largest: int

    @classmethod
    def of(cls, parameters: Sequence[Parameter]) -> "_Weights":
        sizes = [prod(parameter.shape) for parameter in parameters]
        return cls(sum(sizes), max(sizes, default=0))


def _images_bytes(size: int, dtype: np.dtype, options: MemoryOptions) -> tuple[int, int, int]:
    """Return what `size` numbers of images take: those trained on, those made ahead, and on a GPU's host.

    A batch more than --prefetch is ready and waits for a place. Up to the GPU's memory images are bytes, and those
    whose batch was taken stay until the next comes; on the host one lot is written while another crosses.
    """
    batch = size * dtype.itemsize
    if options.backend == "cuda":
        return batch, (options.prefetch + 2) * size, 2 * size
    return batch, (options.prefetch + 1) * batch + size, 0


def _workspace_bytes(steps: Sequence[Step], itemsize: int, options: MemoryOptions) -> int:
    """Return what convolutions and pooling work in: a limit on the GPU, an estimate on the host."""
    if options.backend == "cuda":
        limit = options.workspace_bytes
        copies = (_wide_bytes(step, itemsize) for step in steps if isinstance(step.op, Conv2dOp) and options.widens)
        return (default_workspace_bytes(options.device_bytes) if limit is None else limit) + max(copies, default=0)
    if options.backend == "onednn":  # filters in the library's layout, of each convolution and its two gradients
        return 3 * sum(prod(step.op.inputs[1].shape) * itemsize for step in steps if isinstance(step.op, Conv2dOp))
    return max((_reference_bytes(step, itemsize) for step in steps), default=0)


def _reference_bytes(step: Step, itemsize: int) -> int:
    """Return what the reference backend makes on the way to one output: every window's elements, or a padded input.

    For halves that and all operands and results are made in float32.
    """
    exact = max(itemsize, 4)
    grad_y, wide = step.grad_y // itemsize * exact, _wide_bytes(step, itemsize)
    if isinstance(step.op, MaxPool2dOp):
        return wide + prod(step.op.kernel) * grad_y
    if isinstance(step.op, Conv2dOp):
        return wide + prod(step.op.inputs[0].shape) * exact + 2 * grad_y
    return wide


def _wide_bytes(step: Step, itemsize: int) -> int:
    """Return what float32 copies of all operands and the result take, nothing where they are that themselves."""
    return 4 * (step.grad_y // itemsize + sum(prod(x.shape) for x in step.op.inputs)) if itemsize < 4 else 0


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
