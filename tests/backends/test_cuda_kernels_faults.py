"""What is wrong with a kernel or its launch is noticed: missing barriers, bad addresses, wrong types."""

import numpy as np
import pytest

from owt_mpi.backends import cuda_kernels, cuda_launch, cuda_row_kernels
from tests.backends.cuda_kernel_check import ORDERS, device, garbage, make_kernels, needs_gpp
from tests.cuda_cpu import DivergenceError
from tests.cuda_cpu.sanitized import run_sanitized, why_no_sanitizers

pytestmark = needs_gpp
needs_sanitizers = pytest.mark.skipif(why_no_sanitizers() is not None, reason=str(why_no_sanitizers()))

SCRIPT = "tests.backends.touch_cuda_kernels"
SANITIZED_TESTS = [f"tests/backends/test_cuda_kernels{part}.py" for part in ("", "_rows", "_flat")]


def plant(monkeypatch, old, new, at=0):
    """Replace occurrence `at` of `old` in every kernel's text; fails where a text has some, but not as many."""
    source = cuda_launch.kernel_source

    def faulty(file):
        parts = source(file).split(old)
        assert len(parts) > at + 1, f"{file}.cu has {len(parts) - 1} times {old!r}"
        return old.join(parts[: at + 1]) + new + old.join(parts[at + 1 :])

    monkeypatch.setattr(cuda_launch, "kernel_source", faulty)


def row_losses(monkeypatch, order):
    """Return the losses of rows of equal logits, each log(2) for each of 700 classes."""
    z, labels, losses = np.zeros((3, 700), np.float32), np.array([5, 800, 2]), garbage((3,), np.float32)
    make_kernels(monkeypatch, order).logistic_loss(*device(z, labels, garbage(z.shape, "f"), losses), 0, 1.0)
    return losses


def bias_gradient(monkeypatch, order):
    gy, gb = np.ones((300, 40), np.float32), garbage((40,), np.float32)
    partial = garbage(cuda_row_kernels.bias_grad_partial_shape(300, 40), np.float32)
    make_kernels(monkeypatch, order).bias_grad(*device(gy, partial, gb))
    return gb


BARRIERS = [(row_losses, 0, 700 * np.log(2)), (row_losses, 1, 700 * np.log(2)), (bias_gradient, 0, 300)]


@pytest.mark.parametrize(("compute", "at", "expected"), BARRIERS, ids=["losses-0", "losses-1", "bias_grad-0"])
def test_each_barrier_is_needed(monkeypatch, compute, at, expected):
    for order in ORDERS:
        np.testing.assert_allclose(compute(monkeypatch, order), expected, rtol=1e-6)
    plant(monkeypatch, "__syncthreads();", ";", at)
    close = [np.allclose(compute(monkeypatch, order), expected, rtol=1e-6) for order in (*ORDERS, 0)]
    assert not all(close)


def test_threads_that_leave_before_a_barrier_are_noticed(monkeypatch):
    plant(monkeypatch, "    if (channel < channels) {\n#pragma", "    if (channel >= channels) return;\n    {\n#pragma")
    gy, gb = np.ones((64, 65), np.float32), garbage((65,), np.float32)  # 2 blocks of 33 columns, one of them short
    partial = garbage(cuda_row_kernels.bias_grad_partial_shape(64, 65), np.float32)
    with pytest.raises(DivergenceError, match="bias_grad: not all threads"):
        make_kernels(monkeypatch, 5).bias_grad(*device(gy, partial, gb))


def test_sums_are_the_same_bits_in_every_order(monkeypatch):
    gy = np.random.default_rng(0).normal(size=(999, 24)).astype(np.float32)
    results = []
    for order in (0, 1, 2, 3):
        gb, partial = garbage((24,), "f"), garbage(cuda_row_kernels.bias_grad_partial_shape(999, 24), "f")
        make_kernels(monkeypatch, order).bias_grad(*device(gy, partial, gb))
        loss = garbage((1,), np.float32)
        make_kernels(monkeypatch, order).sum_losses(*device(gy[:, 0].copy(), loss))
        results.append([*gb, *loss])
    assert results[0] == results[1] == results[2] == results[3]


@pytest.mark.parametrize("wrong", [int, np.int64, np.float32])
def test_a_scalar_of_another_type_is_noticed(monkeypatch, wrong):
    sizes = cuda_launch.window_sizes
    monkeypatch.setattr(cuda_kernels, "window_sizes", lambda *where: (*sizes(*where)[:-1], wrong(0)))
    x, y = np.zeros((1, 4, 4, 4), np.float32), np.zeros((1, 2, 2, 4), np.float32)
    with pytest.raises(TypeError, match=r"avg_pool2d: pad_w must be numpy.int32, got"):
        make_kernels(monkeypatch, 0).avg_pool2d(*device(x, y), (2, 2), (2, 2), (0, 0))


@needs_sanitizers
def test_no_kernel_touches_what_is_not_its_own():
    result = run_sanitized("-m", SCRIPT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "touched 25 kernels"


FAULTS = {
    "one_row_too_many": ("pool", "row < height;", "row <= height;"),
    "a_tail_as_a_pack": ("sgd", "if (count >= LANES) {", "if (count > 0) {"),
    "neighbours": ("lrn", "start < channels)", "start <= channels)"),
}


@needs_sanitizers
@pytest.mark.parametrize(("file", "old", "new"), FAULTS.values(), ids=FAULTS)
def test_a_bad_address_ends_the_run(file, old, new):
    assert old in cuda_launch.kernel_source(file)
    result = run_sanitized("-m", SCRIPT, file, old, new)
    assert result.returncode != 0
    assert "AddressSanitizer: heap-" in result.stderr, result.stderr
    assert "touched" not in result.stdout


@pytest.mark.slow
@needs_sanitizers
@pytest.mark.parametrize("tests", SANITIZED_TESTS)
def test_all_cases_pass_under_the_sanitizers(tests):
    result = run_sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not asserted", tests)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
