"""Our side of benchmarks.loader, and what it is measured against: a bare copy, and bare decoding by Pillow."""

import argparse
import io
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from benchmarks.contestant import serve
from owt_mpi.backends.select import select_backend
from owt_mpi.data.augment import RandomViews
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.loader import Loader
from owt_mpi.data.sampler import epoch_order
from owt_mpi.data.shard_format import ShardReader

SEED = 1


@dataclass(frozen=True)
class Round:
    """The plan of a round: the images over and over, each time in another order, as a BatchPlan."""

    num_samples: int
    num_images: int
    global_batch: int
    steps_together: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.global_batch

    def order(self, epoch: int) -> np.ndarray:
        times = -(-self.num_images // self.num_samples)
        orders = [epoch_order(SEED, epoch * times + time, self.num_samples) for time in range(times)]
        return np.concatenate(orders)[: self.num_images]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("threads", "images", "batch", "crop"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--resized", action="store_true")
    parser.add_argument("--core", type=int, help="run on this one of the cores that there are for it")
    parser.add_argument("what")
    parser.add_argument("shards", type=Path)
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    if args.core is not None:  # threads that are started from now on run there too
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[args.core]})
    shards = ShardReader(args.shards, "train")
    plan = Round(shards.num_samples, args.images, args.batch)
    views = RandomViews(SEED, (args.crop, args.crop), resized=args.resized)
    rounds = itertools.count()
    steps: dict[str, Callable[[], Callable[[], object]]] = {
        "memcpy": lambda: copy_step(args.images, args.batch, args.crop),
        "memcpy, whole round": lambda: copy_step(args.images, args.images, args.crop),
        "bare decode": lambda: decode_step(shards, plan, views, rounds, args.threads),
        "ours, bytes": lambda: bytes_step(shards, plan, views, rounds, args.threads, use_draft=False),
        "ours, bytes, --draft": lambda: bytes_step(shards, plan, views, rounds, args.threads, use_draft=True),
        "ours, Loader": lambda: loader_step(shards, plan, views, rounds, args.threads, np.dtype(np.float32)),
        "ours, Loader, uint8": lambda: loader_step(shards, plan, views, rounds, args.threads, np.dtype(np.uint8)),
    }
    pillow = f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
    serve(args.port, {"NumPy": np.__version__, "decoder": pillow}, steps[args.what]())


def copy_step(images: int, batch: int, crop: int) -> Callable[[], object]:
    """Return what copies as many bytes as a batch has, from places all over more memory than a cache holds."""
    source = np.ones((images, crop, crop, 3), np.uint8)
    target = np.empty((batch, crop, crop, 3), np.uint8)

    def step() -> None:
        for start in range(0, images, batch):
            target[...] = source[start : start + batch]

    return step


def decode_step(
    shards: ShardReader, plan: Round, views: RandomViews, rounds: "itertools.count[int]", threads: int
) -> Callable[[], object]:
    """Return what decodes, crops and resizes from memory, in threads, each its own part of the images."""
    contents = [shards.encoded(index) for index in range(shards.num_samples)]
    pool = ThreadPoolExecutor(threads)
    out = (views.crop[1], views.crop[0])

    def decode(content: bytes, window: list[int]) -> np.ndarray:
        top, left, height, width = window
        with Image.open(io.BytesIO(content)) as file:
            image = file.convert("RGB").crop((left, top, left + width, top + height))
            return np.asarray(image if image.size == out else image.resize(out, Image.Resampling.BILINEAR))

    def step() -> None:
        epoch = next(rounds)
        order = plan.order(epoch)
        windows = views.views(epoch, order, shards.sizes(order)).windows.tolist()
        work = list(zip(order.tolist(), windows, strict=True))

        def part(first: int) -> None:
            for index, window in work[first::threads]:
                decode(contents[index], window)

        list(pool.map(part, range(threads)))

    return step


def bytes_step(
    shards: ShardReader, plan: Round, views: RandomViews, rounds: "itertools.count[int]", threads: int, use_draft: bool
) -> Callable[[], object]:
    """Return what reads windows into batches of bytes."""
    reader = JpegReader(shards, threads, use_draft) if shards.storage == "jpeg" else shards
    out = np.empty((plan.global_batch, *views.crop, 3), np.uint8)

    def step() -> None:
        epoch = next(rounds)
        for indices in plan.order(epoch).reshape(-1, plan.global_batch):
            windows = views.views(epoch, indices, reader.sizes(indices)).windows
            reader.read_windows(indices, windows, out)

    return step


def loader_step(
    shards: ShardReader,
    plan: Round,
    views: RandomViews,
    rounds: "itertools.count[int]",
    threads: int,
    dtype: np.dtype[Any],
) -> Callable[[], object]:
    """Return what makes batches as training gets them: mirrored, normalised, float32; of uint8 not normalised."""
    reader = JpegReader(shards, threads) if shards.storage == "jpeg" else shards
    backend, _ = select_backend("auto", np.dtype(np.float32))
    backend.set_num_threads(threads)
    statistics = reader.statistics
    mean, scale = np.array(statistics.mean), 1 / np.array(statistics.std)
    if dtype == np.uint8:
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    loader = Loader(reader, plan, backend, views, dtype=dtype, mean=mean, scale=scale)

    def step() -> None:
        for batch in loader.epoch(next(rounds)):
            assert len(batch.images) == plan.global_batch

    return step


if __name__ == "__main__":
    main()
