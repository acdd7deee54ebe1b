"""The stand-in for CuPy: what it computes, and what it refuses and notices."""

import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import pytest

from tests.fake_cupy import RACES, Machine, RaceError, install, stand_in
from tests.fake_cupy.record_names import recorded_names

X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


@pytest.fixture
def cupy():
    with stand_in() as module:
        yield module


def public_names(owner):
    return {name for name in vars(owner) if not name.startswith("_")}


def test_every_public_name_exists_in_cupy():
    real, cuda = recorded_names(), install.CUDA
    ours = {
        "cupy": set(install.CUPY),
        "cupy.cuda": set(cuda),
        "cupy.cuda.runtime": set(install.RUNTIME),
        "cupy.cuda.memory": set(vars(cuda["memory"])),
        **{f"cupy.{name}": public_names(install.CUPY[name]) for name in ("ndarray", "RawModule", "RawKernel")},
        **{
            f"cupy.cuda.{name}": public_names(cuda[name])
            for name in ("Stream", "Event", "Device", "Graph", "MemoryPool")
        },
        "cupy.cuda.PinnedMemoryPointer": public_names(cuda["PinnedMemoryPointer"]) | {"ptr"},
    }
    assert {owner: names - real[owner] for owner, names in ours.items()} == {owner: set() for owner in ours}


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_recorded_names_are_those_of_the_installed_cupy():
    code = (
        "from tests.fake_cupy.record_names import real_names, recorded_names\n"
        "assert {owner: set(names) for owner, names in real_names().items()} == recorded_names()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_what_dir_does_not_list_is_in_the_installed_cupy_too():
    code = (
        "import cupy, numpy as np\n"
        "kinds = cupy._core._routines_linalg\n"
        "cupy._core.set_compute_type(np.float32, kinds.COMPUTE_TYPE_DEFAULT)\n"
        "assert kinds.COMPUTE_TYPE_TF32 != kinds.COMPUTE_TYPE_DEFAULT\n"
        "assert cupy.cuda.cublas.setMathMode.__doc__ == 'setMathMode(intptr_t handle, int mode)'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_import_gives_the_stand_in_only_within():
    before = sys.modules.get("cupy")
    with stand_in() as module:
        import cupy
        import cupy.cuda as imported

        assert cupy is module
        assert imported is module.cuda
    assert sys.modules.get("cupy") is before


# what each computes for a float32 array x; NumPy's result is what is expected
EXPRESSIONS = {
    "operators": lambda xp, x: (2 * x + 1 - x / 3) ** 2,
    "numpy_scalar": lambda xp, x: np.float32(2) * x,
    "booleans": lambda xp, x: (x > 0) * x,
    "bits": lambda xp, x: (x.view(np.uint32) >> np.uint32(16)) & 1,
    "reflected": lambda xp, x: 1 / (3 - x),
    "in_place": lambda xp, x: [x := x.copy(), x.__iadd__(1), x.__imul__(x), x][-1],
    "functions": lambda xp, x: xp.log1p(xp.exp(-xp.abs(x))) + xp.maximum(x, 0),
    "where": lambda xp, x: xp.where(x >= 0, 1, x),
    "sum_of_all": lambda xp, x: x.sum(keepdims=True).reshape(()),
    "sum_of_axes": lambda xp, x: x.sum(axis=(0, 1)) + x.sum(axis=0)[1],
    "maxima": lambda xp, x: x.max(axis=1, keepdims=True) - x.min(axis=-1, keepdims=True),
    "counts": lambda xp, x: (x > 0).sum(axis=1),
    "finite": lambda xp, x: xp.isfinite(x / x).all(),
    "matrices": lambda xp, x: x @ x.T,
    "slices": lambda xp, x: x[:, ::-1][1, None, :2],
    "element": lambda xp, x: x[1, 2] + x[0][0],
    "rows": lambda xp, x: xp.concatenate([row[None] for row in x] + [x], axis=0),
    "stacked": lambda xp, x: xp.stack([x.sum(), x.max()]) + xp.stack([x, x + 1])[1, 0, 0],
    "copied_by_reshape": lambda xp, x: x.T.reshape(-1),
    "types": lambda xp, x: x.astype(np.float16).astype(np.int32),
    "order_of_axes": lambda xp, x: x.T.astype(np.float64).reshape(-1) * x.T.astype(np.float64).flags.f_contiguous,
    "contiguous": lambda xp, x: xp.ascontiguousarray(x.T),
    "contiguous_without_axes": lambda xp, x: xp.ascontiguousarray(x.sum(keepdims=True).reshape(())),
    "ranges": lambda xp, x: xp.arange(2, 5, dtype=np.uint64) * np.uint64(3),
    "made": lambda xp, x: xp.full((2,), 3, np.float32) + xp.zeros(2, np.float32) + xp.ones((2, 1), np.float32),
}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_computes_what_numpy_computes(cupy, expression):
    result = expression(cupy, cupy.asarray(X))
    with np.errstate(all="ignore"):
        expected = np.asarray(expression(np, X))
    assert isinstance(result, cupy.ndarray)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(result.get(), expected)


def test_scalars_of_numpy_have_a_type_and_those_of_python_have_none(cupy):
    x = cupy.asarray(X)
    assert (x * 2.5).dtype == (x * np.float32(2.5)).dtype == np.float32
    assert (x * np.float64(2.5)).dtype == np.float64


def test_assignments_write_through_views_and_masks(cupy):
    x, expected = cupy.asarray(X), X.copy()
    for array in (x, expected):
        array[0, 1:] = 7
        array.reshape(-1)[4:] = array[0, :2]
        array[array > 6] = -1
    np.testing.assert_array_equal(x.get(), expected)
    x[...] = x[:1]
    np.testing.assert_array_equal(x.get(), np.stack([expected[0]] * 2))


# what CuPy refuses, and what it would do at a price that nobody sees
REFUSED = {
    "conversion": (lambda cp, x: np.asarray(x), TypeError, "Implicit conversion"),
    "function_of_numpy": (lambda cp, x: np.exp(x), TypeError, "not supported|__array_ufunc__"),
    "host_operand": (lambda cp, x: x + X, TypeError, "Unsupported type"),
    "host_operand_first": (lambda cp, x: X + x, TypeError, "Unsupported type"),
    "host_value": (lambda cp, x: x.__setitem__(0, X[0]), ValueError, "cannot be used for fill"),
    "host_index": (lambda cp, x: x[np.array([0, 1])], TypeError, "index of type ndarray"),
    "host_result": (lambda cp, x: cp.exp(x, out=X.copy()), TypeError, "must be of ArrayType"),
    "result_of_another_shape": (lambda cp, x: cp.exp(x[:1], out=x), ValueError, "output array of shape"),
    "narrowed_in_place": (lambda cp, x: (x > 0).__iadd__(x), TypeError, "cannot be cast"),
    "upload_of_another_type": (lambda cp, x: x.set(X.astype(np.float64)), TypeError, "float64"),
    "upload_into_a_view": (lambda cp, x: x.T.set(X.T), RuntimeError, "non-contiguous"),
    "matrices_that_do_not_fit": (lambda cp, x: x @ x, ValueError, "matmul"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(cupy, call, error, message):
    with pytest.raises(error, match=message):
        call(cupy, cupy.asarray(X))


def test_fresh_memory_is_not_a_number(cupy):
    assert np.isnan(cupy.empty((3, 2), np.float32).get()).all()
    kept = cupy.ones(5, np.float32)
    address = kept.data.ptr
    del kept
    again = cupy.empty(5, np.float32)
    assert again.data.ptr == address
    assert np.isnan(again.get()).all()


def test_nothing_runs_before_it_is_waited_for(cupy):
    stream, host = cupy.cuda.Stream(non_blocking=True), np.frombuffer(cupy.cuda.alloc_pinned_memory(24), np.float32)
    with stream:
        x = cupy.asarray(X)
        first = stream.record()
        x.reshape(-1).get(out=host, blocking=False)
    assert np.isnan(host).all()
    assert not first.done
    first.synchronize()
    assert first.done
    assert np.isnan(host).all()
    assert not stream.done
    stream.synchronize()
    np.testing.assert_array_equal(host, X.reshape(-1))


def test_a_stream_that_waits_for_an_event_runs_what_is_before_it_first(cupy):
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with first:
        x = cupy.asarray(X) + 1
    second.wait_event(first.record())
    with second:
        y = x * 2
    np.testing.assert_array_equal(y.get(stream=second), 2 * (X + 1))


def races(cupy):
    """Return calls that each leave out an order which they need."""
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.asarray(X)

    def on_stream(call):
        with stream:
            return call()

    def freed_too_early():
        y = cupy.ones(6, np.float32)
        stream.wait_event(cupy.cuda.get_current_stream().record())
        with stream:
            z = y + 1
        del y
        cupy.empty(6, np.float32)  # the memory of y, which the other stream is still to read
        return z

    return {
        "read_after_write": lambda: on_stream(lambda: x + 1),
        "write_after_write": lambda: on_stream(lambda: x.fill(0)),
        "host": lambda: x.__cuda_array_interface__,
        "freed_too_early": freed_too_early,
    }


@pytest.mark.parametrize("name", ["read_after_write", "write_after_write", "host", "freed_too_early"])
def test_a_missing_order_is_a_race(cupy, name):
    with pytest.raises(RaceError):
        races(cupy)[name]()
    assert len(RACES) == 1


def test_a_write_after_a_read_on_another_stream_is_a_race_unless_they_touch_different_parts(cupy):
    x, stream = cupy.zeros(8, np.float32), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        y = x[:4] + 1
    x[4:] = 2
    with pytest.raises(RaceError):
        x[3:5] = 2
    np.testing.assert_array_equal(y.get(stream=stream), np.ones(4))


def test_an_idle_array_offers_its_memory(cupy):
    x = cupy.asarray(X)
    x.get()
    interface = x.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["data"]) == ((2, 3), "<f4", (x.data.ptr, False))


def test_device_and_stream_belong_to_a_thread(cupy):
    cupy.cuda.Device(1).use()
    cupy.cuda.Stream().use()
    seen = []
    thread = threading.Thread(target=lambda: seen.append((cupy.cuda.get_device_id(), cupy.asarray(X))))
    thread.start()
    thread.join()
    assert seen[0][0] == 0
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="array of device 0 used on device 1"):
        seen[0][1] + 1


def test_there_may_be_no_driver(cupy):
    Machine.driver = 0
    assert not cupy.cuda.is_available()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InsufficientDriver"):
        cupy.empty(3)


def test_the_pool_counts_its_bytes_and_keeps_its_limit(cupy):
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.used_bytes()
    x = cupy.empty(1000, np.uint8)
    assert pool.used_bytes() - before == 1024
    del x
    assert (pool.used_bytes(), pool.free_bytes()) == (before, 1024)
    pool.set_limit(before + 2000)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="allocating 2,048 bytes"):
            cupy.empty(2000, np.uint8)
    finally:
        pool.set_limit(0)
