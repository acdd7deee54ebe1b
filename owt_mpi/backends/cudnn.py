"""Convolutions on cuDNN: plans kept by geometry, a handle for each thread, work on CuPy's current stream."""

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.backends.cudnn_graphs import (
    FULL_ALIGNMENT,
    B,
    Conv,
    Device,
    Limits,
    NoPlanError,
    Operation,
    Plan,
    Precision,
    W,
    X,
    Y,
    check_precision,
    find_plans,
    no_plan_message,
)
from owt_mpi.backends.cudnn_workspace import Workspace, refuse_while_capturing

MIN_CUDNN_VERSION = 90000
_LAST_VERSION_FOR_VOLTA = 91099  # 9.10 uses the tensor cores of compute capability 7.0, 9.28 does not

_TIMED_RUNS = 5
_GET_CUDNN = "install it with pip install 'owt_mpi[gpu]'"
_creating_handles = threading.Lock()

# NumPy has no bfloat16: it is that of the package ml_dtypes, or bits in uint16, as on the wire
_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint16": "bf16"}


def find_cudnn() -> str | None:
    """Return why cuDNN cannot be used on the current device, in words for the user, or None if it can."""
    try:
        import cudnn

        version = cudnn.backend_version()
    except ImportError as error:
        return f"the package nvidia-cudnn-frontend is not installed ({error}); {_GET_CUDNN}"
    except (OSError, RuntimeError) as error:
        return f"the library libcudnn.so.9 does not load ({error}); {_GET_CUDNN}"
    if version < MIN_CUDNN_VERSION:
        return f"cuDNN is of version {version}, but {MIN_CUDNN_VERSION} is the oldest that will do; {_GET_CUDNN}"
    without_cublas = _why_cublas_does_not_load()
    if without_cublas is not None:
        return f"cuDNN needs the library libcublasLt, which does not load ({without_cublas}); {_GET_CUDNN}"
    try:
        cudnn.destroy_handle(cudnn.create_handle())
    except RuntimeError as error:
        return f"cuDNN {version} finds no GPU that it can use ({error}); see whether nvidia-smi lists one"
    return None


def default_workspace_bytes(device_memory_bytes: int) -> int:
    """Return how much workspace plans may use unless told otherwise: a sixteenth of the device's memory.

    That is 5 GB of 80: convolutions in tf32 on an A100 want as much as their input and output together.
    """
    return device_memory_bytes // 16


@dataclass(frozen=True)
class CudnnOptions:
    """How plans are chosen; see Cudnn. `workspace_bytes` None: default_workspace_bytes of the device."""

    autotune: bool = False
    deterministic: bool = False
    workspace_bytes: int | None = None


class Cudnn:
    """cuDNN's convolutions on the device that is current, in each thread that calls.

    Arrays are C-contiguous CuPy arrays on that device, all of one call of one dtype: float32 (computed in TF32 if
    `tf32`), float16 or bfloat16, which are summed up in float32. Results go into the array that the caller gives; the
    work is started on CuPy's current stream, and nothing waits for it. Threads share nothing: each makes its own plans.

    A plan is chosen when a geometry is first met: the one that cuDNN's heuristics put first, or with `autotune` the
    fastest of all that it offers, found by running them. That cannot be done while a CUDA graph is captured.
    """

    def __init__(
        self,
        cupy: Any,
        allocate: Callable[[int], Any],
        add_bias_and_relu: Callable[[Array, Array | None, bool], None],
        *,
        tf32: bool = False,
        autotune: bool = False,
        deterministic: bool = False,
        workspace_bytes: int | None = None,
    ) -> None:
        """Use the module `cupy`. ValueError for options that the device or one another exclude.

        `allocate(num_bytes)` returns device memory with its address in `ptr`, like cupy.cuda.alloc; what is let go of
        may be used again by later work on the same stream only, as in CuPy's pool. `add_bias_and_relu(y, b, relu)`
        adds b, if given, to y in place, and then applies ReLU, if true: it is called where no plan does that better.
        """
        if autotune and deterministic:
            raise ValueError(
                "autotune and deterministic exclude one another: the fastest plan may be another one in the next run, "
                "and give other bits; leave one of the two out"
            )
        if workspace_bytes is None:
            workspace_bytes = default_workspace_bytes(cupy.cuda.runtime.memGetInfo()[1])
        if workspace_bytes < 0:
            raise ValueError(f"workspace_bytes is {workspace_bytes}, but must not be negative; 0 allows no workspace")
        self._cuda, self._allocate, self._add_bias_and_relu = cupy.cuda, allocate, add_bias_and_relu
        self._tf32, self._autotune = tf32, autotune
        self._limits = Limits(workspace_bytes, deterministic)
        self._compute_capability = int(cupy.cuda.Device().compute_capability)
        if tf32:
            check_precision("tf32", self._compute_capability)
        self._threads = threading.local()

    def conv2d(
        self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, y: Array, relu: bool = False
    ) -> None:
        """Set y to Backend.conv2d's result, or with `relu` to max(result, 0)."""
        arrays = {X: x, W: w, Y: y} if b is None else {X: x, W: w, Y: y, B: b}
        self._run(self._conv("conv2d", arrays, stride, pad, relu), arrays)

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, gx: Array) -> None:
        """Set gx to Backend.conv2d_grad_x's result."""
        arrays = {X: gx, W: w, Y: gy}
        self._run(self._conv("conv2d_grad_x", arrays, stride, pad), arrays)

    def conv2d_grad_w(self, gy: Array, x: Array, stride: Pair, pad: Pair, gw: Array) -> None:
        """Set gw to the gradient with respect to w that Backend.conv2d_grad_w returns."""
        arrays = {X: x, W: gw, Y: gy}
        self._run(self._conv("conv2d_grad_w", arrays, stride, pad), arrays)

    @property
    def workspace_bytes(self) -> int:
        """The most that a plan may work in."""
        return self._limits.workspace_bytes

    @property
    def description(self) -> str:
        """The library and how plans are chosen, in a few words to be printed once."""
        import cudnn

        version, choice = cudnn.backend_version_string(), "timed" if self._autotune else "by cuDNN's heuristics"
        is_old = self._compute_capability < 75 and cudnn.backend_version() > _LAST_VERSION_FOR_VOLTA
        hint = "; fp16 is slow: the last version for the tensor cores of this GPU is nvidia-cudnn-cu12<9.11" * is_old
        return f"cuDNN {version}, plans {choice}, {self._limits}{hint}"

    def plans(self) -> dict[Conv, Plan]:
        """Return what the calling thread's convolutions run with, for reports."""
        return dict(self._thread().plans)

    def _conv(
        self, operation: Operation, arrays: Mapping[int, Array], stride: Pair, pad: Pair, relu: bool = False
    ) -> Conv:
        dtype = arrays[X].dtype
        precision = _PRECISIONS.get(dtype.name)
        if precision is None:
            raise TypeError(f"{operation}: cuDNN computes in float32, float16 or bfloat16, not {dtype}; convert it")
        if precision == "fp32" and self._tf32:
            precision = "tf32"
        address_bits = FULL_ALIGNMENT
        for array in arrays.values():
            assert array.flags.c_contiguous, (operation, array.shape)
            assert array.dtype == dtype, (operation, array.dtype, dtype)
            address_bits |= array.data.ptr
        x, w, y = (tuple(arrays[name].shape) for name in (X, W, Y))
        _check_shapes(x, w, y, stride, pad)
        alignment = address_bits & -address_bits  # the lowest bit that is set in any address
        return Conv(
            operation, x, w, y, (stride[0], stride[1]), (pad[0], pad[1]), precision, B in arrays, relu, alignment
        )

    def _run(self, conv: Conv, arrays: Mapping[int, Array]) -> None:
        import cudnn

        thread, stream = self._thread(), self._cuda.get_current_stream()
        cudnn.set_stream(thread.device.handle, stream.ptr)
        plan = thread.plans.get(conv)
        if plan is None:
            refuse_while_capturing(stream, conv)
            plan = thread.plans[conv] = self._choose(thread.device, stream, conv, arrays)
        workspace = thread.workspaces.setdefault(stream.ptr, Workspace(self._allocate))
        self._start(plan, thread.device, conv, arrays, workspace.reserve(plan.workspace_bytes, stream, conv))

    def _start(self, plan: Plan, device: Device, conv: Conv, arrays: Mapping[int, Array], workspace: int) -> None:
        assert device.handle is not None
        try:
            plan.run(device.handle, {name: arrays[name].data.ptr for name in plan.names}, workspace)
        except RuntimeError as error:
            raise RuntimeError(f"cuDNN failed in {conv}, plan {plan.engine}: {error}") from error
        if plan.bias_and_relu_left:
            self._add_bias_and_relu(arrays[Y], arrays.get(B), conv.relu)

    def _choose(self, device: Device, stream: Any, conv: Conv, arrays: Mapping[int, Array]) -> Plan:
        plans = find_plans(conv, device, self._limits)
        if not self._autotune:
            return next(plans)
        trials = Workspace(self._allocate)
        times: list[tuple[float, Plan]] = []
        said = ""
        for plan in plans:
            try:
                workspace = trials.reserve(plan.workspace_bytes, stream, conv)
                times.append((self._milliseconds(partial(self._start, plan, device, conv, arrays, workspace)), plan))
            except (RuntimeError, MemoryError) as error:
                said = str(error)
        if not times:
            raise NoPlanError(no_plan_message(conv, self._limits, said))
        return min(times, key=lambda timed: timed[0])[1]

    def _milliseconds(self, start_once: Callable[[], None]) -> float:
        """Return how long the device took for some runs, after one that loads what they need."""
        begin, end = self._cuda.Event(), self._cuda.Event()
        start_once()
        begin.record()
        for _ in range(_TIMED_RUNS):
            start_once()
        end.record()
        end.synchronize()
        return float(self._cuda.get_elapsed_time(begin, end))

    def _thread(self) -> "_Thread":
        """Return what belongs to the calling thread."""
        if not hasattr(self._threads, "own"):
            self._threads.own = _Thread(self._compute_capability)
        own: _Thread = self._threads.own
        return own


def _why_cublas_does_not_load() -> str | None:
    """Load libcublasLt, which cuDNN looks for itself when it needs it: where that fails it ends the process."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # comes with CuPy
    except ImportError:
        return None  # an older CuPy: the system's loader has to find the library
    try:
        load_nvidia_dynamic_lib("cublasLt")
    except RuntimeError as error:
        return str(error)
    return None


class _Thread:
    """A thread's handle, plans, and workspaces by the address of their stream; gone with the thread."""

    def __init__(self, compute_capability: int) -> None:
        import cudnn

        with _creating_handles:
            handle = cudnn.create_handle()
        self.device = Device(compute_capability, handle)
        self.plans: dict[Conv, Plan] = {}
        self.workspaces: dict[int, Workspace] = {}
        weakref.finalize(self, _release, self.plans, cudnn.destroy_handle, handle)


def _release(plans: dict[Conv, Plan], destroy_handle: Callable[[int], None], handle: int) -> None:
    """Give plans back before the handle that they were made with. Also called when the interpreter ends."""
    plans.clear()
    destroy_handle(handle)


def _check_shapes(x: Shape, w: Shape, y: Shape, stride: Pair, pad: Pair) -> None:
    """Assert that the shapes fit: cuDNN takes the caller's word for how much memory there is."""
    height, width = ((x[1 + i] + 2 * pad[i] - w[1 + i]) // stride[i] + 1 for i in (0, 1))
    assert x[3] == w[3], (x, w)
    assert y == (x[0], height, width, w[0]), (x, w, y, stride, pad)
