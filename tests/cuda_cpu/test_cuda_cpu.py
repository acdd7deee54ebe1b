"""The CPU as a GPU: it computes what a kernel says, and notices what a GPU would let pass or suffer from."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.cuda_cpu import BuildError, CpuModule, DivergenceError, why_unavailable
from tests.cuda_cpu.build import build
from tests.cuda_cpu.sanitized import run_sanitized, why_no_sanitizers

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

ORDERS = (0, 1, 2, 77)

SUM = """
// __global__ void not_a_kernel(int x)
extern "C" __global__ void __launch_bounds__(64) sums(const float* __restrict__ x, float* y, int n) {
    __shared__ float part[64];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * (long long)n + i];
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int width = 32; width > 0; width /= 2) {
        if (int(threadIdx.x) < width) part[threadIdx.x] += part[threadIdx.x + width];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[blockIdx.x] = part[0];
}
"""

PLACES = """
extern "C" __global__ void places(int* y) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    y[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += 1000 * block + thread;
}
"""

HALVES = """
struct float16 { unsigned short bits; };
extern "C" __global__ void widen(const float16* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = cuda_cpu::from_float16_bits(x[i].bits);
}
extern "C" __global__ void narrow(const float* x, float16* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i].bits = cuda_cpu::to_float16_bits(x[i]);
}
"""


def sums_of(code: str, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums by the kernel in `code`, and those by NumPy, of the rows of a matrix of small integers."""
    x = np.random.default_rng(0).integers(-9, 10, (3, 150)).astype(np.float32)
    y = np.full(3, np.nan, np.float32)
    CpuModule(code).get_function("sums")((3,), (64,), (x, y, np.int32(150)), order)
    return y, x.sum(axis=1)


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_reduction_is_right_in_every_order(order):
    actual, expected = sums_of(SUM, order)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("at", [0, 1])
def test_a_missing_barrier_is_noticed_in_some_order(at):
    parts = SUM.split("__syncthreads();")
    faulty = "__syncthreads();".join([*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]])
    wrong = [order for order in ORDERS if not np.array_equal(*sums_of(faulty, order))]
    assert wrong


def test_a_barrier_that_some_threads_skip_is_an_error():
    with pytest.raises(DivergenceError, match="sums: not all threads"):
        sums_of(SUM.replace("part[threadIdx.x] = sum;", "part[threadIdx.x] = sum; if (threadIdx.x > 40) return;"), 0)


def test_shared_memory_holds_nan_until_it_is_written():
    actual, _ = sums_of(SUM.replace("part[threadIdx.x] = sum;", "if (threadIdx.x != 3) part[threadIdx.x] = sum;"), 0)
    assert np.isnan(actual).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("fence", ["", "__syncthreads();"], ids=["calls", "fibres"])
def test_every_thread_of_three_dimensions_runs_once(order, fence):
    kernel = CpuModule(PLACES.replace("int block", f"{fence} int block")).get_function("places")
    y = np.zeros((5 * 2 * 3, 4 * 3 * 2), np.int32)
    kernel((5, 2, 3), (4, 3, 2), (y,), order)
    np.testing.assert_array_equal(y, 1000 * np.arange(30)[:, None] + np.arange(24))


def test_launches_from_several_threads_do_not_meet():
    kernel = CpuModule(PLACES.replace("int block", "__syncthreads(); int block")).get_function("places")
    results = [np.zeros((20, 32), np.int32) for _ in range(4)]
    threads = [threading.Thread(target=kernel, args=((20,), (32,), (y,))) for y in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for y in results:
        np.testing.assert_array_equal(y, 1000 * np.arange(20)[:, None] + np.arange(32))


def test_builds_of_the_same_text_at_once_do_not_meet(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(lambda _: build(PLACES, (), ["places"]), range(4)))
    (folder,) = tmp_path.iterdir()
    assert set(libraries) == set(folder.iterdir())  # one library, and nothing unfinished
    assert len(set(libraries)) == 1


def test_float16_is_rounded_as_numpy_rounds_it():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    widened = np.empty(every.shape, np.float32)
    module = CpuModule(HALVES)
    module.get_function("widen")((64,), (1024,), (every, widened))
    np.testing.assert_array_equal(widened, every.astype(np.float32))
    finite = np.sort(widened[np.isfinite(widened)])
    ties = (finite[1:] + finite[:-1]) / 2
    numbers = np.concatenate([widened, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    numbers = np.concatenate([numbers, np.array([65520, 65519.99, 1e9, -1e9, 1e-9, -1e-9], np.float32)])
    numbers = np.resize(numbers, (len(numbers) + 1023) // 1024 * 1024)
    narrowed = np.empty(numbers.shape, np.float16)
    module.get_function("narrow")((len(numbers) // 1024,), (1024,), (numbers, narrowed))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrowed, numbers.astype(np.float16))


GOOD = (np.zeros((3, 8), np.float32), np.zeros(3, np.float32), np.int32(8))
BAD_ARGUMENTS = {
    "python_int": ((*GOOD[:2], 8), r"sums: n must be numpy.int32, got int"),
    "wide_int": ((*GOOD[:2], np.int64(8)), r"n must be numpy.int32, got int64"),
    "wrong_array": ((GOOD[0].astype(np.float64), *GOOD[1:]), r"x must be an array of float32, got float64"),
    "no_array": ((np.float32(1), *GOOD[1:]), r"x must be an array of float32, got float32"),
    "strided": ((GOOD[0].T, *GOOD[1:]), r"x of shape \(8, 3\) must be C-contiguous"),
    "too_few": (GOOD[:2], r"sums takes 3 arguments, \['x', 'y', 'n'\]; got 2"),
    "read_only": ((GOOD[0], np.broadcast_to(np.float32(1), (1,)), GOOD[2]), r"y .* written to, but is read-only"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_only_exact_types_are_taken(arguments, message):
    with pytest.raises(TypeError, match=message):
        CpuModule(SUM).get_function("sums")((3,), (64,), arguments)


BAD_LAUNCHES = {
    "empty_grid": (((0,), (64,)), r"grid \(0,\) must lie between 1"),
    "wide_grid": (((1, 65536), (64,)), r"grid \(1, 65536\) must lie between 1 and .*65535"),
    "four_axes": (((1,), (1, 1, 1, 1)), r"block \(1, 1, 1, 1\) must have 1 to 3 sizes"),
    "large_block": (((1,), (64, 32)), r"block \(64, 32\) has more than 1024 threads"),
}


@pytest.mark.parametrize(("shape", "message"), BAD_LAUNCHES.values(), ids=BAD_LAUNCHES)
def test_only_what_a_gpu_can_launch_is_launched(shape, message):
    with pytest.raises(ValueError, match=message):
        CpuModule(SUM).get_function("sums")(*shape, GOOD)


def test_unknown_kernels_options_and_bad_code_are_errors():
    with pytest.raises(ValueError, match="no kernel 'total'; the module has sums"):
        CpuModule(SUM).get_function("total")
    with pytest.raises(ValueError, match="-DNAME=VALUE"):
        CpuModule(SUM, ("--use_fast_math",))
    with pytest.raises(BuildError, match=r"kernels.cu:5.*undeclared"):
        CpuModule(SUM.replace("float sum = 0;", "sum = undeclared;"))


SCRIPT = """
import numpy as np
from tests.cuda_cpu import CpuModule
x, y = np.zeros(450, np.float32), np.zeros(3, np.float32)
CpuModule('''{code}''').get_function("sums")((3,), (64,), (x, y, np.int32(150)))
print("finished")
"""


@pytest.mark.skipif(why_no_sanitizers() is not None, reason=str(why_no_sanitizers()))
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("float sum = 0;", "float sum = 0.0f;", None),
        ("(long long)n + i]", "(long long)n + i + 1]", "heap-buffer-overflow"),
        ("part[threadIdx.x] = sum", "float* volatile p = part; p[threadIdx.x + 1] = sum", "global-buffer-overflow"),
        ("float sum = 0;", "float sum = n * 0x7fffffff;", "signed integer overflow"),
        ("float sum = 0;", "float sum = *(const float*)((const char*)x + 1);", "misaligned address"),
    ],
    ids=[
        "no_fault",
        "past_an_array",
        "past_shared_memory",
        "signed_overflow",
        "misaligned",
    ],
)
def test_the_sanitizers_stop_at(old, new, says):
    assert old in SUM
    result = run_sanitized("-c", SCRIPT.format(code=SUM.replace(old, new)))
    if says is None:
        assert (result.returncode, result.stdout) == (0, "finished\n"), result.stderr
    else:
        assert result.returncode != 0
        assert says in result.stderr
        assert "finished" not in result.stdout
