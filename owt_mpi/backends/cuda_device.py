"""The GPU that a rank computes on: its streams, and copies to and from it through pinned memory."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Memory

CHUNK_BYTES = 4 << 20  # long enough for the full rate of the bus; the host fills one while another crosses
NUM_CHUNKS = 3
PINNED_BYTES = NUM_CHUNKS * CHUNK_BYTES
# CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: else parts of a sum may be rounded to halves before they are added
_NO_REDUCED_PRECISION_REDUCTION = 16
SMALL_BYTES = 64 << 10  # crosses in 3 us or less: not worth a stream of its own


@dataclass(frozen=True)
class DeviceFacts:
    """What is said of a GPU: `identity` is one that no other device has, a MIG slice included."""

    name: str
    compute_capability: str
    total_bytes: int
    identity: str


class _Chunk:
    """Pinned memory for one transfer at a time. `crossing` is recorded behind the last one."""

    def __init__(self, cupy: ModuleType) -> None:
        self.bytes = np.frombuffer(cupy.cuda.alloc_pinned_memory(CHUNK_BYTES), np.uint8, CHUNK_BYTES)
        self.crossing = cupy.cuda.Event(disable_timing=True)

    def like(self, part: Array) -> np.ndarray:
        """Return the memory as an array of the shape and dtype of `part`, when the last transfer is over."""
        self.crossing.synchronize()
        return self.bytes[: part.nbytes].view(part.dtype)


class CudaDevice:
    """One GPU with a stream for computing and one for copies, both shared by all threads of the process.

    CuPy's current device and stream belong to a thread: `enter` makes these two current in the calling thread.
    """

    def __init__(self, cupy: ModuleType, number: int) -> None:
        self._cupy, self.number = cupy, number
        self._device = cupy.cuda.Device(number)
        self._device.use()
        self.compute = cupy.cuda.Stream(non_blocking=True)
        self._copy = cupy.cuda.Stream(non_blocking=True)
        self.enter()
        self._lock = threading.Lock()
        self._chunks = [_Chunk(cupy) for _ in range(NUM_CHUNKS)]
        # pinned memory that small uploads are read from, with the event behind each
        self._crossing: deque[tuple[Any, np.ndarray]] = deque()
        self._leaving: dict[Any, tuple[Array, np.ndarray]] = {}  # by the event behind it, what a copy reads and writes

    def enter(self) -> None:
        """Let what the calling thread does with CuPy from now on happen on this device, on the compute stream.

        It is asked each time, as others may change both: CuPy's own `with stream` ends on the null stream, whatever
        stream the thread used before.
        """
        if self._cupy.cuda.get_current_stream() is not self.compute:
            self._device.use()
            self.compute.use()
        if self.number not in _with_exact_sums.devices:  # a thread has a cuBLAS handle of its own for each device
            cuda = self._cupy.cuda
            cuda.cublas.setMathMode(cuda.get_cublas_handle(), _NO_REDUCED_PRECISION_REDUCTION)
            _with_exact_sums.devices.add(self.number)

    def set_tf32(self, tf32: bool) -> None:
        """Let cuBLAS make products of float32 numbers in TF32 or not, in the whole process.

        CuPy reads its variable CUPY_TF32 once, at the first product; this is where it keeps what it has read.
        """
        core = self._cupy._core
        kinds = core._routines_linalg
        core.set_compute_type(np.float32, kinds.COMPUTE_TYPE_TF32 if tf32 else kinds.COMPUTE_TYPE_DEFAULT)

    def facts(self) -> DeviceFacts:
        """Return what the driver says of the device."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self.number)
        capability: str = self._device.compute_capability
        return DeviceFacts(
            name=properties["name"].decode(),
            compute_capability=f"{capability[:-1]}.{capability[-1]}",
            total_bytes=int(properties["totalGlobalMem"]),
            # slices of one GPU share its address; CuPy cuts the UUID at its first zero, so it would not do alone
            identity=f"{self._device.pci_bus_id} {properties['uuid'].hex()}",
        )

    def memory(self) -> Memory:
        """Return how much memory is free, to all processes, and how much the device has."""
        free, total = self._device.mem_info
        return Memory(f"GPU {self.number}", self.facts().identity, free, total)

    def upload(self, array: np.ndarray) -> Array:
        """Return a copy of `array` on the device, C-contiguous.

        It may still be crossing when this returns: the compute stream waits for it, the host does not, but for all of
        an array of more than SMALL_BYTES except its last chunks.
        """
        self.enter()
        if self.compute.is_capturing():
            raise RuntimeError(
                f"an array of shape {array.shape} comes from the host while work is recorded to be replayed, and would "
                "be the same in every replay; leave out --cuda-graph"
            )
        result = self._cupy.empty(array.shape, array.dtype)
        if array.nbytes <= SMALL_BYTES:
            self._upload_small(np.ascontiguousarray(array).reshape(-1), result.reshape(-1))
            return result
        # its memory may have belonged to an array that kernels still under way read
        self._copy.wait_event(self.compute.record())
        source, target = np.ascontiguousarray(array).reshape(-1), result.reshape(-1)
        with self._lock:
            for index, part in enumerate(_parts(target)):
                chunk = self._chunks[index % NUM_CHUNKS]
                staged = chunk.like(target[part])
                staged[...] = source[part]  # while the chunks before are crossing
                target[part].set(staged, stream=self._copy)
                chunk.crossing.record(self._copy)
            self.compute.wait_event(self._copy.record())
        return result

    def _upload_small(self, source: np.ndarray, target: Array) -> None:
        """Copy on the compute stream, from pinned memory that nothing else has: labels come between kernels.

        By the chunks each would wait for the one before, and that for all that was to be computed before it.
        """
        pinned = self._cupy.cuda.alloc_pinned_memory(max(1, source.nbytes))
        staged = np.frombuffer(pinned, np.uint8, source.nbytes).view(source.dtype)
        staged[...] = source
        with self._lock:
            while self._crossing and self._crossing[0][0].done:
                self._crossing.popleft()
            target.set(staged, stream=self.compute)
            crossed = self._cupy.cuda.Event(disable_timing=True)
            crossed.record(self.compute)
            self._crossing.append((crossed, staged))

    def download(self, array: Array) -> np.ndarray:
        """Return a copy of `array` in the host's memory, C-contiguous, when the work that makes it is done."""
        self.enter()
        source = self._cupy.ascontiguousarray(array).reshape(-1)
        self._copy.wait_event(self.compute.record())
        result = np.empty(array.shape, array.dtype)
        target = result.reshape(-1)
        crossing: list[tuple[slice, np.ndarray, _Chunk]] = []

        def finish_first() -> None:
            part, staged, chunk = crossing.pop(0)
            chunk.crossing.synchronize()
            target[part] = staged

        with self._lock:
            for index, part in enumerate(_parts(source)):
                if len(crossing) == NUM_CHUNKS:
                    finish_first()  # while the chunks behind are crossing
                chunk = self._chunks[index % NUM_CHUNKS]
                staged = chunk.like(source[part])
                source[part].get(stream=self._copy, out=staged, blocking=False)
                chunk.crossing.record(self._copy)
                crossing.append((part, staged, chunk))
            while crossing:
                finish_first()
        return result

    def start_download(self, array: Array) -> Callable[[], np.ndarray]:
        """Start to copy `array` to the host; return what waits for the end of that and returns the copy, once.

        The copy is in pinned memory of its own. What is computed from now on does not delay it.
        """
        self.enter()
        source = self._cupy.ascontiguousarray(array).reshape(-1)
        pinned = self._cupy.cuda.alloc_pinned_memory(max(1, source.nbytes))
        copy = np.frombuffer(pinned, np.uint8, source.nbytes).view(source.dtype)
        crossed = self._cupy.cuda.Event(disable_timing=True)
        with self._lock:
            self._copy.wait_event(self.compute.record())
            source.get(stream=self._copy, out=copy, blocking=False)
            crossed.record(self._copy)
        self._leaving[crossed] = source, copy  # even if nobody waits: others would be given their memory

        def finish() -> np.ndarray:
            crossed.synchronize()
            del self._leaving[crossed]
            result: np.ndarray = copy.reshape(array.shape)
            return result

        return finish

    def synchronize(self) -> None:
        """Return when all work and all copies issued so far are done."""
        self.enter()
        self._copy.synchronize()
        self.compute.synchronize()


class _WithExactSums(threading.local):
    """The devices on which the calling thread's products of halves have been told to add up in float32 alone."""

    def __init__(self) -> None:
        self.devices: set[int] = set()


_with_exact_sums = _WithExactSums()


def _parts(flat: Array) -> list[slice]:
    """Return the parts of a flat array that fit into a chunk each, in order."""
    step: int = CHUNK_BYTES // flat.dtype.itemsize
    return [slice(start, min(start + step, flat.size)) for start in range(0, flat.size, step)]
