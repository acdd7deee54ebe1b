"""Every precision on a GPU: operations, and the tiny network, with nothing in the place of CuPy, cuBLAS and cuDNN."""

import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cudnn_graphs import MIN_COMPUTE_CAPABILITY
from owt_mpi.comm.threads import run_ranks
from owt_mpi.measure.conformance import compare
from owt_mpi.parallel.layout import Plan
from tests.tiny import largest_difference, train_tiny, train_tiny_on

pytestmark = pytest.mark.gpu

# of weights after three steps; in tf32 and halves roundings of products grow from step to step
DISTANCE = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 0.1, "fp16": 2e-2}


def backend_in(precision, gpu):
    """Return a new backend; the test is skipped where the GPU has no units for the precision."""
    if int(gpu.xp.cuda.Device().compute_capability) < MIN_COMPUTE_CAPABILITY[precision]:
        pytest.skip(f"this GPU does not compute in {precision}")
    return CudaBackend(tf32=precision == "tf32")


def failures(backend, precision):
    return [(row.operation, row.shapes, row.error) for row in compare(backend, precision) if not row.passes]


@pytest.mark.parametrize("precision", MIN_COMPUTE_CAPABILITY)
def test_every_operation_conforms(gpu, precision):
    assert failures(backend_in(precision, gpu), precision) == []


def test_float32_is_float32_after_tf32(gpu):
    backend_in("tf32", gpu)
    assert failures(CudaBackend(), "fp32") == []


@pytest.mark.parametrize("scheme", ["dp", "a", "b", "c", "d"])
@pytest.mark.parametrize("precision", DISTANCE)
def test_two_ranks_train_nearly_the_network_of_the_reference(gpu, precision, scheme):
    """Each rank with a backend of its own; the reference computes TF32's network in float32."""
    backend_in(precision, gpu)
    options = {"dtype": "float32", "num_steps": 3}
    on_host = "fp32" if precision == "tf32" else precision
    expected, _ = train_tiny_on(Plan(2, scheme), precision=on_host, **options)

    def train(comm):
        backend = backend_in(precision, gpu)
        return train_tiny(comm, Plan(2, scheme), backend=backend, precision=precision, **options)[0]

    for parameters in run_ranks(2, train):
        assert largest_difference(parameters, expected) < DISTANCE[precision]
