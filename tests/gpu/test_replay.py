"""--cuda-graph on a GPU: the trunk replayed, with cuDNN's convolutions, trains the same network as the reference."""

import numpy as np
import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.layout import Plan
from tests.tiny import largest_difference, train_tiny, train_tiny_on

pytestmark = pytest.mark.gpu

OPTIONS = {"dtype": "float32", "num_steps": 6, "trunk_dropout": 0.0, "lr_factors": (1.0, 0.5, 2.0)}
TOLERANCE = {"fp32": 1e-4, "fp16": 8 * 2.0**-11}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("num_ranks", "scheme"), [(1, "c"), *((2, scheme) for scheme in ("dp", "a", "b", "c", "d"))])
def test_a_replayed_trunk_trains_the_same_network_as_the_reference(gpu, num_ranks, scheme, precision):
    """Each rank with a backend, and so streams and graphs, of its own."""
    expected, expected_losses = train_tiny_on(Plan(num_ranks, scheme), precision=precision, **OPTIONS)

    def train(comm):
        backend = CudaBackend()
        return train_tiny(
            comm, Plan(num_ranks, scheme), backend=backend, cuda_graph=True, precision=precision, **OPTIONS
        )

    for parameters, losses in run_ranks(num_ranks, train):
        np.testing.assert_allclose(losses, expected_losses, rtol=TOLERANCE[precision])
        assert largest_difference(parameters, expected) < TOLERANCE[precision]


def test_a_function_is_called_twice_and_replayed_on_what_it_is_given(gpu):
    calls = []

    def product(x, y):
        calls.append(None)
        return gpu.relu(gpu.linear(x, y, None))

    function = gpu.replayable(product)
    for seed in range(6):
        x, y = np.random.default_rng(seed).standard_normal((2, 64, 64)).astype(np.float32)
        gpu.from_host(np.full(64 * 64, np.nan, np.float32))  # for whoever takes memory that is not his
        result = gpu.to_host(function(gpu.from_host(x), gpu.from_host(y)))
        np.testing.assert_allclose(result, np.maximum(x @ y.T, 0), rtol=1e-4, atol=1e-4)
    assert len(calls) == 2
