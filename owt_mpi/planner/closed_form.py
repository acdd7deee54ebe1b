"""The time of a step as a sum that can be written on paper; the simulation is held to it.

    T = F + labels + A + sum over the P passes of pass(p) + R + max(B, Q) + q + S + U

F, B and U are the computing of the trunk's forward and backward and of the updates; A and R a pass's boundary exchange
there and back; Q all exchange of gradients but the last bucket's, which cannot leave before the backward pass is over,
and q that one's; S the hits and the score. A pass computes h until its first exchange within the head, H in all, and
exchanges X there. Exchanges run one after the other, so X has to wait for the R of the pass before and the A of the one
behind, which have been started earlier:

    pass(p) = max(h, [R if p > 0] + [A if p < P - 1]) + (H - h) + X          (without X: the same with h = H)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from owt_mpi.autograd import Op, symbolic
from owt_mpi.nn.model import Model
from owt_mpi.nn.walk import walk
from owt_mpi.parallel.collective_ops import AllGatherOp, ReduceScatterOp
from owt_mpi.parallel.grad_sync import group_parameters
from owt_mpi.parallel.layout import Layout, Plan
from owt_mpi.parallel.schemes import InputSplit, Scheme, Senders
from owt_mpi.parallel.sharded import shard_head
from owt_mpi.planner.cluster import Cluster
from owt_mpi.planner.collective_times import collective_seconds
from owt_mpi.planner.costs import step_kernels
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.fusing import fused
from owt_mpi.planner.kernel import Kernel, Operand, PrecisionName
from owt_mpi.planner.recording import Collective, Group

_BUCKET_BYTES, _ITEMSIZE = 4 << 20, 4
_SCORE_BYTES, _LABEL_BYTES, _LOGIT_BYTES = 56, 8, 4


@dataclass(frozen=True)
class _Machine:
    cluster: Cluster
    plan: Plan
    precision: PrecisionName

    def compute(self, kernels: Iterable[Kernel]) -> float:
        """Return the seconds of all runs of `kernels`."""
        return sum(self.cluster.device.seconds(each, self.precision) * each.runs for each in kernels)

    def exchange(self, size: int, kind: str, num_bytes: int, stride: int = 1) -> float:
        """Return the seconds of a collective, none where a rank is alone."""
        if size == 1:
            return 0.0
        return collective_seconds(
            self.cluster, Collective(Group("", size, stride), kind, num_bytes), self.plan.num_ranks
        )


def closed_form_seconds(model: Model, plan: Plan, images: int, precision: PrecisionName, cluster: Cluster) -> float:
    """Return T for `images` (n) a rank, in fp32 or tf32, on a cluster that computes and exchanges at once."""
    layout, machine = layout_of(plan), _Machine(cluster, plan, precision)
    kernels = fused(step_kernels(model, layout, images, precision), "bias + ReLU")
    trunk = [each for each in kernels if each.layer.startswith("trunk")]
    update = [each for each in kernels if each.work == "momentum SGD"]
    forward = machine.compute(each for each in trunk if "grad" not in each.work and each not in update)
    backward = machine.compute(each for each in trunk if "grad" in each.work)
    early, last = _gradients(model, layout, machine)
    size, shared = plan.num_ranks, layout.boundary.size
    rows = shared * images
    score = machine.exchange(shared, "all_reduce", rows * _LOGIT_BYTES)
    score += machine.exchange(shared, "all_reduce", rows * 2 * _LOGIT_BYTES)
    score += machine.exchange(size, "all_reduce", _SCORE_BYTES)
    return (
        forward
        + machine.exchange(shared, "all_gather", images * _LABEL_BYTES)
        + _passes(model, layout, machine, [each for each in kernels if each.layer.startswith("head")], images)
        + max(backward, early)
        + last
        + score
        + machine.compute([*update, *_looks_and_copies(model, layout)])
    )


def _passes(model: Model, layout: Layout, machine: _Machine, kernels: Sequence[Kernel], images: int) -> float:
    scheme, size = layout.scheme, layout.boundary.size
    there, back = _boundary(scheme, size, images, model.num_features, machine)
    kernels = [each for each in kernels if each.work != "momentum SGD"]
    num_passes = scheme.num_passes(size)
    beside = _beside_operations(model, layout, kernels, images)
    whole = (machine.compute(kernels) + machine.compute(beside)) / num_passes
    further = {id(each) for each in kernels if each.runs > 1}
    within = _within_head(model, layout, machine, images)
    is_first_product = [i for i, each in enumerate(kernels) if each.work.startswith("linear")]
    ahead = machine.compute(each for each in kernels[: is_first_product[0] + 1] if id(each) not in further)
    ahead = ahead if within else whole
    seconds = there + back
    for p in range(num_passes):
        busy = back * (p > 0) + there * (p < num_passes - 1)
        seconds += max(ahead, busy) + whole - ahead + within
    return seconds


def _boundary(scheme: Scheme, size: int, images: int, features: int, machine: _Machine) -> tuple[float, float]:
    """Return the seconds of a pass's exchange at the boundary, there and back."""
    if isinstance(scheme, InputSplit):
        both = machine.exchange(size, "all_to_all", images // size * features * _ITEMSIZE)
        return both, both
    num_bytes = images * features * _ITEMSIZE
    if not isinstance(scheme, Senders):
        whole = num_bytes * size
        return machine.exchange(size, "all_gather", num_bytes), machine.exchange(size, "reduce_scatter", whole)
    some = " of some" if scheme.senders < size else ""
    return (
        machine.exchange(size, f"all_gather_rows{some}", num_bytes),
        machine.exchange(size, f"reduce_scatter_rows{some}", num_bytes),
    )


def _within_head(model: Model, layout: Layout, machine: _Machine, images: int) -> float:
    """Return the seconds of a pass's exchanges between the head's layers, forward and backward."""
    scheme, size = layout.scheme, layout.boundary.size
    rows = len(scheme.group_rows(size, images, 0))
    features = model.num_features // (size if scheme.splits_inputs else 1)
    head = shard_head(model.head, layout.head, model.num_features, scheme.splits_inputs)
    ops: list[Op] = [op for visit in walk(head, symbolic((rows, features)))[0] for op in visit.ops]
    seconds = 0.0
    for op in ops:
        if isinstance(op, AllGatherOp | ReduceScatterOp):
            inner = prod(op.inputs[0].shape) * _ITEMSIZE // (size if isinstance(op, ReduceScatterOp) else 1)
            seconds += machine.exchange(size, "all_gather", inner)
            seconds += machine.exchange(size, "reduce_scatter", inner * size)
    return seconds


def _gradients(model: Model, layout: Layout, machine: _Machine) -> tuple[float, float]:
    """Return the seconds of all exchange of gradients but the trunk's last bucket's, and of that."""
    head = shard_head(model.head, layout.head, model.num_features, layout.scheme.splits_inputs)
    seconds = []
    for part, size, stride in (
        (head, layout.replicas.size, layout.boundary.size),
        (model.trunk, layout.trunk.size, 1),
    ):
        for group in group_parameters(part.parameters(), _BUCKET_BYTES):
            num_bytes = sum(prod(p.shape) for p in group) * _ITEMSIZE
            seconds.append(machine.exchange(size, "all_reduce", num_bytes, stride))
    return sum(seconds[:-1]), seconds[-1]


def _beside_operations(model: Model, layout: Layout, kernels: Sequence[Kernel], images: int) -> list[Kernel]:
    """Return what the passes do besides operations: gradients scaled, added to those before, and put in their place."""
    size, num_passes = layout.boundary.size, layout.scheme.num_passes(layout.boundary.size)
    further = [kernel for kernel in kernels if kernel.runs > 1]
    sums = [each for kernel in further for each in kernel.writes if "weight" in each.name or "bias" in each.name]
    added = [Kernel("", "add", (each, each), (), runs=num_passes - 1) for each in sums]  # read and written once more
    features = model.num_features // (size if layout.scheme.splits_inputs else 1)
    acts = Operand("", len(layout.scheme.group_rows(size, images, 0)) * features * _ITEMSIZE)
    placed = Operand("", images * model.num_features // num_passes * _ITEMSIZE)
    scaled = Kernel("", "scale", (acts,), (acts,), runs=num_passes)
    return [*added, scaled, Kernel("", "copy", (placed,), (placed,), runs=num_passes)]


def _looks_and_copies(model: Model, layout: Layout) -> list[Kernel]:
    """Return what else is done with gradients: a look for overflows, copies into buckets, an update a parameter."""
    head = shard_head(model.head, layout.head, model.num_features, layout.scheme.splits_inputs)
    made = []
    for part, size in ((model.trunk, layout.trunk.size), (head, layout.replicas.size)):
        each = [Operand("", prod(p.shape) * _ITEMSIZE) for p in part.parameters()]
        made.append(Kernel("", "find overflow", tuple(each), ()))
        made += [Kernel("", "copy", (one,), (one,)) for one in each if size > 1]
        made += [Kernel("", "start an update", (), ()) for _ in each[1:]]
    return made
