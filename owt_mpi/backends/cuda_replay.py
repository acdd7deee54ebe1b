"""Work of the GPU recorded in CUDA graphs and replayed: the host starts a graph where it started kernel by kernel.

A graph holds launches with their arguments, addresses among them. So what a function is given is copied to where its
inputs were when it was recorded, and the memory that it took comes from a pool of its own, in which what one launch
freed is there for the launches after it, and for nobody else. (CUDA programming guide, "CUDA Graphs".)
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Any, Generic

from owt_mpi.backends.base import Array, T
from owt_mpi.backends.cuda_device import CudaDevice


class CudaReplay:
    """Records what functions make the compute stream of `device` do. One pool serves all: they are called in turn."""

    def __init__(self, cupy: ModuleType, device: CudaDevice) -> None:
        self._cupy, self._device = cupy, device
        self._pool: Any = None
        self._under_way = _UnderWay()

    def replayable(self, function: Callable[..., T]) -> Callable[..., T]:
        """See Backend. The first call runs the function as it is, the second one records it."""
        return _Replayable(function, self)

    def each_time(self, call: Callable[[], None]) -> None:
        """See Backend."""
        recording = self._under_way.recording
        if recording is None:
            call()
        else:
            recording.call_between(call)

    def record(self, function: Callable[..., T], arrays: tuple[Array, ...]) -> "_Recording[T]":
        """Return the recording of function(*arrays), the work of which has been started once."""
        assert self._under_way.recording is None, "a replayable function calls another"
        self._device.enter()
        if self._pool is None:
            self._device.synchronize()
            self._cupy.get_default_memory_pool().free_all_blocks()  # among them what the call before this one needed
            self._pool = self._cupy.cuda.MemoryPool()
        recording: _Recording[T] = _Recording(self._cupy, self._device, self._pool, arrays)
        self._under_way.recording = recording
        try:
            recording.record(function)
        finally:
            self._under_way.recording = None
        return recording


class _UnderWay(threading.local):
    """What the calling thread records just now."""

    recording: "_Recording[Any] | None" = None


class _Replayable(Generic[T]):
    """A function of arrays, recorded when it is called for the second time, for arrays like those of the first call."""

    def __init__(self, function: Callable[..., T], replay: CudaReplay) -> None:
        self._function, self._replay = function, replay
        self._like: list[tuple[Any, Any]] | None = None  # shapes and types of the first call's arrays
        self._recording: _Recording[T] | None = None

    def __call__(self, *arrays: Array) -> T:
        like = [(array.shape, array.dtype) for array in arrays]
        is_first, self._like = self._like is None, self._like or like
        if is_first or like != self._like:
            return self._function(*arrays)
        if self._recording is None:
            self._recording = self._replay.record(self._function, arrays)
        else:
            self._recording.replay(arrays)
        return self._recording.result


class _Recording(Generic[T]):
    """Graphs, and the calls between them, in order; what they read, and what they leave."""

    result: T

    def __init__(self, cupy: ModuleType, device: CudaDevice, pool: Any, arrays: tuple[Array, ...]) -> None:
        self._cupy, self._device, self._pool = cupy, device, pool
        self._steps: list[Callable[[], None]] = []
        self._allocating: AbstractContextManager[None]
        with cupy.cuda.using_allocator(pool.malloc):
            self._inputs = [cupy.empty(array.shape, array.dtype) for array in arrays]
        self._take(arrays)

    def record(self, function: Callable[..., T]) -> None:
        """Run `function` on the inputs, and start what it would have started."""
        self._begin()
        try:
            self.result = function(*self._inputs)
        except BaseException:
            with suppress(Exception):  # the capture may have been ended by CUDA
                self._end()
            raise
        self._launch(self._end())

    def replay(self, arrays: tuple[Array, ...]) -> None:
        """Do it again for `arrays`, without the function."""
        self._device.enter()
        self._take(arrays)
        for step in self._steps:
            step()

    def call_between(self, call: Callable[[], None]) -> None:
        """Make `call` at this place, now and in every replay, when the work before it has been started."""
        self._launch(self._end())
        self._steps.append(call)
        call()
        self._begin()

    def _take(self, arrays: tuple[Array, ...]) -> None:
        for place, array in zip(self._inputs, arrays, strict=True):
            place[...] = array

    def _begin(self) -> None:
        self._device.compute.begin_capture()  # relaxed: other threads go on, and the pool may grow
        self._allocating = self._cupy.cuda.using_allocator(self._pool.malloc)
        self._allocating.__enter__()

    def _end(self) -> Any:
        self._allocating.__exit__(None, None, None)
        return self._device.compute.end_capture()

    def _launch(self, graph: Any) -> None:
        def launch() -> None:
            graph.launch(self._device.compute)

        self._steps.append(launch)
        launch()
