"""Making stored images in several processes, in order, with a bounded number of them under way."""

import contextlib
import hashlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data_prep.images import Prepared, Recipe, prepare
from data_prep.sources import SourceImage, SourceReader
from owt_mpi.data.decode import ImageError
from owt_mpi.data.manifest import DataError
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_writer import PixelFile

CHUNK = 64  # images a task
Key = TypeVar("Key")


@dataclass(frozen=True)
class Chunk:
    """Images of one source for rows of one shard; raw pixels are written to `target` at once."""

    source: int
    rows: tuple[int, ...]
    images: tuple[SourceImage, ...]
    target: PixelFile | None


@dataclass(frozen=True)
class Converted:
    """What became of one image: the file to store for jpeg storage, or why it is rejected."""

    row: int
    image: SourceImage
    source_sha256: bytes = b""
    size: tuple[int, int] = (0, 0)
    encoded: bytes | None = None
    remarks: tuple[str, ...] = ()
    rejected: str = ""


class Converter:
    """Reads and prepares images. May be pickled: each worker process has its own copy."""

    def __init__(self, readers: tuple[SourceReader, ...], recipe: Recipe) -> None:
        self._readers = readers
        self._recipe = recipe

    def convert(self, chunk: Chunk) -> tuple[list[Converted], PixelSums]:
        """Return what became of each image of a chunk, and the sums over the pixels of those that are stored."""
        height, width, channels = self._recipe.image_shape
        sums = PixelSums.zero(channels, None if height is None or width is None else (height, width))
        results: list[Converted] = []
        sums.add_images(self._pixels(chunk, results))
        return results, sums

    def _pixels(self, chunk: Chunk, results: list[Converted]) -> Iterator[np.ndarray]:
        """Yield the pixels of each image, written to the chunk's target while they are in the processor's cache."""
        with contextlib.nullcontext() if chunk.target is None else chunk.target.open() as file:
            for row, image in zip(chunk.rows, chunk.images, strict=True):
                try:
                    content = self._readers[chunk.source].read(image)
                    prepared = prepare(content, image.name, self._recipe)
                except ImageError as error:
                    results.append(Converted(row, image, rejected=str(error)))
                    continue
                if chunk.target is not None and file is not None:
                    chunk.target.write(file, row, prepared.pixels)
                results.append(_converted(row, image, content, prepared))
                yield prepared.pixels


def convert_all(
    chunks: Iterable[tuple[Key, Chunk]], converter: Converter, num_workers: int
) -> Iterator[tuple[Key, list[Converted], PixelSums]]:
    """Yield what becomes of each chunk, with its key, in their order whatever the number of processes.

    One worker is this process itself. Processes are spawned, not forked: the caller may have threads or MPI.
    """
    if num_workers == 1:
        for key, chunk in chunks:
            yield (key, *converter.convert(chunk))
        return
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), _start_worker, (converter,))
    try:
        running: deque[tuple[Key, Future[tuple[list[Converted], PixelSums]]]] = deque()
        for key, chunk in chunks:
            running.append((key, pool.submit(_work, chunk)))
            if len(running) > 2 * num_workers:
                yield _result(running)
        while running:
            yield _result(running)
    except BrokenProcessPool as error:
        raise DataError(
            f"a decoding process has been killed, perhaps for want of memory; with fewer --workers than {num_workers} "
            "run again, and finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _result(
    running: deque[tuple[Key, Future[tuple[list[Converted], PixelSums]]]],
) -> tuple[Key, list[Converted], PixelSums]:
    key, future = running.popleft()
    return (key, *future.result())


def _converted(row: int, image: SourceImage, content: bytes, prepared: Prepared) -> Converted:
    height, width = prepared.pixels.shape[:2]
    digest = hashlib.sha256(content).digest()
    return Converted(row, image, digest, (height, width), prepared.encoded, prepared.remarks)


_converter: Converter | None = None  # of this process, if it is a worker


def _start_worker(converter: Converter) -> None:
    global _converter  # noqa: PLW0603  # a pool gives its workers nothing else to keep things in
    _converter = converter
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone, even if it was killed: a worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(chunk: Chunk) -> tuple[list[Converted], PixelSums]:
    assert _converter is not None
    return _converter.convert(chunk)
