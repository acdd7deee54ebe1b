"""The GPU backend on a GPU: what tests/backends holds against the stand-in for CuPy, with nothing in its place."""

import queue
import threading

import numpy as np
import pytest

from owt_mpi.backends.cuda_device import CHUNK_BYTES, NUM_CHUNKS
from owt_mpi.backends.gemm_conv import GemmConv
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.pixels import start_normalise_on_host
from owt_mpi.backends.precision import HALF_DTYPES
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import Loss
from owt_mpi.parallel.layout import Plan
from tests.backends import conformance
from tests.backends.conformance import CONV_CASES, TABLE, ConvCase
from tests.backends.conformance_rows import ROWS_TABLE
from tests.tiny import largest_difference, train_tiny, train_tiny_on

pytestmark = pytest.mark.gpu

# cuDNN may choose algorithms that round more than a plain sum does, such as Winograd's
TOLERANCE = 1e-5
MANY = 2**31
ROWS = [
    pytest.param(check, case, id=f"{check.__name__[6:]}-{case.name}")
    for check, cases in TABLE + ROWS_TABLE
    for case in cases
]


@pytest.fixture(autouse=True)
def tolerance(monkeypatch):
    monkeypatch.setitem(conformance.TOLERANCE, np.dtype(np.float32), TOLERANCE)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), *HALF_DTYPES], ids=str)
@pytest.mark.parametrize(("check", "case"), ROWS)
def test_computes(gpu, check, case, dtype):
    check(gpu, case, dtype)


@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_convolutions_by_im2col_agree_too(gpu, case: ConvCase):
    gpu._conv = GemmConv(gpu.xp, gpu._kernels, gpu._add_bias_and_relu, column_bytes=1 << 12)
    for check in (conformance.check_conv2d, conformance.check_conv2d_grad_x, conformance.check_conv2d_grad_w):
        check(gpu, case, np.float32)


def test_arrays_of_many_chunks_come_back_as_they_went(gpu):
    array = np.arange((2 * NUM_CHUNKS + 1) * CHUNK_BYTES // 4 + 3, dtype=np.float32)
    np.testing.assert_array_equal(gpu.to_host(gpu.from_host(array) + 1), array + 1)


def test_uploads_and_computations_keep_their_order_under_load(gpu):
    """Memory is freed and handed out again while copies and kernels are under way, from several threads."""
    side, totals = 1024, {}

    def work(number):
        total = gpu.from_host(np.zeros((side, side), np.float32))
        for i in range(50):
            x = gpu.from_host(np.full((side, side), number + i, np.float32))
            total += x @ x
            del x
        totals[number] = gpu.to_host(total)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, total in totals.items():
        expected = sum(side * (number + i) ** 2 for i in range(50))
        np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize(
    ("num_ranks", "scheme"), [(1, "c"), *((k, s) for k in (2, 4) for s in ("dp", "a", "b", "c", "d"))]
)
def test_ranks_that_share_the_gpu_train_the_same_network_as_the_reference(gpu, num_ranks, scheme, loss: Loss):
    expected, _ = train_tiny_on(Plan(1), dtype="float32", num_steps=5, loss=loss)

    def train(comm):
        return train_tiny(comm, Plan(num_ranks, scheme), dtype="float32", num_steps=5, loss=loss, backend=gpu)[0]

    for parameters in run_ranks(num_ranks, train):
        assert largest_difference(parameters, expected) < 1e-4


def test_batches_arrive_whole_under_load(gpu):
    """One thread starts batches, two ahead; another takes them and computes for longer than they cross."""
    shape, num_batches, dtype = (64, 96, 80, 3), 40, np.dtype(np.float32)
    mean, scale, flips = np.array([10.0, 20.0, 30.0]), np.array([0.5, 1.0, 2.0]), np.arange(64) % 2 == 0
    under_way = queue.Queue(2)

    def prepare():
        for number in range(num_batches):
            pixels = gpu.host_empty(shape, np.uint8)
            pixels[...] = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
            under_way.put(gpu.start_normalise(pixels, flips, mean, scale, None, dtype))

    thread = threading.Thread(target=prepare)
    thread.start()
    factors = gpu.from_host(np.full((512, 512), 1 / 512, np.float32))
    results = []
    for _ in range(num_batches):
        images = under_way.get()()
        for _ in range(20):
            factors = factors @ factors
        results.append(images + factors[0, 0])
    thread.join()
    for number, result in enumerate(results):
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        expected = start_normalise_on_host(pixels, flips, mean, scale, None, dtype)()
        np.testing.assert_allclose(gpu.to_host(result), expected + 1 / 512, rtol=1e-5, atol=1e-5)


def test_one_thread_may_prepare_images_and_compute_on_them(gpu):
    shape, dtype, flips = (32, 64, 48, 3), np.dtype(np.float32), np.arange(32) % 3 == 0
    mean, scale = np.array([10.0, 20.0, 30.0]), np.array([0.5, 1.0, 2.0])
    results = []
    for number in range(10):
        pixels = gpu.host_empty(shape, np.uint8)
        pixels[...] = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        images = gpu.start_normalise(pixels, flips, mean, scale, None, dtype)()
        results.append(gpu.start_to_host(images * 2))
    for number, finish in enumerate(results):
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(finish(), 2 * start_normalise_on_host(pixels, flips, mean, scale, None, dtype)())


def test_arrays_of_more_numbers_than_an_int_counts(gpu):
    """The last image of a batch begins 2^31 numbers behind the first."""
    image, needed = (128, 128, 64), 5 * 2 * MANY
    if gpu.memory()[0].free < needed:
        pytest.skip(f"this test needs {needed >> 30} GiB of the GPU")
    num_images = MANY // np.prod(image) + 2
    x = gpu.xp.zeros((num_images, *image), np.float16)
    last = np.random.default_rng(0).standard_normal((1, *image)).astype(np.float16)
    x[-1:] = gpu.from_host(last)
    b, windows, lrn = np.linspace(-1, 1, 64).astype(np.float16), ((3, 3), (2, 2), (1, 1)), (5, 0.1, 0.75, 2.0)
    for compute in (
        lambda backend, x, b: backend.add_bias(x, b, relu=True),
        lambda backend, x, b: backend.relu_grad(x, backend.add_bias(x, b)),
        lambda backend, x, b: backend.max_pool2d(x, *windows)[0],
        lambda backend, x, b: backend.avg_pool2d(x, *windows),
        lambda backend, x, b: backend.lrn(x, *lrn)[0],
        lambda backend, x, b: backend.bias_grad(x.reshape(-1, 64)),  # all others are 0
    ):
        expected = compute(HalfBackend(ReferenceBackend()), last, b)
        found = compute(gpu, x, gpu.from_host(b))
        np.testing.assert_allclose(gpu.to_host(found[-len(expected) :]), expected, rtol=2e-3, atol=2e-3)
