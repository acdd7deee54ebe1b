"""Stand-ins for cudnn and CuPy that record what is asked of them and compute nothing.

They have the names that backends/cudnn*.py use and no others; tests/cudnn/test_names.py holds them against the real
modules.
"""

import gc
import threading
import weakref
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np


class data_type(Enum):
    FLOAT, HALF, BFLOAT16 = range(3)


class heur_mode(Enum):
    A, FALLBACK = range(2)


class numerical_note(Enum):
    TENSOR_CORE, DOWN_CONVERT_INPUTS, REDUCED_PRECISION_REDUCTION, NONDETERMINISTIC = range(4)


class behavior_note(Enum):
    RUNTIME_COMPILATION = 0


class cudnnGraphNotSupportedError(Exception):
    pass


@dataclass(frozen=True)
class FakePlan:
    engine: str
    workspace_bytes: int = 0
    milliseconds: float = 1.0
    builds: bool = True
    runs: bool = True


@dataclass(frozen=True)
class Run:
    """One execution of a plan."""

    engine: str
    thread: int
    handle: int
    stream: int  # that the handle was bound to
    addresses: dict[int, int]
    workspace: int


class FakeTensor:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def _set(self, name: str, value: Any) -> "FakeTensor":
        self.settings[name] = value
        return self

    def set_output(self, value: bool) -> "FakeTensor":
        return self._set("output", value)

    def set_uid(self, value: int) -> "FakeTensor":
        return self._set("uid", value)

    def set_data_type(self, value: data_type) -> "FakeTensor":
        return self._set("data_type", value)

    def set_alignment(self, value: int) -> "FakeTensor":
        return self._set("alignment", value)

    def set_dim(self, value: list[int]) -> "FakeTensor":
        return self._set("dim", value)

    def set_stride(self, value: list[int]) -> "FakeTensor":
        return self._set("stride", value)


class FakeGraph:
    """cudnn.pygraph; `operations` is what it was built from, in order."""

    def __init__(self, fake: "FakeCudnn", settings: dict[str, Any]) -> None:
        self._fake, self.settings = fake, settings
        self.operations: list[str] = []
        self.tensors: list[FakeTensor] = []
        self.excluded_notes: list[numerical_note | behavior_note] = []
        self.workspace_limit: int | None = None
        fake.graphs.append(self)

    def tensor(self, *, dim: list[int], stride: list[int], uid: int) -> FakeTensor:
        self.tensors.append(FakeTensor({"dim": dim, "stride": stride, "uid": uid}))
        return self.tensors[-1]

    def _add(self, operation: str, settings: dict[str, Any]) -> FakeTensor:
        self.operations.append(operation)
        self.tensors.append(FakeTensor(settings))
        return self.tensors[-1]

    def conv_fprop(self, *, image: Any, weight: Any, stride: Any, padding: Any, dilation: Any) -> FakeTensor:
        return self._add("conv_fprop", {"stride": stride, "padding": padding, "dilation": dilation})

    def conv_dgrad(self, *, loss: Any, filter: Any, stride: Any, padding: Any, dilation: Any) -> FakeTensor:
        return self._add("conv_dgrad", {"stride": stride, "padding": padding, "dilation": dilation})

    def conv_wgrad(self, *, image: Any, loss: Any, stride: Any, padding: Any, dilation: Any) -> FakeTensor:
        return self._add("conv_wgrad", {"stride": stride, "padding": padding, "dilation": dilation})

    def bias(self, *, input: Any, bias: Any) -> FakeTensor:
        return self._add("bias", {})

    def relu(self, *, input: Any) -> FakeTensor:
        return self._add("relu", {})

    def validate(self) -> None:
        pass

    def build_operation_graph(self) -> None:
        pass

    def create_execution_plans(self, modes: list[heur_mode]) -> None:
        assert modes == [heur_mode.A, heur_mode.FALLBACK]
        fused = {"bias", "relu"} & set(self.operations)
        self._plans = list(self._fake.fused_plans if fused else self._fake.plans)

    def deselect_numeric_notes(self, notes: list[numerical_note]) -> None:
        self.excluded_notes += notes

    def deselect_behavior_notes(self, notes: list[behavior_note]) -> None:
        self.excluded_notes += notes

    def deselect_workspace_greater_than(self, num_bytes: int) -> None:
        self.workspace_limit = num_bytes

    def check_support(self) -> None:
        if not self._plans:
            raise cudnnGraphNotSupportedError("Warning: A_STATUS; Reason: not this one\nWarning: Reason: not this one")

    def get_execution_plan_count(self) -> int:
        return len(self._plans)

    def build_plan_at_index(self, index: int) -> None:
        if not self._plans[index].builds:
            raise cudnnGraphNotSupportedError("Deselecting execution plan")

    def get_plan_name_at_index(self, index: int) -> str:
        return self._plans[index].engine

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return self._plans[index].workspace_bytes

    def execute_plan_at_index(self, addresses: dict[int, int], workspace: int, index: int, handle: int) -> None:
        plan, fake = self._plans[index], self._fake
        assert handle in fake.handles, "a handle that is not alive"
        if not plan.runs:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        fake.milliseconds += plan.milliseconds
        run = Run(plan.engine, threading.get_ident(), handle, fake.handles[handle], dict(addresses), workspace)
        fake.runs.append(run)


class FakeCudnn:
    """The module cudnn. `plans` and `fused_plans` are what it offers for any convolution without and with bias."""

    data_type, heur_mode = data_type, heur_mode
    numerical_note, behavior_note = numerical_note, behavior_note
    cudnnGraphNotSupportedError = cudnnGraphNotSupportedError

    def __init__(self) -> None:
        self.plans, self.fused_plans = [FakePlan("plain")], [FakePlan("fused")]
        self.handles: dict[int, int] = {}  # the stream that each is bound to
        self.destroyed: list[int] = []
        self.graphs: list[FakeGraph] = []
        self.runs: list[Run] = []
        self.milliseconds = 0.0
        self.version = 92800

    def backend_version(self) -> int:
        return self.version

    def backend_version_string(self) -> str:
        return f"{self.version // 10000}.{self.version // 100 % 100}.{self.version % 100}"

    def create_handle(self) -> int:
        handle = 1000 + len(self.handles) + len(self.destroyed)
        self.handles[handle] = -1
        return handle

    def destroy_handle(self, handle: int) -> None:
        del self.handles[handle]
        self.destroyed.append(handle)

    def set_stream(self, handle: int, stream: int) -> None:
        self.handles[handle] = stream

    def pygraph(self, **settings: Any) -> FakeGraph:
        return FakeGraph(self, settings)

    def create_device_properties(self, description: str) -> str:
        return description


class FakeStream:
    def __init__(self, ptr: int) -> None:
        self.ptr, self.capturing = ptr, False

    def is_capturing(self) -> bool:
        return self.capturing


class FakeMemory:
    def __init__(self, ptr: int, num_bytes: int) -> None:
        self.ptr, self.num_bytes = ptr, num_bytes


@dataclass
class FakeCupy:
    """The module cupy: a current stream a thread, events that read the fake device's clock, memory that is counted."""

    cudnn: FakeCudnn
    compute_capability: str = "80"
    memory_bytes: int = 16 << 30
    allocated: list[int] = field(default_factory=list)
    largest_allocation: int = 1 << 40

    def __post_init__(self) -> None:
        fake = self
        self.streams = threading.local()
        self._memory: weakref.WeakSet[FakeMemory] = weakref.WeakSet()

        class Event:
            milliseconds: float | None = None

            def record(self) -> None:
                self.milliseconds = fake.cudnn.milliseconds

            def synchronize(self) -> None:
                assert self.milliseconds is not None

        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability=self.compute_capability),
            Event=Event,
            get_current_stream=self.current_stream,
            get_elapsed_time=lambda begin, end: end.milliseconds - begin.milliseconds,
            runtime=SimpleNamespace(memGetInfo=lambda: (self.memory_bytes // 2, self.memory_bytes)),
        )

    def current_stream(self) -> FakeStream:
        if not hasattr(self.streams, "current"):
            self.streams.current = FakeStream(0)
        return self.streams.current

    def allocate(self, num_bytes: int) -> FakeMemory:
        if num_bytes > self.largest_allocation:
            raise MemoryError(f"out of memory allocating {num_bytes} bytes")
        self.allocated.append(num_bytes)
        memory = FakeMemory(4096 * len(self.allocated), num_bytes)
        self._memory.add(memory)
        return memory

    def in_use(self) -> list[int]:
        """Return the sizes of the memory that something still refers to."""
        gc.collect()
        return sorted(memory.num_bytes for memory in self._memory)


class FakeArray:
    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float32, ptr: int = 512) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.flags = SimpleNamespace(c_contiguous=True)
        self.data = SimpleNamespace(ptr=ptr)
