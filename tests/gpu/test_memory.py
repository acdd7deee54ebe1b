"""What --dry-run forecasts of a GPU's memory, beside what a step's arrays take of CuPy's pool."""

import pytest

from owt_mpi.backends.cuda import CudaBackend, widens_halves
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.gemm_conv import GemmConv
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.measure.step import make_trainer, random_batch
from owt_mpi.memory_forecast import MemoryOptions, forecast_memory
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan, make_layout
from tests.test_memory_forecast import net

pytestmark = pytest.mark.gpu

IMAGES = 128
WORKSPACE_BYTES = 4 << 20  # a limit that convolutions may stay under, so a small one
PRECISIONS = ("fp32", "bf16", "fp16")


def peak_of_a_step(backend: CudaBackend, builder, spec, precision) -> int:
    """Return the most that arrays take at once in a step, the second, weights and images included."""
    pool, sizes = backend.xp.get_default_memory_pool(), []

    def malloc(size):
        memory = pool.malloc(size)
        sizes.append(pool.used_bytes() - before)
        return memory

    backend.synchronize()
    before = pool.used_bytes()
    with backend.xp.cuda.using_allocator(malloc):
        trainer = make_trainer(builder, spec, IMAGES, Plan(1), SerialCommunicator(), backend, precision)
        batch = random_batch(spec, IMAGES, 0, backend, precision)
        trainer.train_step(batch, 0)
        sizes.clear()
        trainer.train_step(batch, 1)
        backend.synchronize()
    return max(sizes)


def check_forecast(builder, spec, precision):
    """Hold the peak between the least and the forecast, and near the latter but for workspace and images ahead."""
    backend = CudaBackend(0, CudnnOptions(workspace_bytes=WORKSPACE_BYTES))
    if not backend.has_cudnn:
        backend._conv = GemmConv(backend.xp, backend._kernels, backend._add_bias_and_relu, WORKSPACE_BYTES)
    options = MemoryOptions("cuda", workspace_bytes=WORKSPACE_BYTES, widens=widens_halves(backend))
    layout, dtype = make_layout(SerialCommunicator(), Plan(1)), compute_dtype(precision, "float32")
    forecast = forecast_memory(builder(spec), layout, IMAGES, dtype, options)
    peak = peak_of_a_step(backend, builder, spec, precision)
    made_ahead = forecast.always["images"] - IMAGES * spec.crop**2 * spec.channels * dtype.itemsize
    assert forecast.least_bytes < peak < (forecast.num_bytes - made_ahead) * 1.02  # CuPy rounds up to 512 bytes
    assert peak > 0.9 * (forecast.num_bytes - forecast.always["workspace"] - forecast.always["images"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_small_net_takes_what_is_forecast(gpu, precision):
    check_forecast(lambda spec: net(3, 32, 64, 10), net(3, 32, 64, 10).spec, precision)


def test_a_shipped_net_takes_what_is_forecast(gpu):
    builder = find_builder("cifar-quick")
    check_forecast(builder, InputSpec(32, 3, 10), "fp32")
