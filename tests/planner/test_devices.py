"""The roofline: the longer of arithmetic and bytes."""

import pytest

from owt_mpi.planner.devices import DEVICES, Device, Link
from owt_mpi.planner.kernel import Kernel, Operand

GPU = Device("GPU", 100.0, {"fp32": 10.0, "bf16": 1000.0}, (Link("wire", 5.0),))


def kernel(num_bytes: int, product_flop: int = 0, other_flop: int = 0, runs: int = 1) -> Kernel:
    return Kernel("layer", "work", (Operand("x", num_bytes),), (), product_flop, other_flop, runs)


def test_a_kernel_takes_the_longer_of_its_arithmetic_and_its_bytes():
    few_bytes, many_bytes = kernel(300, product_flop=4000), kernel(900, product_flop=4000)
    assert (GPU.seconds(few_bytes, "bf16"), GPU.bound(few_bytes, "bf16")) == (4.0, "compute")
    assert (GPU.seconds(many_bytes, "bf16"), GPU.bound(many_bytes, "bf16")) == (9.0, "memory")
    assert (GPU.seconds(many_bytes, "fp32"), GPU.bound(many_bytes, "fp32")) == (400.0, "compute")


def test_what_is_no_product_runs_on_float32_units():
    assert GPU.seconds(kernel(300, other_flop=4000), "bf16") == 400.0


def test_a_step_is_the_sum_of_all_runs():
    assert GPU.step_seconds([kernel(300), kernel(900, product_flop=4000, runs=2)], "bf16") == 3.0 + 2 * 9.0


def test_a_precision_without_units_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"V100 SXM2 32 GB has no units for bf16; choose one of fp32, fp16"):
        DEVICES["v100"].check("bf16")


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_lower_precision_is_never_slower(device):
    rates = [device.product_flop_per_second[p] for p in ("fp32", "tf32", "bf16") if p in device.product_flop_per_second]
    assert rates == sorted(rates)
    assert len({link.name for link in device.links}) == 3
