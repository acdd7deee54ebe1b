"""Images to read: encoded shards' as class folders and as a tar, for other programs; shards of random pixels."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from owt_mpi.data.manifest import Manifest, Statistics
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import read_record
from tests.shards import write_split

RANDOM_CLASSES = tuple("abcdefghij")


def write_class_folders(shards: Path, folder: Path) -> None:
    """Write the training images of encoded shards as CLASS/file, byte for byte."""
    for name, _, content in _samples(shards):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_web_tar(shards: Path, path: Path) -> None:
    """Write them as a tar of INDEX.jpg and INDEX.cls, as WebDataset reads it."""
    with tarfile.open(path, "w") as archive:
        for index, (_, label, content) in enumerate(_samples(shards)):
            for suffix, data in (("jpg", content), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_random_shards(folder: Path, num_images: int, side: int) -> Path:
    """Write raw shards of random images of 10 classes for training; return `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(num_images)]
    labels = [i % len(RANDOM_CLASSES) for i in range(num_images)]
    split = write_split(folder, "train", images, labels, 1, RANDOM_CLASSES)
    statistics = Statistics.from_moments(np.full(3, 127.5), np.eye(3) * 73.9**2)
    Manifest(RANDOM_CLASSES, (side, side, 3), {"train": split}, statistics, seed=0).write(folder)
    return folder


def _samples(shards: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, label and bytes of each training image."""
    reader = ShardReader(shards, "train")
    for index in range(reader.num_samples):
        path, row = reader.find(index)
        yield read_record(path).names[row], int(reader.labels[index]), reader.encoded(index)
    reader.close()
