"""Kernels of a step against numbers worked out by hand, and against the forecast of `--dry-run`."""

from collections import Counter

import numpy as np
import pytest

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.measure.timed_backend import TimedBackend
from owt_mpi.nn.layers import LRN, AvgPool2d, Conv2d, Dropout, Flatten, MaxPool2d, ReLU
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context, Module, Sequential
from owt_mpi.nn.recompute import RecomputedSequential
from owt_mpi.nn.restricted import restricted
from owt_mpi.ops.add import add
from owt_mpi.ops.conv2d import conv2d
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.fusing import FUSINGS, fused
from owt_mpi.planner.kernel import step_bytes, step_flop
from owt_mpi.summary import summarise
from owt_mpi.trainer import Trainer
from tests.planner.steps import SPEC, only, small_model, step_of


def test_a_convolution_of_alexnet_costs_what_its_formula_says():
    step = step_of("alexnet-owt", 2)
    x, w, y = 2 * 27 * 27 * 64, 192 * 5 * 5 * 64, 2 * 27 * 27 * 192
    for work in ("conv", "conv grad_w", "conv grad_x"):
        kernel = only(step, "trunk.conv2", work)
        assert kernel.product_flop == 2 * y * 5 * 5 * 64, work
        assert kernel.num_bytes == 4 * (x + w + y), work
    bias, bias_grad = (only(step, "trunk.conv2", work) for work in ("bias", "bias grad"))
    assert (bias.num_bytes, bias.flop) == (4 * (2 * y + 192), y)
    assert (bias_grad.num_bytes, bias_grad.flop) == (4 * (y + 192), y)


def test_a_linear_layer_reads_its_weights_once_a_direction():
    step = step_of("alexnet-owt", 8, "bf16")
    for work in ("linear", "linear grad_w", "linear grad_x"):
        kernel = only(step, "head.fc6", work)
        assert kernel.product_flop == 2 * 8 * 9216 * 4096, work
        assert kernel.num_bytes == 2 * (8 * 9216 + 9216 * 4096 + 8 * 4096), work
    assert only(step, "head.fc6", "linear grad_x").intensity == pytest.approx(7.97, abs=0.01)


@pytest.mark.parametrize(("precision", "floats"), [("fp32", 5), ("tf32", 5), ("bf16", 5), ("fp16", 5)])
def test_sgd_moves_five_floats_a_parameter(precision, floats):
    step = step_of("alexnet-owt", 2, precision)  # 16 bits: a gradient and a copy of the weights, half a float each
    assert only(step, "trunk", "momentum SGD").num_bytes == 4 * floats * 2_469_696
    assert only(step, "head", "momentum SGD").num_bytes == 4 * floats * (61_100_840 - 2_469_696)


def test_pooling_normalisation_dropout_and_loss_move_what_their_formulas_say():
    layers = {"conv": Conv2d(4, 8, 3, 1, 1), "lrn": LRN(), "max": MaxPool2d(3, 2), "average": AvgPool2d(2, 1)}
    step = step_of(small_model({**layers, "dropout": Dropout(0.5)}), 5)
    x, pooled, averaged, logits = 5 * 9 * 9 * 8, 5 * 4 * 4 * 8, 5 * 3 * 3 * 8, 5 * 6
    expected = {
        ("trunk.lrn", "LRN"): (8 * x, 9 * x),  # 5 channels: a square, 4 sums, alpha, k, a power, a product
        ("trunk.lrn", "LRN grad"): (12 * x, 19 * x),
        ("trunk.max", "max pool"): (4 * x + 5 * pooled, 8 * pooled),
        ("trunk.max", "max pool grad"): (4 * x + 5 * pooled, pooled),
        ("trunk.average", "average pool"): (4 * (pooled + averaged), 4 * averaged),
        ("trunk.average", "average pool grad"): (4 * (pooled + averaged), 4 * averaged),
        ("trunk.dropout", "dropout"): (8 * averaged, averaged),
        ("trunk.dropout", "dropout grad"): (8 * averaged, averaged),
        ("head", "logistic loss"): (8 * logits, 11 * logits),
        ("input", "crop, normalise"): (5 * 5 * 9 * 9 * 4, 2 * 5 * 9 * 9 * 4),
    }
    for (layer, work), costs in expected.items():
        kernel = only(step, layer, work)
        assert (kernel.num_bytes, kernel.flop) == costs, work


def test_a_step_of_alexnet_costs_4_14_gflop_of_products_an_image():
    products = sum(kernel.product_flop for kernel in step_of("alexnet-owt", 8)) / 8
    assert products / 1e9 == pytest.approx(4.14, abs=0.005)


@pytest.mark.parametrize("name", MODELS)
def test_products_are_three_times_the_multiply_adds_of_a_dry_run_without_the_first_gradient_of_x(name):
    layers = summarise(MODELS[name](SPEC), layout_of(Plan(1)), 3, np.dtype(np.float32)).layers
    adds = [layer.multiply_adds for layer in layers if layer.multiply_adds]
    step = step_of(name, 3)
    assert sum(kernel.product_flop for kernel in step) == 2 * (3 * sum(adds) - adds[0])
    assert sum(kernel.product_flop for kernel in step if "grad" not in kernel.work) == 2 * sum(adds)


@pytest.mark.parametrize("scheme", ["a", "b", "c", "d"])
@pytest.mark.parametrize("crosstalk", [1.0, 0.1])
def test_ranks_that_share_a_head_do_the_multiply_adds_of_a_dry_run(scheme, crosstalk):
    model, layout = restricted(MODELS["alexnet-owt"](SPEC), crosstalk, 8), layout_of(Plan(4, scheme))
    layers = summarise(model, layout, 8, np.dtype(np.float32)).layers
    a_pass = sum(layer.multiply_adds for layer in layers if layer.name.startswith("head"))
    step = step_of(model, 8, "fp32", scheme, 4)
    head = sum(kernel.product_flop * kernel.runs for kernel in step if kernel.layer.startswith("head"))
    assert head == 2 * 3 * a_pass * layout.scheme.num_passes(4)


def test_passes_after_the_first_add_to_the_gradients_of_the_one_before():
    step = step_of("alexnet-owt", 8, "fp32", "c", 4)
    first, further = (kernel for kernel in step if (kernel.layer, kernel.work) == ("head.fc7", "linear grad_w"))
    weights = 4096 * 4096 // 4
    assert (first.runs, further.runs) == (1, 3)
    assert first.num_bytes == 4 * (8 * 4096 + 8 * 1024 + weights)
    assert further.num_bytes == first.num_bytes + 4 * weights
    first, further = (kernel for kernel in step if (kernel.layer, kernel.work) == ("head.fc7", "linear grad_x"))
    assert further.num_bytes == first.num_bytes


def test_totals_count_every_run():
    step = step_of("alexnet-owt", 8, "fp32", "c", 4)
    assert step_bytes(step) - sum(kernel.num_bytes for kernel in step) == 2 * sum(
        kernel.num_bytes for kernel in step if kernel.runs == 3
    )
    assert step_flop(step) == sum(kernel.flop * kernel.runs for kernel in step)


def cut_model(*cuts: int):
    layers = {"lrn": LRN(), "conv": Conv2d(4, 8, 3, 1, 1), "relu": ReLU(), "max": MaxPool2d(3, 2)}
    model = small_model({**layers, "conv2": Conv2d(8, 8, 3, 1, 1)}, crop=13)
    assert isinstance(model.trunk, Sequential)
    model.trunk = RecomputedSequential(model.trunk, cuts)
    return model


@pytest.mark.parametrize(
    ("cuts", "twice"),
    [
        ((), set()),
        ((3,), {"trunk.lrn", "trunk.conv", "trunk.relu"}),
        ((1, 4), {"trunk.conv", "trunk.relu", "trunk.max"}),  # lrn comes before all that has a gradient
    ],
)
def test_what_is_computed_again_counts_twice(cuts, twice):
    whole, cut = step_of(cut_model(), 5), step_of(cut_model(*cuts), 5)
    forward = [k for k in whole if k.layer in twice and "grad" not in k.work]
    assert {kernel.layer for kernel in forward} == twice
    assert step_flop(cut) == step_flop(whole) + sum(kernel.flop for kernel in forward)
    assert step_bytes(cut) == step_bytes(whole) + sum(kernel.num_bytes for kernel in forward)


@pytest.mark.parametrize("cuts", [(), (3,), (1, 4)])
def test_kernels_run_as_often_as_a_training_step_calls_the_backend(cuts):
    model, backend = cut_model(*cuts), TimedBackend(ReferenceBackend())
    trainer = Trainer(Config(), model, make_layout(SerialCommunicator(), Plan(1)), backend, 5)
    images = np.random.default_rng(2).standard_normal((5, 13, 13, 4)).astype(np.float32)
    backend.calls.clear()
    trainer.train_step(Batch(images, np.arange(5), np.arange(5), np.arange(5), None), 0)
    called = Counter(call.operation for call in backend.calls)
    planned = Counter[str]()
    for kernel in step_of(model, 5):
        planned[kernel.work] += kernel.runs
    names = {"conv": "conv2d", "LRN": "lrn", "max pool": "max_pool2d", "conv grad_w": "conv2d_grad_w"}
    assert {work: planned[work] for work in names} == {work: called[name] for work, name in names.items()}


def test_a_layer_is_not_fused_with_one_that_runs_less_often():
    (pooled,) = [k for k in fused(step_of(cut_model(4), 5), "pool") if k.layer == "trunk.conv" and k.runs == 2]
    assert pooled.work == "conv + bias + ReLU + max pool"
    works = [(kernel.work, kernel.runs) for kernel in fused(step_of(cut_model(3), 5), "pool")]
    assert ("conv + bias + ReLU", 2) in works
    assert ("max pool", 1) in works


def test_the_input_split_adds_a_bias_to_its_own_block_of_the_sums():
    step = step_of("alexnet-owt", 8, "fp32", "d", 4)
    product, bias = (next(k for k in step if (k.layer, k.work) == ("head.fc7", work)) for work in ("linear", "bias"))
    assert product.num_bytes == 4 * (8 * 1024 + 1024 * 4096 + 8 * 4096)
    assert bias.num_bytes == 4 * (2 * 8 * 1024 + 1024)


def test_16_bits_halve_activations_and_leave_master_weights_whole():
    whole, half = step_of("vgg16", 2, "fp32"), step_of("vgg16", 2, "fp16")
    assert step_flop(whole) == step_flop(half)
    for a, b in zip(whole, half, strict=True):
        images = 2 * 224 * 224 * 3 if a.layer == "input" else 0  # uint8 in both
        same = a.work == "momentum SGD" or "max pool" in a.work
        assert same or (b.num_bytes - images) * 2 == a.num_bytes - images, a.work


class Branches(Module):
    """conv, and beside it a convolution of its output, added up."""

    def __init__(self) -> None:
        self.conv, self.relu, self.beside, self.flatten = Conv2d(4, 4, 3, 1, 1), ReLU(), Conv2d(4, 4, 1), Flatten()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        y = self.relu(self.conv(x, ctx), ctx)
        return self.flatten(add(y, self.beside(y, ctx)), ctx)


def test_gradients_of_a_tensor_that_is_used_twice_are_added_up():
    trunk = Branches()
    trunk.name, trunk.relu.name = "trunk", "trunk.relu"
    step = step_of(small_model(trunk), 5)
    x = 5 * 9 * 9 * 4
    (add_up,) = (kernel for kernel in step if kernel.work.startswith("sum of gradients"))
    assert add_up.work == "sum of gradients of trunk.relu"
    assert (add_up.num_bytes, add_up.flop) == (12 * x, x)
    works = [kernel.work for kernel in step]
    assert works.index(add_up.work) < works.index("ReLU grad")
    assert step[works.index("add")].num_bytes == 12 * x


class Rectified(Module):
    """A convolution that rectifies by itself."""

    def __init__(self) -> None:
        self.conv, self.flatten = Conv2d(4, 8, 3, 1, 1), Flatten()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        y = conv2d(x, self.conv.weight, self.conv.bias, self.conv.stride, self.conv.pad, relu=True)
        return self.flatten(y, ctx)


def test_a_layer_that_rectifies_by_itself_has_the_kernels_of_the_two():
    trunk = Rectified()
    trunk.name = "trunk"
    one, two = (step_of(small_model(t), 5) for t in (trunk, {"conv": Conv2d(4, 8, 3, 1, 1), "relu": ReLU()}))
    for fusing in FUSINGS:
        costs = [[(k.work, k.num_bytes, k.flop) for k in fused(step, fusing)] for step in (one, two)]
        assert costs[0] == costs[1], fusing


class SameTwice(Module):
    """One convolution, applied to its own output."""

    def __init__(self) -> None:
        self.conv, self.flatten = Conv2d(4, 4, 3, 1, 1), Flatten()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return self.flatten(self.conv(self.conv(x, ctx), ctx), ctx)


def test_a_layer_that_is_used_twice_makes_two_outputs_and_one_sum_of_gradients():
    trunk = SameTwice()
    trunk.name = "trunk"
    step = step_of(small_model(trunk), 5)
    outputs = [operand.name for kernel in step if kernel.work == "bias" for operand in kernel.writes]
    assert outputs == ["trunk.conv", "trunk.conv (2)", "head.fc"]
    sums = {kernel.work: kernel.num_bytes for kernel in step if kernel.work.startswith("sum")}
    assert sums == {
        "sum of gradients of trunk.conv.weight": 3 * 4 * 4 * 3 * 3 * 4,
        "sum of gradients of trunk.conv.bias": 3 * 4 * 4,
    }


class SquareOp(Op):
    def out_shape(self, *shapes):
        return shapes[0]


class Square(Module):
    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return SquareOp()(x)


def test_an_operation_of_ones_own_reads_and_writes_what_the_tape_hands_it():
    step = step_of(small_model({"conv": Conv2d(4, 4, 3, 1, 1), "square": Square()}), 5)
    x = 5 * 9 * 9 * 4
    assert only(step, "trunk.square", "SquareOp").num_bytes == 8 * x
    assert only(step, "trunk.square", "SquareOp grad").num_bytes == 12 * x


def test_a_trunk_without_parameters_has_no_backward_pass_and_no_update():
    step = step_of(small_model({"lrn": LRN(), "pool": MaxPool2d(3, 2)}), 5)
    trunk = [kernel.work for kernel in step if kernel.layer.startswith("trunk")]
    assert trunk == ["LRN", "max pool"]
    assert not [kernel for kernel in step if kernel.work == "linear grad_x"]
