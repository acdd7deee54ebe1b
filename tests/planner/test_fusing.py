"""Fusing saves the passes over memory that it says, and loses nothing that another kernel reads."""

import pytest

from owt_mpi.autograd import Tensor
from owt_mpi.nn.layers import Conv2d, Flatten, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context, Module
from owt_mpi.ops.add import add
from owt_mpi.planner.fusing import FUSINGS, fused
from owt_mpi.planner.kernel import step_bytes, step_flop
from tests.planner.steps import only, small_model, step_of

IMAGES = 5
X, Y, POOLED = IMAGES * 9 * 9 * 4, IMAGES * 9 * 9 * 8, IMAGES * 4 * 4 * 8
WEIGHTS = 8 * 3 * 3 * 4
HEAD_BIAS = 2 * 4 * IMAGES * 6  # bytes of two passes over the logits


def block_step(precision="fp32"):
    block = {"conv": Conv2d(4, 8, 3, 1, 1), "relu": ReLU(), "pool": MaxPool2d(3, 2)}
    return step_of(small_model(block), IMAGES, precision)


def test_bias_and_relu_in_the_convolution_save_four_passes_over_its_output():
    step = block_step()
    whole = fused(step, "bias + ReLU")
    kernel = only(whole, "trunk.conv", "conv + bias + ReLU")
    assert kernel.num_bytes == 4 * (X + WEIGHTS + 8 + Y)
    assert step_bytes(step) - step_bytes(whole) == 4 * 4 * Y + HEAD_BIAS
    assert step_bytes(step) - step_bytes(fused(step, "bias")) == 2 * 4 * Y + HEAD_BIAS


def test_the_gradients_of_relu_and_bias_in_one_pass_save_reading_the_gradient_once():
    before, after = fused(block_step(), "bias + ReLU"), fused(block_step(), "ReLU grad + bias grad")
    kernel = only(after, "trunk.relu", "ReLU grad + bias grad")
    assert kernel.num_bytes == 4 * (Y + Y + Y + 8)  # gradient and output of ReLU, gradient of the convolution, bias
    assert step_bytes(before) - step_bytes(after) == 4 * Y


def test_with_pooling_fused_only_maxima_and_their_places_leave_the_chip():
    step = fused(block_step(), "pool")
    assert only(step, "trunk.conv", "conv + bias + ReLU + max pool").num_bytes == 4 * (X + WEIGHTS + 8) + 5 * POOLED
    grad = only(step, "trunk.pool", "max pool grad + ReLU grad + bias grad")
    assert grad.num_bytes == 4 * POOLED + POOLED + 4 * POOLED + 4 * Y + 4 * 8  # gradient, places, maxima; results


@pytest.mark.parametrize("scheme", ["dp", "c", "d"])
@pytest.mark.parametrize("name", MODELS)
def test_fusing_changes_no_arithmetic_and_never_adds_bytes(name, scheme):
    step = step_of(name, 8, "bf16", scheme, 1 if scheme == "dp" else 2)
    sizes = []
    for fusing in FUSINGS:
        kernels = fused(step, fusing)
        assert step_flop(kernels) == step_flop(step), fusing
        sizes.append(step_bytes(kernels))
    assert sizes[0] == step_bytes(step)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("fusing", FUSINGS)
@pytest.mark.parametrize("name", ["alexnet-owt", "alexnet", "vgg11", "small"])
def test_every_operand_that_is_read_was_written_or_is_there_from_the_start(name, fusing):
    model = MODELS[name](InputSpec(96, 3, 10))
    step = fused(step_of(model, 2), fusing)
    there = {p.name for p in model.parameters()} | {"crops of uint8 images", "boundary", "logits"}
    there |= {f"{what} of the {part}" for what in ("weights", "momentum", "gradients") for part in ("trunk", "head")}
    pool = max(layer for layer in model.trunk.layers if layer.startswith("pool"))
    there.add(f"gradient of trunk.{pool}")  # comes back from the head
    there.add("gradient of logits")
    there.add(f"gradient of {list(model.head.layers.values())[-1].name}")
    for kernel in step:
        missing = {operand.name for operand in kernel.reads} - there
        assert not missing, (kernel.layer, kernel.work)
        there |= {operand.name for operand in kernel.writes}


class Twice(Module):
    """What ReLU reads is also added to what it makes."""

    def __init__(self) -> None:
        self.conv, self.relu, self.flatten = Conv2d(4, 8, 3, 1, 1), ReLU(), Flatten()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        y = self.conv(x, ctx)
        return self.flatten(add(y, self.relu(y, ctx)), ctx)


def test_what_another_kernel_reads_is_written_by_the_fused_one():
    trunk = Twice()
    trunk.name = "trunk"
    kernel = only(fused(step_of(small_model(trunk), IMAGES), "bias + ReLU"), "trunk.conv", "conv + bias + ReLU")
    assert {operand.name for operand in kernel.writes} == {"trunk.conv", "trunk.relu"}
    assert kernel.num_bytes == 4 * (X + WEIGHTS + 8 + 2 * Y)


class BesideOneAnother(Module):
    """ReLU comes right after a convolution, but reads what was there before."""

    def __init__(self) -> None:
        self.first, self.second, self.flatten = Conv2d(4, 8, 3, 1, 1), Conv2d(8, 8, 3, 1, 1), Flatten()
        self.relu = ReLU()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        x = self.first(x, ctx)
        y = self.second(x, ctx)
        return self.flatten(add(y, self.relu(x, ctx)), ctx)


def test_what_does_not_read_the_kernel_before_it_is_not_fused_with_it():
    trunk = BesideOneAnother()
    trunk.name = "trunk"
    step = step_of(small_model(trunk), IMAGES)
    works = [kernel.work for kernel in fused(step, "bias + ReLU")]
    assert works[1:4] == ["conv + bias", "conv + bias", "ReLU"]


def test_a_normalisation_between_convolution_and_relu_keeps_them_apart():
    works = [kernel.work for kernel in fused(step_of("alexnet-owt", 2), "pool") if kernel.layer.endswith("1")]
    assert works[:3] == ["conv + bias", "LRN", "max pool + ReLU"]
