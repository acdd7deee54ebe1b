"""The loader: one rank's part of every batch of an epoch, read and brought to the device ahead of time by a thread.

NumPy copies and computes without holding Python's lock, so one thread is enough to overlap with the training step.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Backend
from owt_mpi.data.augment import Augmentation
from owt_mpi.data.readers import Reader
from owt_mpi.data.sampler import PADDING, BatchPlan, rank_rows
from owt_mpi.spans import span


@dataclass(frozen=True)
class Batch:
    """One rank's n rows of a global batch. The arrays belong to whoever took the batch.

    `rows` are their positions in the global batch and `indices` their samples, PADDING where there is none; `valid`
    is None where all rows hold a sample. Padded rows are black images with label -1: they count nothing.
    """

    images: Array  # (n, h, w, c), normalised, on the device
    labels: np.ndarray  # (n,) int64
    rows: np.ndarray  # (n,) int64
    indices: np.ndarray  # (n,) int64
    valid: np.ndarray | None  # (n,) bool


_Made = Callable[[], Batch]  # called by whoever takes the batch


class Loader:
    """Iterates over epochs for `rank` of `size`, reading this rank's images alone.

    Images are what `augmentation` sees of the samples, as (pixels - mean) * scale in `dtype`, on the device of
    `backend`; mean and scale are (c,) in units of 0..255. `prefetch` is the number of batches made ahead, each with
    memory on the device for its pixels, a byte a number where the device is not the host.
    """

    def __init__(
        self,
        reader: Reader,
        plan: BatchPlan,
        backend: Backend,
        augmentation: Augmentation,
        *,
        dtype: np.dtype[Any],
        mean: np.ndarray,
        scale: np.ndarray,
        rank: int = 0,
        size: int = 1,
        prefetch: int = 2,
    ) -> None:
        augmentation.check(reader.sizes(np.arange(reader.num_samples)))
        channels = reader.num_channels
        for name, values in (("mean", mean), ("scale", scale)):
            if np.shape(values) != (channels,):
                raise ValueError(f"{name} has shape {np.shape(values)}, but images have {channels} channels")
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}, but at least 1 batch is made ahead")
        self.plan = plan
        self.num_views = augmentation.num_views
        self.data_wait_seconds = 0.0  # how long the consumer has waited for batches, in all
        self._reader = reader
        self._backend = backend
        self._augmentation = augmentation
        self._rows = rank_rows(plan.global_batch, rank, size)
        self._dtype = np.dtype(dtype)
        self._mean = np.asarray(mean)
        self._scale = np.asarray(scale)
        self._prefetch = prefetch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of the batches `start_step` .. steps_per_epoch - 1 of `epoch`.

        Where the augmentation has several views of an image, each batch comes once for each, one after the other.
        The thread ends when the iterator is exhausted, closed or dropped; its errors are raised here.
        """
        made: queue.Queue[_Made | BaseException | None] = queue.Queue(self._prefetch)
        stop = threading.Event()

        def produce() -> None:
            try:
                for batch in self._batches(epoch, start_step):
                    made.put(batch)
                    if stop.is_set():
                        return
                made.put(None)
            except BaseException as error:  # raised again in the consumer
                made.put(error)

        thread = threading.Thread(target=produce, name="loader", daemon=True)
        thread.start()
        try:
            while (item := self._wait_for(made)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item()
        finally:
            stop.set()
            while not made.empty():  # frees a thread that waits to put; with `stop` set it puts once more at most
                made.get_nowait()
            thread.join()

    def _wait_for(self, made: "queue.Queue[_Made | BaseException | None]") -> _Made | BaseException | None:
        start = time.perf_counter()
        with span("data", "waits"):
            item = made.get()
        self.data_wait_seconds += time.perf_counter() - start
        return item

    def _batches(self, epoch: int, start_step: int) -> Iterator[_Made]:
        order = self.plan.order(epoch).reshape(self.plan.steps_per_epoch, self.plan.global_batch)[:, self._rows]
        together = self.plan.steps_together
        for step in range(start_step, len(order)):
            if step == start_step:
                self._fetch(order[step : (step // together + 2) * together])
            elif step % together == 0:  # while these steps' images are worked on, the next ones' are fetched
                self._fetch(order[step + together : step + 2 * together])
            for view in range(self.num_views):
                yield self._make_batch(epoch, order[step], view)

    def _fetch(self, samples: np.ndarray) -> None:
        self._reader.will_need(samples[samples != PADDING])

    def _make_batch(self, epoch: int, indices: np.ndarray, view: int) -> _Made:
        """Read the samples' pixels and send them off to the device."""
        valid = indices != PADDING
        num_valid = int(valid.sum())
        assert valid[:num_valid].all(), "padding comes last"
        shape = (len(indices), *self._augmentation.crop, self._reader.num_channels)
        pixels, flips = self._backend.host_empty(shape, np.uint8), np.zeros(len(indices), np.bool_)
        labels = np.full(len(indices), -1, np.int64)
        pixels[num_valid:] = 0
        there, colours = indices[:num_valid], None
        views = self._augmentation.views(epoch, there, self._reader.sizes(there), view)
        flips[:num_valid] = views.flips
        if views.colours is not None:
            colours = np.zeros((len(indices), shape[3]))
            colours[:num_valid] = views.colours
        if num_valid:
            labels[:num_valid] = self._reader.read_windows(there, views.windows, pixels[:num_valid])
        take_images = self._backend.start_normalise(pixels, flips, self._mean, self._scale, colours, self._dtype)
        rows = np.arange(self._rows.start, self._rows.stop)
        rest = (labels, rows, indices.copy(), None if num_valid == len(indices) else valid)
        return lambda: Batch(take_images(), *rest)
