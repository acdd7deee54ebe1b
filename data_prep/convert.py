"""Decoding in several processes, in order, with a bounded number of images in memory."""

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from data_prep.images import ImageError, decode
from owt_mpi.data.pixel_sums import PixelSums

CHUNK = 32  # images a task


@dataclass(frozen=True)
class Converted:
    """A chunk of images: (key, pixels, SHA-256 of the file) of those that could be decoded, and the sums over pixels.

    Of the others (key, reason).
    """

    images: list[tuple[int, np.ndarray, bytes]]
    failures: list[tuple[int, str]]
    sums: PixelSums


def convert(files: Iterable[tuple[int, bytes]], size: int, channels: int, num_workers: int) -> Iterator[Converted]:
    """Yield the `files` (key, content) decoded, in their order whatever the number of processes.

    One worker is this process itself. Processes are spawned, not forked: the caller may have threads or MPI.
    """
    chunks = _chunks(files)
    if num_workers == 1:
        for chunk in chunks:
            yield convert_chunk(chunk, size, channels)
        return
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))
    try:
        running: deque[Future[Converted]] = deque()
        for chunk in chunks:
            running.append(pool.submit(convert_chunk, chunk, size, channels))
            if len(running) > 2 * num_workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def convert_chunk(files: list[tuple[int, bytes]], size: int, channels: int) -> Converted:
    """Return the `files` (key, content) decoded."""
    result = Converted([], [], PixelSums.zero(channels, (size, size)))
    for key, content in files:
        try:
            result.images.append((key, decode(content, size, channels), hashlib.sha256(content).digest()))
        except ImageError as error:
            result.failures.append((key, str(error)))
    result.sums.add_images([image for _, image, _ in result.images])
    return result


def _chunks(files: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    iterator = iter(files)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
