"""Batches of images on their way to the GPU: uploaded as uint8 under what is computed, normalised where they are taken.

Two streams meet in one place, the device's copy of the pixels: the upload stream writes it and the compute stream reads
it, with an event either way. Its memory comes from the upload stream's part of CuPy's pool, so that no other thread is
given it, and a batch that waits to be taken is a quarter of its size in float32. The stream is not that of the step's
small copies, which would have to wait for a whole batch to cross.
"""

import threading
from collections import deque
from collections.abc import Callable
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Shape
from owt_mpi.backends.cuda_device import CHUNK_BYTES, CudaDevice
from owt_mpi.backends.cuda_kernels import CudaKernels
from owt_mpi.backends.pixels import check_pixels

_ALIGNMENT = 16


class PixelUploads:
    """What brings batches to `device`; for all threads of the process."""

    def __init__(self, cupy: ModuleType, device: CudaDevice, kernels: CudaKernels) -> None:
        self._cupy, self._device, self._kernels = cupy, device, kernels
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._lock = threading.Lock()
        # host memory that is being read, with the event behind the last of its bytes
        self._crossing: deque[tuple[Any, list[np.ndarray]]] = deque()
        # device memory whose batch was taken, with the event behind the kernel that reads it
        self._read: list[tuple[Any, Array]] = []

    def host_empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        """Return pinned memory. CuPy's pool gives it out again when nobody has the array any more."""
        self._device.enter()
        dtype = np.dtype(dtype)
        pinned = self._cupy.cuda.alloc_pinned_memory(max(1, prod(shape) * dtype.itemsize))
        return np.frombuffer(pinned, dtype, prod(shape)).reshape(shape)

    def synchronize(self) -> None:
        """Return when all that was started has crossed."""
        self._device.enter()
        self._stream.synchronize()

    def start(
        self,
        pixels: np.ndarray,
        flips: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        colours: np.ndarray | None,
        dtype: np.dtype[Any],
    ) -> Callable[[], Array]:
        """See Backend.start_normalise."""
        check_pixels(pixels, flips, mean, scale, colours)
        self._device.enter()
        whole = np.zeros(len(pixels), np.int64)  # the kernel could cut as well
        small = [whole, whole, flips, *(np.asarray(numbers, np.float32) for numbers in (mean, scale))]
        if colours is not None:
            small.append(np.asarray(colours, np.float32))
        there, crossed = self._upload(pixels, self._packed(small))
        taken = False

        def take() -> Array:
            nonlocal taken
            assert not taken, "a batch is taken once"
            taken = True
            return self._take(there, crossed, pixels.shape, small, dtype)

        return take

    def _upload(self, pixels: np.ndarray, packed: np.ndarray) -> tuple[Array, Any]:
        """Return device memory with both, one behind the other, and the event behind their arrival."""
        with self._lock:
            while self._crossing and self._crossing[0][0].done:
                self._crossing.popleft()
            for read, _ in self._read:
                self._stream.wait_event(read)
            self._read.clear()  # whoever has that memory next, on this stream, comes behind what reads it
            with self._stream:
                there = self._cupy.empty(_aligned(pixels.nbytes) + packed.nbytes, np.uint8)
            self._device.enter()  # which the with-block does not return to
            flat = pixels.reshape(-1)
            for start in range(0, pixels.size, CHUNK_BYTES):  # in pieces, so that others' copies get in between
                stop = min(start + CHUNK_BYTES, pixels.size)
                there[start:stop].set(flat[start:stop], stream=self._stream)
            there[_aligned(pixels.nbytes) :].set(packed, stream=self._stream)
            crossed = self._stream.record()
            self._crossing.append((crossed, [pixels, packed]))
        return there, crossed

    def _take(self, there: Array, crossed: Any, shape: Shape, small: list[np.ndarray], dtype: np.dtype[Any]) -> Array:
        """Return the images, in the order of the compute stream."""
        self._device.enter()
        self._device.compute.wait_event(crossed)
        out = self._cupy.empty(shape, dtype)
        rest = there[_aligned(out.size) :]
        tops, lefts, flips, mean, scale, *colours = (
            rest[place : place + array.nbytes].view(array.dtype).reshape(array.shape)
            for place, array in zip(_places(small), small, strict=True)
        )
        images = there[: out.size].reshape(shape)
        self._kernels.crop_normalise(images, tops, lefts, flips, mean, scale, out, *colours)
        with self._lock:
            self._read.append((self._device.compute.record(), there))
        return out

    def _packed(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Return the bytes of `arrays` at `_places`, in pinned memory."""
        places = _places(arrays)
        packed = self.host_empty((places[-1] + arrays[-1].nbytes,), np.uint8)
        for place, array in zip(places, arrays, strict=True):
            packed[place : place + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return packed


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _places(arrays: list[np.ndarray]) -> list[int]:
    """Return where each of `arrays` begins if they lie one behind the other."""
    places = [0]
    for array in arrays[:-1]:
        places.append(places[-1] + _aligned(array.nbytes))
    return places
