"""The GPU backend on the stand-in for CuPy: devices, copies, streams, and mistakes that the stand-in notices."""

import threading

import numpy as np
import pytest

from owt_mpi.backends import cuda_device
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_device import CudaDevice
from owt_mpi.backends.gemm_conv import GemmConv
from tests import naive
from tests.backends.conformance import values
from tests.fake_cupy import RACES, RaceError
from tests.fake_cupy.device import MATH_MODES

ONE, NONE = (1, 1), (0, 0)


def images(seed=1, shape=(2, 7, 6, 4)):
    return values(shape, np.float32, seed)


# devices


@pytest.mark.parametrize("local_rank", [0, 1])
def test_what_a_rank_makes_lies_on_its_gpu_in_every_thread(cuda, local_rank):
    backend, seen = CudaBackend(local_rank), []
    assert backend.device == f"0000:0{local_rank + 1}:00.0 0{local_rank + 1}"
    assert f"Pretended GPU, device {local_rank}, compute capability 9.0, 1 GiB; CuPy 14.2.0" in backend.description
    x = backend.from_host(images())

    def pool():
        seen.append(backend.max_pool2d(x, (2, 2), (2, 2), NONE)[0])

    thread = threading.Thread(target=pool)
    thread.start()
    thread.join()
    for array in (x, seen[0], backend.xp.zeros(3)):
        assert array.device.id == local_rank
    np.testing.assert_array_equal(
        backend.to_host(seen[0]), naive.max_pool2d(images(), (2, 2), (2, 2), NONE).astype(np.float32)
    )


def test_the_memory_is_the_devices(cuda):
    (memory,) = cuda.memory()
    assert (memory.name, memory.key) == ("GPU 0", cuda.device)
    assert 0 < memory.free <= memory.total == cuda.xp.cuda.Device().mem_info[1]


def test_backends_may_take_turns_in_a_thread(cuda):
    other = CudaBackend(1)
    for _ in range(2):
        for backend in (cuda, other):
            x = backend.relu(backend.from_host(images()))
            np.testing.assert_array_equal(backend.to_host(x), np.maximum(images(), 0))
    assert RACES == []


def test_a_thread_computes_on_the_compute_stream_whatever_others_made_current(cuda):
    stream, other = cuda._device.compute, CudaBackend(1)
    with cuda.xp.cuda.Stream(non_blocking=True):
        cuda.from_host(images())
        assert cuda.xp.cuda.get_current_stream() is stream
    cuda.from_host(images())
    assert cuda.xp.cuda.get_current_stream() is stream
    other.from_host(images())
    cuda.relu(cuda.from_host(images()))
    assert cuda.xp.cuda.get_current_stream() is stream
    cuda.start_normalise(
        np.zeros((1, 2, 3, 1), np.uint8), np.zeros(1, bool), np.ones(1), np.ones(1), None, np.dtype("f")
    )
    assert cuda.xp.cuda.get_current_stream() is stream


def test_products_of_halves_are_summed_in_float32_by_every_thread(cuda):
    """cuBLAS may otherwise round parts of a sum; a thread has a handle of its own for each device."""
    other, expected = CudaBackend(1), set()

    def compute():
        for backend in (cuda, other):
            x = backend.from_host(np.ones((2, 2), np.float16))
            backend.linear(x, x, None)
            expected.add((threading.get_ident(), x.device.id))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    compute()
    assert len(expected) == 4
    assert {handle for handle in expected if MATH_MODES.get(handle) == 16} == expected


# copies


@pytest.fixture(params=[-1, cuda_device.SMALL_BYTES], ids=["in_chunks", "small"])
def either_way(request, monkeypatch):
    """Uploads on a stream of their own, and between kernels."""
    monkeypatch.setattr(cuda_device, "SMALL_BYTES", request.param)


@pytest.fixture
def small_chunks(monkeypatch):
    """Transfers of many chunks, of which the last is not full."""
    monkeypatch.setattr(cuda_device, "CHUNK_BYTES", 64)


@pytest.mark.parametrize(
    "array",
    [images(), images().T, np.arange(50) > 9, np.float64(3.5) * np.ones(()), np.zeros((0, 3), np.float32)],
    ids=["strided", "transposed", "booleans", "no_axes", "empty"],
)
def test_arrays_come_back_as_they_went(small_chunks, either_way, cuda, array):
    backend = CudaBackend()
    there = backend.from_host(array)
    assert there.flags.c_contiguous
    np.testing.assert_array_equal(backend.to_host(there), array, strict=True)
    np.testing.assert_array_equal(backend.to_host(there.T), array.T, strict=True)


def test_the_host_may_change_an_array_as_soon_as_it_was_handed_in(small_chunks, either_way, cuda):
    backend, array = CudaBackend(), np.arange(100.0)
    arrays = []
    for _ in range(5):
        arrays.append(backend.from_host(array))
        array += 1
    for i, there in enumerate(arrays):
        np.testing.assert_array_equal(backend.to_host(there), np.arange(100.0) + i)


def test_an_upload_does_not_wait_for_the_work_before_it(either_way, cuda):
    x = cuda.from_host(images())
    y = x * 2
    cuda.from_host(images(2))
    with pytest.raises(RaceError, match="on which work may still run"):
        assert y.__cuda_array_interface__
    cuda.synchronize()
    assert y.__cuda_array_interface__["shape"] == images().shape


def test_the_host_may_be_ahead_of_any_number_of_small_uploads(cuda):
    """None waits for the work before the one before it."""
    x = cuda.from_host(images())
    stream, results = cuda._device.compute, []
    num_done = stream.num_done
    for i in range(50):
        x = x * 2
        results.append(cuda.from_host(np.arange(i)) + 1)
    assert stream.num_done == num_done
    for i, result in enumerate(results):
        np.testing.assert_array_equal(cuda.to_host(result), np.arange(i) + 1)
    cuda.from_host(np.arange(3))
    assert len(cuda._device._crossing) == 1  # pinned memory is given back
    assert RACES == []


def test_freed_memory_is_not_overwritten_while_it_is_read(small_chunks, either_way, cuda):
    array = np.arange(1000, dtype=np.float32)
    total = cuda.xp.zeros(1000, np.float32)
    for i in range(4):
        x = cuda.from_host(array + i)
        total += x
        del x  # the next upload gets its memory, which is still to be read
    np.testing.assert_array_equal(cuda.to_host(total), 4 * array + 6)
    assert RACES == []


def test_threads_share_pinned_memory(small_chunks, either_way, cuda):
    backend, results = CudaBackend(), {}

    def back_and_forth(number):
        results[number] = [backend.to_host(backend.from_host(np.full(90, 10 * number + i))) for i in range(5)]

    threads = [threading.Thread(target=back_and_forth, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, arrays in results.items():
        np.testing.assert_array_equal(arrays, 10 * number + np.arange(5)[:, None] + np.zeros(90))


def test_a_copy_to_the_host_that_was_started_waits_for_nothing_behind_it(cuda):
    x = cuda.from_host(images())
    finish = cuda.start_to_host((x * 2).T)
    later = x * 3
    np.testing.assert_array_equal(finish(), images().T * 2, strict=True)
    assert not cuda._device.compute.done
    np.testing.assert_array_equal(cuda.to_host(later), images() * 3)
    assert cuda.start_to_host(cuda.from_host(np.float32(3))[None][0])().shape == ()
    assert not cuda._device._leaving


def test_a_copy_that_nobody_waits_for_keeps_what_it_reads(cuda):
    cuda.start_to_host(cuda.from_host(images()) * 2)
    cuda.from_host(images()) * 3  # would get that memory
    assert RACES == []


# mistakes: each is what the line that is taken out is for


def test_a_copy_that_does_not_wait_for_the_computation_is_noticed(cuda, monkeypatch):
    y = cuda.from_host(images()) * 2
    monkeypatch.setattr(cuda.xp.cuda.Stream, "wait_event", lambda self, event: None)
    with pytest.raises(RaceError, match="a write on another may still run"):
        cuda.to_host(y)


def test_a_computation_that_does_not_wait_for_the_copy_is_noticed(cuda, monkeypatch):
    monkeypatch.setattr(CudaDevice, "upload", upload_without_an_event)
    x = cuda.from_host(images())
    with pytest.raises(RaceError, match="a write on another may still run"):
        x * 2


def upload_without_an_event(self, array):
    result = self._cupy.empty(array.shape, array.dtype)
    self._copy.wait_event(self.compute.record())
    result.set(np.ascontiguousarray(array), stream=self._copy)
    return result


def test_a_host_that_does_not_wait_for_its_copy_reads_no_number(cuda, monkeypatch):
    y = cuda.from_host(images()) * 2
    monkeypatch.setattr(cuda.xp.cuda.Event, "synchronize", lambda self: None)
    assert np.isnan(cuda.to_host(y)).all()


def test_results_that_a_kernel_does_not_write_are_no_number(cuda, monkeypatch):
    monkeypatch.setattr(cuda, "_kernels", type("Idle", (), {"lrn": lambda *arguments: None})())
    y, _ = cuda.lrn(cuda.from_host(images()), 3, 0.5, 0.75, 1.0)
    assert np.isnan(cuda.to_host(y)).all()


def test_an_implicit_conversion_is_refused(cuda):
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        np.concatenate([cuda.from_host(images())])


# convolutions by im2col


def test_columns_are_made_for_as_many_images_at_a_time_as_fit(cuda):
    x, w, gy = images(1, (5, 6, 5, 3)), images(2, (4, 3, 2, 3)), images(3, (5, 3, 4, 4))
    stride, pad = (2, 1), (1, 0)
    image_bytes = 4 * 3 * 4 * 3 * 2 * 3
    for column_bytes in (1, image_bytes, 2 * image_bytes, 100 * image_bytes):
        conv = GemmConv(cuda.xp, cuda._kernels, cuda._add_bias_and_relu, column_bytes)
        there = {name: cuda.from_host(np.ascontiguousarray(array)) for name, array in (("x", x), ("w", w), ("gy", gy))}
        y, gx, gw = (cuda.xp.empty(shape, np.float32) for shape in (gy.shape, x.shape, w.shape))
        conv.conv2d(there["x"], there["w"], None, stride, pad, y)
        conv.conv2d_grad_x(there["gy"], there["w"], stride, pad, gx)
        conv.conv2d_grad_w(there["gy"], there["x"], stride, pad, gw)
        for actual, expected in (
            (y, naive.conv2d(x, w, None, stride, pad)),
            (gx, naive.conv2d_grad_x(gy, w, stride, pad, x.shape)),
            (gw, naive.conv2d_grad_w(gy, x, stride, pad, w.shape)[0]),
        ):
            np.testing.assert_allclose(cuda.to_host(actual), expected, rtol=1e-5, atol=1e-5)
