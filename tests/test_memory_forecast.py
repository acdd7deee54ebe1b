"""The forecast of memory: sums by hand for a small net, the arrays of a real step, and what backends keep."""

import tracemalloc
from collections.abc import Sequence
from math import prod

import numpy as np
import pytest

from owt_mpi.backends.base import DropoutMask
from owt_mpi.backends.cuda_kernels import winner_dtype
from owt_mpi.backends.kept import workspace_bytes
from owt_mpi.backends.onednn import OneDnnBackend
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.memory_forecast import MemoryForecast, MemoryOptions, forecast_memory
from owt_mpi.nn.layers import LRN, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.module import Sequential
from owt_mpi.nn.recompute import RecomputedSequential
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer

N = 4


def net(channels: int = 2, crop: int = 6, units: int = 8, classes: int = 4, cuts: Sequence[int] = ()) -> Model:
    """Return conv (to 4 channels), ReLU, LRN, pool (2), flatten; linear, ReLU, dropout, linear."""
    features = (crop // 2) ** 2 * 4
    trunk = Sequential(
        {"conv": Conv2d(channels, 4, 3, 1, 1), "relu": ReLU(), "lrn": LRN(3), "pool": MaxPool2d(2, 2),
         "flatten": Flatten()}
    )  # fmt: skip
    head = Sequential(
        {"fc1": Linear(features, units), "relu1": ReLU(), "dropout1": Dropout(0.5), "fc2": Linear(units, classes)}
    )
    whole = RecomputedSequential(trunk, cuts) if cuts else trunk
    return Model("net", InputSpec(crop, channels, classes), whole, head, "softmax")


def forecast_of(
    plan: Plan, options: MemoryOptions, cuts: Sequence[int] = (), dtype: type = np.float32
) -> MemoryForecast:
    def fn(comm):
        return forecast_memory(net(cuts=cuts), make_layout(comm, plan), N, np.dtype(dtype), options)

    return run_ranks(plan.num_ranks, fn)[0]


# the net's numbers, of 4 bytes each
TRUNK = 4 * 2 * 9 + 4
FC1, FC2 = 36 * 8, 8 * 4
HEAD = FC1 + 8 + FC2 + 4
IMAGES = N * 6 * 6 * 2
CONV = LRN_OUT = N * 6 * 6 * 4  # rectified
POOL = N * 3 * 3 * 4


@pytest.mark.parametrize("backend", ["onednn", "reference", "cuda"])
def test_one_rank_needs_the_sum_by_hand(backend):
    forecast = forecast_of(Plan(1), MemoryOptions(backend, prefetch=3, device_bytes=16_000))
    workspace = {
        "onednn": 3 * 4 * 72,
        "reference": 4 * max(4 * POOL, IMAGES + 2 * CONV),
        "cuda": 1000,
    }[backend]
    assert forecast.always == {
        "weights": 4 * (TRUNK + HEAD),
        "gradients": 4 * (TRUNK + HEAD),
        "momentum": 4 * (TRUNK + HEAD),
        "images": 4 * IMAGES + (3 + 2) * IMAGES if backend == "cuda" else 4 * IMAGES * (3 + 2) + IMAGES,
        "workspace": workspace,
    }
    lrn, winners = {"onednn": (8, 1), "reference": (4, 8), "cuda": (0, 1)}[backend]
    kept = 4 * CONV + 4 * LRN_OUT + lrn * LRN_OUT + 4 * POOL + winners * POOL
    head_kept = 4 * (N * 8) + 4 * N * 4  # of fc1, ReLU and dropout the last output alone
    logits = 4 * N * 4
    assert forecast.phases["head"] == {
        "activations of the trunk": kept,
        "activations of the head": head_kept + 2 * logits,
        # what all of this needs less what is kept: fc2's input and output still there, or fc1's
        "gradients under way": max(logits + 4 * N * 8, 4 * N * 8 + 4 * N * 36 - logits),
        "exchange": 4 * N * 36 * 2 + 4 * N * 36,
    }
    assert forecast.beside == ({"images": 2 * IMAGES, "pinned memory": 12 << 20} if backend == "cuda" else {})
    # weights, momentum, images, what the trunk keeps; then the head's and the gradient of the logits, or its gradients
    sure = 4 * (2 * (TRUNK + HEAD) + IMAGES) + kept + max(head_kept + logits, 4 * HEAD)
    assert forecast.least_bytes == sure - (4 * LRN_OUT if backend == "onednn" else 0)
    # the gradient of the pooling with everything kept, or LRN's when the pooling is done
    last, before = 4 * POOL + 4 * LRN_OUT, 8 * CONV - (4 + winners) * POOL
    assert forecast.phases["trunk backward"] == {
        "activations of the trunk": kept,
        "activations of the head": logits,
        "gradients under way": max(last, before),
        "exchange": 2 * 4 * POOL,
    }


def test_ranks_that_share_the_head_hold_their_part_of_it_and_what_is_exchanged():
    alone = forecast_of(Plan(1), MemoryOptions())
    shared = forecast_of(Plan(2, "c"), MemoryOptions())
    head = 4 * (FC1 + 8 + FC2 + 4) // 2
    assert shared.always["weights"] == 4 * TRUNK + head
    # two passes of 4 rows each: assembled for this pass and the next, one gradient that leaves, and what came back
    assert shared.phases["head"]["exchange"] == 4 * (3 * N * 36 + N * 36)
    # a second pass adds the gradient of fc1's weights to the first's in a third array
    fc1, out = 4 * FC1 // 2 + 4 * 8 // 2, 4 * N * 8 // 2
    kept = out + 4 * N * 8 + 4 * N * 4 // 2  # rectified and dropped, gathered; logits
    assert shared.phases["head"]["gradients under way"] == 2 * out + 4 * N * 36 + 2 * fc1 - kept
    assert shared.phases["head"]["activations of the trunk"] == alone.phases["head"]["activations of the trunk"]
    split_inputs = forecast_of(Plan(2, "d"), MemoryOptions())
    assert split_inputs.phases["head"]["exchange"] == 4 * (3 * N * 36 // 2 + N * 36)


def test_at_least_needed_are_gradients_in_buckets_and_what_is_assembled():
    plain, shared = forecast_of(Plan(1), MemoryOptions("cuda")), forecast_of(Plan(2, "c"), MemoryOptions("cuda"))
    replicated = forecast_of(Plan(2, "dp"), MemoryOptions("cuda"))
    in_head = plain.phases["head"]["activations of the head"] - 4 * N * 4  # the gradient of the logits once
    assert replicated.least_bytes == plain.least_bytes + 4 * TRUNK + in_head
    held = 4 * (3 * TRUNK + 2 * HEAD // 2 + IMAGES)
    in_head = shared.phases["head"]["activations of the trunk"] + shared.phases["head"]["activations of the head"]
    assert shared.least_bytes == held + in_head - 4 * N * 4 // 2 + 4 * N * 36
    assert shared.least_bytes < shared.num_bytes


def test_at_least_needed_is_the_largest_block_that_is_computed_again_or_all_gradients():
    whole, cut = (forecast_of(Plan(1), MemoryOptions("cuda"), cuts) for cuts in ((), (3,)))
    before, after = 4 * CONV + 4 * LRN_OUT, 4 * LRN_OUT + 4 * POOL + POOL
    assert cut.phases["head"]["activations of the trunk"] == after
    lasting = 4 * (2 * (TRUNK + HEAD) + IMAGES)
    assert cut.least_bytes == lasting + max(before + 4 * HEAD, whole.least_bytes - lasting - 4 * CONV)

    def fn(comm):
        wide = net(crop=2, units=4000)
        return forecast_memory(wide, make_layout(comm, Plan(1)), 1, np.dtype("f4"), MemoryOptions("cuda"))

    few_images = run_ranks(1, fn)[0]
    weights = few_images.always["weights"]
    assert few_images.least_bytes == 3 * weights + 4 * 2 * 2 * 2


def test_a_transports_pinned_memory_is_the_hosts():
    forecast = forecast_of(Plan(1), MemoryOptions("cuda", pinned_bytes=1000))
    assert forecast.beside["pinned memory"] == (12 << 20) + 1000


def test_gradients_on_the_wire_are_copies_and_sharded_weights_come_back():
    plain = forecast_of(Plan(2, "dp"), MemoryOptions())
    rounded = forecast_of(Plan(2, "dp"), MemoryOptions(wire_dtype="float16"))
    sharded = forecast_of(Plan(2, "dp"), MemoryOptions(trunk_sync="sharded"))
    everything, boundary = TRUNK + HEAD, 2 * 4 * POOL
    assert plain.phases["trunk backward"]["exchange"] == boundary, "sums are made in place"
    assert rounded.phases["trunk backward"]["exchange"] == boundary + 2 * 2 * everything
    assert sharded.phases["trunk backward"]["exchange"] == boundary + 6 * everything
    assert (plain.always["momentum"], sharded.always["momentum"]) == (4 * everything, 4 * everything // 2)


def test_halves_are_half_but_for_master_weights_momentum_and_the_loss():
    options = MemoryOptions("cuda", workspace_bytes=500)
    whole, half = forecast_of(Plan(2, "c"), options), forecast_of(Plan(2, "c"), options, dtype=np.float16)
    assert half.always == {
        "weights": whole.always["weights"] // 2,
        "master weights": whole.always["weights"],
        "gradients": whole.always["weights"] // 2,
        "momentum": whole.always["weights"],
        "images": 2 * IMAGES + (2 + 2) * IMAGES,  # made ahead of bytes
        "workspace": 500,
    }
    winners, logits = POOL, 4 * N * 4 // 2  # a byte each; in float32, of half the classes
    kept = 2 * CONV + 2 * LRN_OUT + 2 * POOL + winners
    assert half.phases["head"]["activations of the trunk"] == kept
    outputs = 2 * (N * 8 // 2 + N * 8 + N * 4 // 2)  # rectified and dropped, gathered; logits
    assert half.phases["head"]["activations of the head"] == outputs + 3 * logits + logits
    assert half.phases["head"]["exchange"] == whole.phases["head"]["exchange"] // 2
    assert half.phases["trunk backward"]["exchange"] == 2 * 2 * POOL + 2 * 2 * TRUNK, "sums come back"


def test_shared_out_master_weights_are_a_share_and_halves_come_back():
    half = forecast_of(Plan(2, "dp"), MemoryOptions(trunk_sync="sharded"), dtype=np.float16)
    everything = TRUNK + HEAD
    assert half.always["master weights"] == half.always["momentum"] == 4 * everything // 2
    sums, weights, terms = 4 * everything // 2, 2 * everything, 2 * 2 * everything
    assert half.phases["update"]["exchange"] == sums + weights + terms


def test_the_host_computes_halves_in_float32():
    forecast = forecast_of(Plan(1), MemoryOptions("reference"), dtype=np.float16)
    assert forecast.always["images"] == 2 * IMAGES * (2 + 2) + IMAGES
    # the pooling of rectified and normalised numbers: what it does, and its operand and result in float32
    assert forecast.always["workspace"] == 4 * max(
        4 * POOL + LRN_OUT + POOL, IMAGES + 2 * CONV + IMAGES + 72 + 4 + CONV
    )
    kept = forecast.phases["head"]["activations of the trunk"]
    assert kept == 2 * CONV + 2 * LRN_OUT + 4 * LRN_OUT + 2 * POOL + 8 * POOL


def test_recomputing_keeps_the_cuts_in_place_of_what_is_before_them():
    whole = forecast_of(Plan(1), MemoryOptions())
    cut = forecast_of(Plan(1), MemoryOptions(), cuts=(2,))  # between ReLU and LRN
    lrn_and_pool = 12 * LRN_OUT + 5 * POOL
    assert whole.phases["head"]["activations of the trunk"] == 4 * CONV + lrn_and_pool
    assert cut.phases["head"]["activations of the trunk"] == 4 * CONV + lrn_and_pool
    cut = forecast_of(Plan(1), MemoryOptions(), cuts=(3,))  # between LRN and pool
    assert cut.phases["head"]["activations of the trunk"] == 4 * LRN_OUT + 5 * POOL
    assert cut.always == whole.always


@pytest.mark.parametrize(("dtype", "bytes_each"), [(np.float32, 4 + 4), (np.float16, 2 + 4 + 4)])
def test_a_head_whose_steps_can_be_left_out_is_kept_as_it_was_where_it_learns_within_them(dtype, bytes_each):
    plain, copied = (forecast_of(Plan(2, "c"), MemoryOptions(copies_head=copies), dtype=dtype) for copies in (0, 1))
    copies = bytes_each * (FC1 + 8 + FC2 + 4) // 2  # weights, momentum, and of halves the master weights
    assert copied.always == {**plain.always, "the head before the step": copies}
    assert copied.least_bytes == plain.least_bytes + copies
    once = forecast_of(Plan(2, "a"), MemoryOptions(copies_head=True))
    assert once == forecast_of(Plan(2, "a"), MemoryOptions()), "a single pass is a single update"


def test_a_replayed_trunk_keeps_its_memory_for_itself():
    plain, replayed = (forecast_of(Plan(1), MemoryOptions("cuda", replayed=replayed)) for replayed in (False, True))
    assert replayed.always == {**plain.always, "inputs of graphs": 4 * IMAGES + 4 * POOL}
    backward = plain.phases["trunk backward"]
    assert replayed.phases["trunk backward"] == backward
    held, under_way = backward["activations of the trunk"], backward["gradients under way"]
    assert replayed.phases["head"] == {**plain.phases["head"], "set aside for the trunk": under_way}
    assert replayed.phases["update"] == {**plain.phases["update"], "set aside for the trunk": held + under_way}


def test_the_peak_is_that_of_the_phase_that_needs_most():
    phases = {"head": {"exchange": 1}, "update": {"update": 2, "exchange": 4}}
    forecast = MemoryForecast({"weights": 60}, phases, lost_share=0.5, least_bytes=60)
    assert forecast.peak == "update"
    assert forecast.parts == {"weights": 60, "update": 2, "exchange": 4, "lost between arrays": 33}
    assert forecast.num_bytes == 99


@pytest.mark.parametrize(
    ("name", "precision", "cuts"),
    [("onednn", "fp32", ()), ("onednn", "fp32", (3,)), ("reference", "fp32", ()), ("reference", "fp16", ())],
)
def test_the_arrays_of_a_real_step_need_what_is_forecast_and_more_than_the_least(name, precision, cuts):
    model, dtype, num_images = net(3, 32, 64, 10, cuts), compute_dtype(precision, "float32"), 128
    backend, config = select_backend(name, dtype)[0], Config(parallel=ParallelOptions(precision=precision))
    layout = make_layout(carrying_halves(SerialCommunicator(), dtype), Plan(1))
    forecast = forecast_memory(model, layout, num_images, dtype, MemoryOptions(name))
    rows = np.arange(num_images)
    images = np.random.default_rng(1).standard_normal((num_images, 32, 32, 3)).astype(dtype)
    batch = Batch(images, rows % 10, rows, rows, None)
    backend.set_num_threads(1)
    tracemalloc.start()
    try:
        trainer = Trainer(config, model, layout, backend, num_images)
        trainer.train_step(batch, 0)
        tracemalloc.reset_peak()
        trainer.train_step(batch, 1)
        measured = tracemalloc.get_traced_memory()[1] + images.nbytes  # which were made before
    finally:
        tracemalloc.stop()
    ahead = forecast.always["images"] - images.nbytes  # there is no loader
    without = ahead + forecast.parts["lost between arrays"]
    assert (forecast.num_bytes - without) / measured == pytest.approx(1.0, abs=0.04)
    assert measured / 3 < forecast.least_bytes < measured


@pytest.mark.parametrize("backend", [ReferenceBackend(), OneDnnBackend()])
def test_workspaces_are_those_that_backends_return(backend):
    x = np.random.default_rng(2).standard_normal((2, 9, 8, 16)).astype(np.float32)
    y, winners = backend.max_pool2d(x, (3, 3), (2, 2), (0, 0))
    assert winners.nbytes == workspace_bytes(backend.name, "max_pool2d", y.size, 4, 9)
    _, denominators = backend.lrn(x, 5, 0.1, 0.75, 1.0)
    if backend.name == "reference" or backend.library.isa == "AVX-512":
        assert denominators.nbytes == workspace_bytes(backend.name, "lrn", x.size, 4)
    _, factor = backend.dropout(x, DropoutMask(0.5, 1, np.arange(2), 0, prod(x.shape[1:]), 2.0))
    assert factor.nbytes == workspace_bytes(backend.name, "dropout", x.size, 4)


def test_the_gpu_notes_winners_in_as_few_bytes_as_will_do():
    for kernel in ((3, 3), (16, 16), (17, 16)):
        assert winner_dtype(kernel).itemsize == workspace_bytes("cuda", "max_pool2d", 1, 4, prod(kernel))
