"""The loader: one rank's part of every batch of an epoch, made one or two steps ahead by a thread.

NumPy copies and computes without holding Python's lock, so one thread is enough to overlap with the training step.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.data.augment import centre_crops, check_crop, crop_flip, normalise, random_crops
from owt_mpi.data.readers import Reader
from owt_mpi.data.sampler import PADDING, BatchPlan, rank_rows
from owt_mpi.spans import span


@dataclass(frozen=True)
class Batch:
    """One rank's n rows of a global batch. The arrays belong to whoever took the batch.

    `rows` are their positions in the global batch and `indices` their samples, PADDING where there is none; `valid`
    is None where all rows hold a sample. Padded rows are images of the mean with label 0.
    """

    images: np.ndarray  # (n, h, w, c), normalised
    labels: np.ndarray  # (n,) int64
    rows: np.ndarray  # (n,) int64
    indices: np.ndarray  # (n,) int64
    valid: np.ndarray | None  # (n,) bool


class Loader:
    """Iterates over epochs for `rank` of `size`, reading this rank's images alone.

    Images are (pixels - mean) * scale as `dtype`, with mean and scale (c,) in units of 0..255. With `train` the crop
    (h, w) is random and, with `flip`, mirrored at random; else it is the centre. `prefetch` is the number of batches
    made ahead.
    """

    def __init__(
        self,
        reader: Reader,
        plan: BatchPlan,
        *,
        crop: tuple[int, int],
        train: bool,
        flip: bool = True,
        seed: int,
        dtype: np.dtype[Any],
        mean: np.ndarray,
        scale: np.ndarray,
        rank: int = 0,
        size: int = 1,
        prefetch: int = 2,
    ) -> None:
        check_crop(reader.image_shape, crop)
        channels = reader.image_shape[2]
        for name, values in (("mean", mean), ("scale", scale)):
            if np.shape(values) != (channels,):
                raise ValueError(f"{name} has shape {np.shape(values)}, but images have {channels} channels")
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}, but at least 1 batch is made ahead")
        self.plan = plan
        self.data_wait_seconds = 0.0  # how long the consumer has waited for batches, in all
        self._reader = reader
        self._rows = rank_rows(plan.global_batch, rank, size)
        self._crop = crop
        self._train = train
        self._flip = flip
        self._seed = seed
        self._dtype = np.dtype(dtype)
        self._mean = np.asarray(mean)
        self._scale = np.asarray(scale)
        self._prefetch = prefetch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of the batches `start_step` .. steps_per_epoch - 1 of `epoch`.

        The thread ends when the iterator is exhausted, closed or dropped; its errors are raised here.
        """
        made: queue.Queue[Batch | BaseException | None] = queue.Queue(self._prefetch)
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
                yield item
        finally:
            stop.set()
            while not made.empty():  # frees a thread that waits to put; with `stop` set it puts once more at most
                made.get_nowait()
            thread.join()

    def _wait_for(self, made: "queue.Queue[Batch | BaseException | None]") -> Batch | BaseException | None:
        start = time.perf_counter()
        with span("data", "waits"):
            item = made.get()
        self.data_wait_seconds += time.perf_counter() - start
        return item

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        order = self.plan.order(epoch).reshape(self.plan.steps_per_epoch, self.plan.global_batch)[:, self._rows]
        num_rows = order.shape[1]
        images = np.empty((num_rows, *self._reader.image_shape), np.uint8)  # both are used again for every batch
        crops = np.empty((num_rows, *self._crop, self._reader.image_shape[2]), np.uint8)
        for indices in order[start_step:]:
            yield self._make_batch(epoch, indices, images, crops)

    def _make_batch(self, epoch: int, indices: np.ndarray, images: np.ndarray, crops: np.ndarray) -> Batch:
        valid = indices != PADDING
        num_valid = int(valid.sum())
        assert valid[:num_valid].all(), "padding comes last"
        labels = np.zeros(len(indices), np.int64)
        batch_images = np.empty((len(indices), *crops.shape[1:]), self._dtype)
        batch_images[num_valid:] = 0
        if num_valid:
            there = indices[:num_valid]
            images, labels[:num_valid] = self._reader.read(there, out=images[:num_valid])
            shape = self._reader.image_shape
            where = (
                random_crops(self._seed, epoch, there, shape, self._crop, self._flip)
                if self._train
                else centre_crops(num_valid, shape, self._crop)
            )
            crop_flip(images, where, crops[:num_valid])
            normalise(crops[:num_valid], self._mean, self._scale, batch_images[:num_valid])
        rows = np.arange(self._rows.start, self._rows.stop)
        return Batch(batch_images, labels, rows, indices.copy(), None if num_valid == len(indices) else valid)
