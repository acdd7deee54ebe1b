"""A training step of one rank as kernels: FLOP and least bytes of each, worked out from shapes alone."""

from collections import Counter
from dataclasses import replace
from math import prod

from owt_mpi.autograd import Op, Tensor, symbolic
from owt_mpi.nn.model import Loss, Model
from owt_mpi.nn.module import Module
from owt_mpi.nn.recompute import RecomputedSequential
from owt_mpi.nn.walk import walk
from owt_mpi.ops.flatten import FlattenOp
from owt_mpi.parallel.layout import Layout
from owt_mpi.parallel.sharded import shard_head
from owt_mpi.planner.kernel import PRECISIONS, Kernel, Operand, PrecisionName
from owt_mpi.planner.op_kernels import Call, Work, grad_of, kernels_of

_LOSS_FLOP: dict[Loss, int] = {"logistic": 11, "softmax": 7}  # a logit, loss and gradient together
_SGD_FLOP = 6  # v := momentum * v - lr * (g + decay * w);  w := w + v
_MASTER_BYTES = 4  # weights and momentum are float32 in every precision


def step_kernels(model: Model, layout: Layout, images_per_rank: int, precision: PrecisionName) -> list[Kernel]:
    """Return the kernels of one training step on one rank of `layout`, in the order in which they run, none fused.

    Forward kernels of layers that the trunk computes again (--recompute) run twice, and stand where they run first.
    Each of the head's passes but the first adds to the gradients of those before. Every rank updates all weights it
    holds, once (--trunk-sync all-reduce); in 16 bits it also writes the copy of them that products read. Left out:
    labels and hits, the sums that collectives make, and checks of gradients for overflow.
    """
    itemsize = PRECISIONS[precision]
    spec, scheme, size = model.spec, layout.scheme, layout.boundary.size
    images = symbolic((images_per_rank, spec.crop, spec.crop, spec.channels))
    trunk, acts = _part(model.trunk, images, "images", itemsize)
    trunk_forward = _run_twice(trunk.forward, model.trunk)

    rows = len(scheme.group_rows(size, images_per_rank, 0))
    features = acts.shape[1] // size if scheme.splits_inputs else acts.shape[1]
    boundary = Tensor(None, None, (rows, features), acts.dtype, acts.requires_grad)
    sharded = shard_head(model.head, layout.head, model.num_features, scheme.splits_inputs)
    head, logits = _part(sharded, boundary, "boundary", itemsize)
    first_pass = [*head.forward, _loss(model.loss, logits, itemsize), *head.backward]
    num_further = scheme.num_passes(size) - 1
    sums = {f"gradient of {p.name}" for p in sharded.parameters()}
    further = [replace(_adding_to(kernel, sums), runs=num_further) for kernel in first_pass if num_further]
    parts = (("trunk", model.trunk), ("head", sharded))
    updates = [_update(name, part, itemsize) for name, part in parts if part.parameters()]
    return [_input(images, itemsize), *trunk_forward, *first_pass, *further, *trunk.backward, *updates]


def _part(root: Module, x: Tensor, x_name: str, itemsize: int) -> tuple[Work, Tensor]:
    """Return the kernels of `root` applied to `x`, and its output."""
    visits, root_output = walk(root, x)
    operands = {id(x): Operand(x_name, prod(x.shape) * itemsize)}
    for parameter in root.parameters():
        operands[id(parameter)] = Operand(parameter.name, prod(parameter.shape) * itemsize)
    names: Counter[str] = Counter()
    forward: list[Kernel] = []
    calls: list[tuple[Op, tuple[Kernel, ...]]] = []
    for visit in visits:
        for y, op in zip(visit.made, visit.ops, strict=True):
            inputs = tuple(operands[id(tensor)] for tensor in op.inputs)
            names[visit.module.name] += 1
            number = names[visit.module.name]
            made = Operand(f"{visit.module.name}{f' ({number})' * (number > 1)}", prod(y.shape) * itemsize)
            operands[id(y)] = inputs[0] if isinstance(op, FlattenOp) else made
            work = kernels_of(Call(visit.module.name, op, inputs, operands[id(y)], itemsize))
            forward.extend(work.forward)
            calls.append((op, work.backward))
    return Work(tuple(forward), _backward(calls, operands)), root_output


def _run_twice(forward: tuple[Kernel, ...], trunk: Module) -> list[Kernel]:
    """Return the trunk's kernels, with two runs of those that its backward pass runs again."""
    twice = trunk.layers_run_twice if isinstance(trunk, RecomputedSequential) else []
    names = {module.name for layer in twice for module in layer.modules()}
    return [replace(kernel, runs=2) if kernel.layer in names else kernel for kernel in forward]


def _backward(calls: list[tuple[Op, tuple[Kernel, ...]]], operands: dict[int, Operand]) -> tuple[Kernel, ...]:
    """Return the backward kernels in the order of the tape, with the sums where a tensor was used more than once."""
    kernels: list[Kernel] = []
    seen: set[int] = set()
    for op, backward in reversed(calls):
        kernels.extend(backward)
        for x, needed in zip(op.inputs, op.needs_grad, strict=True):
            if needed and id(x) in seen:
                grad = grad_of(operands[id(x)])
                work = f"sum of gradients of {operands[id(x)].name}"
                kernels.append(Kernel("", work, (grad, grad), (grad,), other_flop=prod(x.shape)))
            seen.update([id(x)] * needed)
    return tuple(kernels)


def _adding_to(kernel: Kernel, sums: set[str]) -> Kernel:
    """Return `kernel` with those results that are named in `sums` added to what is there, not written over it."""
    return replace(kernel, reads=(*kernel.reads, *(operand for operand in kernel.writes if operand.name in sums)))


def _input(images: Tensor, itemsize: int) -> Kernel:
    """Return the kernel that cuts crops out of uint8 images, takes the mean off and scales."""
    size = prod(images.shape)
    cut, made = Operand("crops of uint8 images", size), Operand("images", size * itemsize)
    return Kernel("input", "crop, normalise", (cut,), (made,), other_flop=2 * size)


def _loss(kind: Loss, logits: Tensor, itemsize: int) -> Kernel:
    """Return the kernel that makes loss and gradient of this rank's logits while they are on chip."""
    size = prod(logits.shape)
    z = Operand("logits", size * itemsize)
    return Kernel("head", f"{kind} loss", (z,), (grad_of(z),), other_flop=_LOSS_FLOP[kind] * size)


def _update(name: str, part: Module, itemsize: int) -> Kernel:
    """Return the kernel of momentum SGD over all of a part's parameters."""
    size = sum(prod(p.shape) for p in part.parameters())
    master = [Operand(f"{what} of the {name}", size * _MASTER_BYTES) for what in ("weights", "momentum")]
    gradients = Operand(f"gradients of the {name}", size * itemsize)
    copy = [Operand(f"16-bit weights of the {name}", size * itemsize)] if itemsize < _MASTER_BYTES else []
    return Kernel(name, "momentum SGD", (*master, gradients), (*master, *copy), other_flop=_SGD_FLOP * size)
