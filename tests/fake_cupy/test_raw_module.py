"""Kernels on the stand-in: when they run, and what they are refused."""

import numpy as np
import pytest

from tests.cuda_cpu import why_unavailable
from tests.fake_cupy import RaceError, stand_in

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2

KERNEL = """
extern "C" __global__ void scale(const float* x, float* y, int n, float by) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = by * x[i];
}
"""


@pytest.fixture
def cupy():
    with stand_in() as module:
        yield module


def scale(cupy, x, y, *numbers):
    cupy.RawModule(code=KERNEL).get_function("scale")((2,), (4,), (x, y, *numbers))


def test_a_kernel_runs_in_its_stream(cupy):
    x, y = cupy.asarray(X), cupy.empty((2, 3), np.float32)
    scale(cupy, x, y, np.int32(6), np.float32(3))
    np.testing.assert_array_equal(y.get(), 3 * X)
    scale(cupy, x, y, np.int32(6), np.float32(2))
    with cupy.cuda.Stream(non_blocking=True), pytest.raises(RaceError):
        scale(cupy, y, x, np.int32(6), np.float32(3))


@pytest.mark.parametrize(
    ("n", "by", "message"),
    [
        (6, np.float32(3), "argument 2 is a int, which CuPy packs as 8 bytes"),
        (np.int32(6), 3.0, "argument 3 is a float, which CuPy packs as 8 bytes"),
        (np.int64(6), np.float32(3), "n must be numpy.int32, got int64"),
        (np.int32(6), np.float64(3), "by must be numpy.float32, got float64"),
    ],
)
def test_a_kernels_scalar_of_a_wrong_type_is_refused(cupy, n, by, message):
    x = cupy.asarray(X)
    with pytest.raises(TypeError, match=message):
        scale(cupy, x, x, n, by)


def test_a_kernel_takes_no_host_array_and_no_other_dtype(cupy):
    x, numbers = cupy.asarray(X), (np.int32(6), np.float32(3))
    with pytest.raises(TypeError, match="Unsupported type"):
        scale(cupy, x, X.copy(), *numbers)
    with pytest.raises(TypeError, match="x must be an array of float32, got float64"):
        scale(cupy, x.astype(np.float64), x, *numbers)
