"""Small data sets for tests, written as build_shards writes them."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from owt_mpi.data.manifest import ImageShape, OddFile, SplitEntry
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_format import shard_counts
from owt_mpi.data.shard_writer import SampleRecord, ShardPlan, ShardWriter


def jpeg(image: np.ndarray) -> bytes:
    """Return an image (h, w, c) as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def image_shape_of(images: Sequence[np.ndarray]) -> ImageShape:
    """Return the common shape of images, without h and w where they differ."""
    shapes = {image.shape for image in images}
    return next(iter(shapes)) if len(shapes) == 1 else (None, None, images[0].shape[2])


def write_split(
    folder: Path,
    split: str,
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    num_shards: int,
    class_names: tuple[str, ...],
    storage: str = "raw",
    odd_files: Sequence[OddFile] = (),
) -> SplitEntry:
    """Write images (h, w, c) uint8, last ones first, and return their entry; sample i is named CLASS/i."""
    counts, shape = shard_counts(len(images), num_shards), image_shape_of(images)
    entries, first = [], 0
    for shard, count in enumerate(counts):
        plan = ShardPlan(split, shard, num_shards, count, storage, shape, class_names, source="a test")
        sums = PixelSums.zero(shape[2], None if shape[0] is None or shape[1] is None else (shape[0], shape[1]))
        with ShardWriter(folder, plan) as writer:
            for row in reversed(range(count)):
                image, label = images[first + row], int(labels[first + row])
                name = f"{class_names[label]}/{first + row}"
                record = SampleRecord(name, label, hashlib.sha256(image.tobytes()).digest(), image.shape[:2])
                writer.write(row, record, image if storage == "raw" else jpeg(image))
            sums.add_images(images[first : first + count])
            entries.append(writer.commit(sums, odd_files if shard == 0 else ()))
        first += count
    return SplitEntry.of_shards(entries, odd_files)
