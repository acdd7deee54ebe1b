"""cuDNN's convolutions against the reference backend, on a GPU: `python -m pytest -m gpu tests/gpu/test_cudnn.py`."""

import threading

import numpy as np
import pytest

from owt_mpi.backends.checks import conv2d_y_shape
from owt_mpi.backends.cudnn import Cudnn, find_cudnn
from owt_mpi.backends.cudnn_graphs import MIN_COMPUTE_CAPABILITY
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.parallel.wire_format import from_wire, to_wire
from tests.backends.conformance import CONV_CASES, ConvCase

pytestmark = pytest.mark.gpu

# of the largest expected value. What is compared with starts from the same rounded inputs, so this allows for sums in
# float32 (Winograd's included), for inputs cut to the 11 bits of TF32, and for the result's rounding to 11 or 8 bits
TOLERANCE = {"fp32": 2e-5, "tf32": 4e-3, "fp16": 2e-3, "bf16": 1e-2}
DTYPES = {"fp32": np.float32, "tf32": np.float32, "fp16": np.float16, "bf16": np.uint16}

CASES = [
    *CONV_CASES,
    ConvCase("alexnet_conv1", x=(4, 224, 224, 3), w=(64, 11, 11, 3), stride=(4, 4), pad=(2, 2)),
    ConvCase("alexnet_conv2", x=(4, 27, 27, 64), w=(192, 5, 5, 64), pad=(2, 2)),
    ConvCase("alexnet_conv5", x=(5, 13, 13, 256), w=(256, 3, 3, 256), pad=(1, 1)),
]


@pytest.fixture(scope="module")
def cupy():
    cupy = pytest.importorskip("cupy")
    reason = find_cudnn()
    if reason is not None:
        pytest.skip(reason)
    return cupy


@pytest.fixture(params=TOLERANCE)
def precision(request, cupy):
    if int(cupy.cuda.Device().compute_capability) < MIN_COMPUTE_CAPABILITY[request.param]:
        pytest.skip(f"this GPU does not compute in {request.param}")
    return request.param


def rounded(values, precision):
    """Return the values that the precision has for these, as float64: what both sides start from."""
    if precision == "bf16":
        values = from_wire(to_wire(values.astype(np.float32), "bfloat16"), "bfloat16", np.dtype(np.float32))
    return values.astype(np.float16 if precision == "fp16" else np.float32).astype(np.float64)


class Gpu:
    """Arrays of one precision on the device, and what cuDNN makes of them."""

    def __init__(self, cupy, precision, **options):
        self.cupy, self.precision, self.dtype = cupy, precision, DTYPES[precision]
        self.cudnn = Cudnn(cupy, cupy.cuda.alloc, self.add_bias_and_relu, tf32=precision == "tf32", **options)

    def put(self, values, offset=0):
        """Return `values` on the device, `offset` elements behind an address that is aligned."""
        single = values.astype(np.float32)
        bits = to_wire(single, "bfloat16") if self.precision == "bf16" else single.astype(self.dtype)
        memory = self.cupy.empty(values.size + offset, self.dtype)
        array = memory[offset:].reshape(values.shape)
        array.set(bits)
        return array

    def empty(self, shape):
        """Return an array of NaNs: nothing of what was there before may be left or added to."""
        return self.cupy.full(shape, 0x7FC0 if self.precision == "bf16" else np.nan, self.dtype)

    def get(self, array):
        bits = array.get()
        if self.precision == "bf16":
            bits = from_wire(bits, "bfloat16", np.dtype(np.float32))
        return bits.astype(np.float64)

    def add_bias_and_relu(self, y, b, relu):
        values = self.widened(y) if b is None else self.widened(y) + self.widened(b)
        values = self.cupy.maximum(values, 0) if relu else values
        if self.precision == "bf16":
            bits = values.view(np.uint32)
            y[...] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        else:
            y[...] = values.astype(self.dtype)

    def widened(self, array):
        if self.precision == "bf16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32)

    def forward(self, x, w, b, case, relu=False):
        y = self.empty(y_shape(case))
        self.cudnn.conv2d(x, w, b, case.stride, case.pad, y, relu)
        return y


def y_shape(case):
    return conv2d_y_shape("conv2d", case.x, case.w, case.stride, case.pad)


def values(case, precision):
    """Return x, w, b and gy."""
    rng = np.random.default_rng(7)
    return tuple(rounded(rng.normal(size=shape), precision) for shape in (case.x, case.w, case.w[:1], y_shape(case)))


def check(gpu, actual, expected):
    allowed = TOLERANCE[gpu.precision] * np.abs(expected).max()
    np.testing.assert_allclose(gpu.get(actual), expected, rtol=0, atol=allowed)


def check_all(gpu, case, offset=0):
    x, w, b, gy = values(case, gpu.precision)
    on_gpu = [gpu.put(each, offset) for each in (x, w, b, gy)]
    reference, where = ReferenceBackend(), (case.stride, case.pad)
    y = reference.conv2d(x, w, b, *where)
    check(gpu, gpu.forward(*on_gpu[:3], case), y)
    check(gpu, gpu.forward(*on_gpu[:3], case, relu=True), np.maximum(y, 0))
    check(gpu, gpu.forward(on_gpu[0], on_gpu[1], None, case), reference.conv2d(x, w, None, *where))
    gx, gw = gpu.empty(case.x), gpu.empty(case.w)
    gpu.cudnn.conv2d_grad_x(on_gpu[3], on_gpu[1], *where, gx)
    gpu.cudnn.conv2d_grad_w(on_gpu[3], on_gpu[0], *where, gw)
    check(gpu, gx, reference.conv2d_grad_x(gy, w, *where, case.x))
    check(gpu, gw, reference.conv2d_grad_w(gy, x, *where, case.w, False)[0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_gradients_are_those_of_the_reference(cupy, precision, case):
    check_all(Gpu(cupy, precision), case)


@pytest.mark.parametrize(
    "options",
    [{"autotune": True}, {"deterministic": True}, {"workspace_bytes": 1 << 20}],
    ids=lambda each: next(iter(each)),
)
def test_every_way_to_choose_plans_gives_right_results(cupy, precision, options):
    check_all(Gpu(cupy, precision, **options), CASES[-1])


def test_arrays_that_are_not_aligned_give_right_results(cupy, precision):
    check_all(Gpu(cupy, precision), CASES[-1], offset=1)


def test_deterministic_gradients_have_the_same_bits_every_time(cupy, precision):
    case = CASES[-2]
    gpu = Gpu(cupy, precision, deterministic=True)
    x, _, _, gy = (gpu.put(each) for each in values(case, precision))
    results = [gpu.empty(case.w) for _ in range(5)]
    for gw in results:
        gpu.cudnn.conv2d_grad_w(gy, x, case.stride, case.pad, gw)
    for gw in results[1:]:
        np.testing.assert_array_equal(gw.get(), results[0].get())


def test_work_goes_to_the_current_stream_of_each_thread(cupy, precision):
    """The inputs are written on the same streams, behind work that takes a while: elsewhere they would be NaN."""
    case = CASES[-1]
    gpu = Gpu(cupy, precision)
    x, w, b, _ = values(case, precision)
    expected = ReferenceBackend().conv2d(x, w, b, case.stride, case.pad)
    ready = [gpu.put(each) for each in (x, w, b)]
    busy = cupy.ones((4096, 4096), np.float32)
    cupy.cuda.Device().synchronize()
    results, device = {}, cupy.cuda.Device().id

    def work(index):
        with cupy.cuda.Device(device), cupy.cuda.Stream(non_blocking=True) as stream:
            for _ in range(5):
                busy @ busy
            inputs = [gpu.empty(each.shape) for each in ready]
            for late, given in zip(inputs, ready, strict=True):
                late[...] = given
            y = gpu.forward(*inputs, case)
            stream.synchronize()
            results[index] = y

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.keys() == {0, 1, 2}
    for y in results.values():
        check(gpu, y, expected)


def test_a_captured_graph_computes_again_after_a_larger_plan_came(cupy, precision):
    small, large = CASES[-1], ConvCase("large", x=(32, 27, 27, 64), w=(192, 5, 5, 64), pad=(2, 2))
    gpu = Gpu(cupy, precision)
    x, w, b, _ = values(small, precision)
    on_gpu = [gpu.put(each) for each in (x, w, b)]
    y = gpu.empty(y_shape(small))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        run = lambda: gpu.cudnn.conv2d(*on_gpu, small.stride, small.pad, y, relu=False)  # noqa: E731
        run()
        stream.synchronize()
        stream.begin_capture()
        run()
        graph = stream.end_capture()
        gpu.forward(*(gpu.put(each) for each in values(large, precision)[:3]), large)
        y.fill(0)
        graph.launch(stream)
        stream.synchronize()
    check(gpu, y, ReferenceBackend().conv2d(x, w, b, small.stride, small.pad))
