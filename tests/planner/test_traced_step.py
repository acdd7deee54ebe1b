"""The step of training on ghosts: it does the arithmetic, and moves the bytes, of the step that it stands for."""

import numpy as np
import pytest

from owt_mpi.autograd import Op, Tensor
from owt_mpi.comm.threads import run_ranks
from owt_mpi.memory_forecast import MemoryOptions
from owt_mpi.nn.layers import Conv2d
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.module import Context, Module
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.planner import exchange
from owt_mpi.planner.costs import step_kernels
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.ghost import Ghost
from owt_mpi.planner.kernel import Kernel
from owt_mpi.planner.recording import Event, Recording, RecordingCommunicator, Start, Wait
from owt_mpi.planner.traced_step import SyncOptions, traced_step
from owt_mpi.summary import summarise
from tests.planner.steps import SPEC, small_model

PLANS = [Plan(1), Plan(8, "dp"), *(Plan(8, s) for s in "abcd"), Plan(8, "c", 4), Plan(8, "c", 8, 2), Plan(1024, "d", 2)]


def trace(plan: Plan, n: int = 16, model: str = "alexnet-owt", precision="fp32", update=None, sync=None) -> list[Event]:
    return traced_step(find_builder(model), SPEC, plan, n, precision, True, update, sync)


def received(start: Start) -> float:
    """What the mean rank receives by a ring."""
    collective, size = start.collective, start.collective.group.size
    whole = collective.num_bytes * (size if collective.kind == "all_gather" else 1)
    return (2 if collective.kind == "all_reduce" else 1) * whole * (size - 1) / size


def is_forecast(start: Start) -> bool:
    """Labels, hits, score and checks for overflow are some bytes an example, and in no forecast."""
    collective = start.collective
    is_label = collective.kind == "all_gather" and collective.num_bytes == 8 * 16
    is_hit = collective.group.label == "head" and collective.kind == "all_reduce"
    return not (is_label or is_hit or collective.group.label == "world")


@pytest.mark.parametrize("model", ["alexnet-owt", "vgg11", "small"])
@pytest.mark.parametrize("plan", PLANS)
def test_products_are_those_of_the_planned_kernels(plan, model):
    planned = step_kernels(find_builder(model)(SPEC), layout_of(plan), 16, "fp32")
    done = sum(event.product_flop for event in trace(plan, model=model) if isinstance(event, Kernel))
    assert done == sum(kernel.product_flop * kernel.runs for kernel in planned)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("plan", PLANS[1:])
def test_bytes_are_those_of_the_forecast(plan, precision):
    dtype = np.dtype({"fp32": "f4", "fp16": "f2"}[precision])
    forecast = summarise(find_builder("alexnet-owt")(SPEC), layout_of(plan), 16, dtype).received_bytes
    starts = [event for event in trace(plan, precision=precision) if isinstance(event, Start)]
    told = sum(received(start) for start in starts if is_forecast(start))
    assert told == pytest.approx(sum(forecast.values()), rel=2e-4)  # the zeros that fill up buckets


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("wire_dtype", ["auto", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
def test_bytes_are_those_of_the_forecast_however_weights_are_kept_in_step(trunk_sync, wire_dtype, precision):
    dtype, plan = np.dtype({"fp32": "f4", "fp16": "f2"}[precision]), Plan(8, "c", 4)
    options = MemoryOptions(trunk_sync=trunk_sync, wire_dtype=wire_dtype)
    forecast = summarise(find_builder("alexnet-owt")(SPEC), layout_of(plan), 16, dtype, options).received_bytes
    events = trace(plan, precision=precision, sync=SyncOptions(trunk_sync, wire_dtype))
    told = sum(received(event) for event in events if isinstance(event, Start) and is_forecast(event))
    assert told == pytest.approx(sum(forecast.values()), rel=2e-4)


def test_numbers_of_bf16_cross_as_they_are_where_bfloat16_is_asked_for():
    usual, told = (trace(Plan(8, "dp"), precision="bf16", sync=SyncOptions(wire_dtype=w)) for w in ("auto", "bfloat16"))
    assert told == usual


def test_larger_buckets_are_fewer():
    def num_sums(bucket_mib):
        events = trace(Plan(8, "dp"), sync=SyncOptions(bucket_mib=bucket_mib))
        return sum(isinstance(event, Start) and event.collective.kind == "all_reduce" for event in events)

    assert num_sums(64.0) < num_sums(4.0)


@pytest.mark.parametrize("plan", PLANS)
def test_everything_that_is_started_is_awaited_once(plan):
    events = trace(plan)
    starts = [event.number for event in events if isinstance(event, Start)]
    assert starts == list(range(len(starts)))
    assert sorted(event.number for event in events if isinstance(event, Wait)) == starts


def test_the_pass_loop_is_that_of_training():
    """Activations of pass p + 1 are started before the head computes pass p, gradients of p awaited at the end."""
    names = {"all_gather_rows": "A", "reduce_scatter_rows": "R"}
    told, boundary = [], {}
    for event in trace(Plan(4, "c")):
        if isinstance(event, Start) and event.collective.kind in names:
            boundary[event.number] = f"{names[event.collective.kind]}{len(boundary) // 2}"
            told.append(f"start {names[event.collective.kind]}")
        elif isinstance(event, Wait) and event.number in boundary:
            told.append(f"wait {boundary[event.number][0]}")
    loop = ["start A", "wait A"] + ["start A", "start R", "wait A"] * 3 + ["start R"] + ["wait R"] * 4
    assert told == loop


def test_buckets_leave_under_the_backward_pass():
    events = trace(Plan(2, "c"))
    trunk = [i for i, e in enumerate(events) if isinstance(e, Start) and e.collective.group.label == "trunk"]
    last_product = max(i for i, e in enumerate(events) if isinstance(e, Kernel) and e.work == "conv2d_grad_w")
    assert len(trunk) == 3
    assert trunk[1] < last_product < trunk[2]


def test_an_update_after_every_pass_is_seen():
    once, always = (
        sum(event.work == "momentum_sgd" for event in trace(Plan(4, "c"), update=update) if isinstance(event, Kernel))
        for update in (HeadUpdate(0), HeadUpdate(1))
    )
    assert always - once == 3 * 6  # three more updates of three layers' weights and biases


@pytest.mark.parametrize("plan", [Plan(1), Plan(4, "c"), Plan(8, "d", 2), Plan(6, "dp")])
def test_the_lone_layout_is_that_of_the_first_of_many_ranks(plan):
    def sizes(layout):
        return [(c.label, c.size) for c in (layout.trunk, layout.boundary, layout.head, layout.replicas)]

    def make(world):
        layout = make_layout(world, plan)
        return sizes(layout), layout.members, layout.scheme.name

    lone = layout_of(plan)
    assert (sizes(lone), lone.members, lone.scheme.name) == run_ranks(plan.num_ranks, make)[0]


def test_replicas_are_as_far_apart_as_groups_are_large():
    groups = []
    layout_of(Plan(8, "c", 2), lambda group: groups.append(group) or RecordingCommunicator(group))
    assert {(group.label, group.size, group.stride) for group in groups} >= {("replicas", 4, 2), ("head", 2, 1)}


def test_a_rank_that_is_alone_records_no_collective():
    recording = Recording()
    comm = RecordingCommunicator(exchange.Group("one", 1), recording)
    assert comm.start_all_gather(np.ones(3)).wait().tolist() == [1, 1, 1]
    assert recording.events == []


def test_only_the_first_wait_for_a_collective_is_one():
    recording = Recording()
    pending = RecordingCommunicator(exchange.Group("two", 2), recording).start_all_gather(np.ones(3))
    assert pending.wait().tolist() == pending.wait().tolist() == [1] * 6
    assert [type(event) for event in recording.events] == [Start, Wait]


class SortOp(Op):
    """Something that needs numbers."""

    def out_shape(self, *shapes):
        return shapes[0]

    def forward(self, *xs):
        return self.backend.xp.sort(xs[0])

    def backward(self, gy):
        return (gy,)


class Sort(Module):
    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return SortOp()(x)


def test_a_network_whose_own_operation_needs_numbers_is_refused_in_words():
    model = small_model({"conv": Conv2d(4, 8, 3), "sort": Sort()})
    with pytest.raises(ValueError, match=r"model small cannot be planned: an operation does .*sort"):
        traced_step(lambda spec: model, model.spec, Plan(1), 4, "fp32", False)


def test_ghosts_have_the_shapes_of_arrays():
    array, told = np.zeros((3, 4, 5), np.float32), []
    ghost = Ghost(array.shape, array.dtype, lambda work, num_bytes: told.append((work, num_bytes)))
    for of in (
        lambda x: x[1:, ..., 2],
        lambda x: x.reshape(12, -1),
        lambda x: x.sum(axis=(0, -1)),
        lambda x: x.max(axis=1, keepdims=True),
        lambda x: x.sum(),
        lambda x: 2 * x[0] + x,
        lambda x: -x / 3 - x[:, :1],
        lambda x: x.astype(np.float16, copy=False),
    ):
        assert (of(ghost).shape, of(ghost).dtype) == (of(array).shape, of(array).dtype)
    told.clear()
    ghost += ghost
    assert told == [("add", 3 * array.nbytes)]
    with pytest.raises(ValueError, match="broadcast"):
        ghost[0] = np.zeros((5, 5), np.float32)
