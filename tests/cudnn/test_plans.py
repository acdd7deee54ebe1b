"""cuDNN makes plans for every convolution of every model, on GPUs that are only described."""

import os

import pytest

from benchmarks.cudnn_plans import (
    OPERATIONS,
    PRECISIONS,
    Case,
    Geometry,
    cases,
    convolutions,
    model_table,
    results,
    summary_table,
)
from benchmarks.described_gpus import GPUS
from owt_mpi.backends.checks import conv2d_y_shape
from owt_mpi.backends.cudnn_graphs import MIN_COMPUTE_CAPABILITY
from owt_mpi.nn.models import MODELS
from tests.backends.conformance import CONV_CASES

pytestmark = [pytest.mark.cudnn, pytest.mark.usefixtures("real_cudnn")]

PROCESSES = os.cpu_count() or 1


def has(gpu, precision):
    return MIN_COMPUTE_CAPABILITY[precision] <= GPUS[gpu].compute_capability


@pytest.fixture(scope="session")
def offers():
    return results(cases(), PROCESSES)


def test_every_convolution_of_every_model_is_asked_for(offers):
    layers = {layer for each in offers for layer in each.case.layers}
    assert {layer.partition(".")[0] for layer in layers} == MODELS.keys()
    assert sum(layer.startswith("vgg19.") for layer in layers) == 16
    assert sum(layer.startswith("alexnet-owt.") for layer in layers) == 5
    assert len(offers) == len(GPUS) * len(PRECISIONS) * len(OPERATIONS) * 2 * len(convolutions(128))


def test_every_gpu_has_plans_for_every_convolution_in_the_precisions_it_has(offers):
    without = [each for each in offers if has(each.case.gpu, each.case.precision) and each.num_plans == 0]
    assert without == []


def test_bias_and_relu_are_fused_into_every_forward(offers):
    assert all(each.fused for each in offers)


def test_bf16_and_tf32_are_refused_where_the_gpu_does_not_have_them(offers):
    refused = {(each.case.gpu, each.case.precision): each.refused for each in offers if each.refused}
    assert refused.keys() == {(gpu, precision) for gpu in ("V100", "T4") for precision in ("tf32", "bf16")}
    for (gpu, precision), said in refused.items():
        capability = {"V100": "7.0", "T4": "7.5"}[gpu]
        assert said == (
            f"precision {precision!r} needs a GPU of compute capability 8.0 or higher, this one has {capability}; "
            "use fp32 or fp16"
        )


def test_fp32_never_uses_tensor_cores(offers):
    assert not any(each.tensor_cores for each in offers if each.case.precision == "fp32")


@pytest.mark.parametrize("gpu", ["T4", "A100", "H100"])
def test_half_precision_uses_tensor_cores_from_the_second_convolution_on(offers, gpu):
    """The first has 1 or 3 channels, for which cuDNN's heuristics prefer other engines here and there."""
    deep = [
        each
        for each in offers
        if each.case.gpu == gpu and each.case.precision in ("fp16", "bf16") and not each.refused
        if each.case.geometry.w[3] > 3
    ]
    assert len(deep) > 100
    assert sum(each.tensor_cores for each in deep) > 0.98 * len(deep)


def test_no_plan_takes_more_workspace_than_allowed(offers):
    assert all(each.workspace_bytes <= GPUS[each.case.gpu].memory // 16 for each in offers)
    limited = [case for case in cases(["A100"], [128]) if any(layer == "vgg16.conv1_2" for layer in case.layers)]
    default = {each.case: each.workspace_bytes for each in offers}
    assert max(default[case] for case in limited) > 32 << 20
    assert max(each.workspace_bytes for each in results(limited, 1, workspace_bytes=32 << 20)) <= 32 << 20


def test_there_are_deterministic_plans_for_every_convolution():
    few = [case for case in cases(["V100", "H100"], [16]) if has(case.gpu, case.precision)]
    assert [each for each in results(few, PROCESSES, deterministic=True) if each.num_plans == 0] == []


def test_convolutions_of_odd_sizes_and_one_or_many_channels_have_plans():
    """The conformance table's: kernels as large as the image, padding as wide as the kernel, rows left over."""
    shapes = [(case.x, case.w, case.stride, case.pad) for case in CONV_CASES]
    odd = [
        Case(gpu, precision, operation, Geometry(x, w, conv2d_y_shape("conv2d", x, w, stride, pad), stride, pad), ())
        for gpu in ("A100", "H100")
        for precision in PRECISIONS
        for operation in OPERATIONS
        for x, w, stride, pad in shapes
    ]
    assert [each for each in results(odd, PROCESSES) if each.num_plans == 0] == []


def test_the_tables_say_what_was_found(offers):
    summary = summary_table(offers).splitlines()
    assert len(summary) == 2 + len(GPUS) * len(PRECISIONS)
    num_graphs = 2 * len(OPERATIONS) * len(convolutions(128))
    assert f"| V100 | bf16 | {num_graphs} | refused | | | |" in summary
    lines = model_table(offers, "alexnet-owt", 128, "A100").splitlines()
    assert len(lines) == 2 + 5 * len(OPERATIONS)
    assert lines[2].startswith("| conv1 | forward + bias + ReLU | eng")
