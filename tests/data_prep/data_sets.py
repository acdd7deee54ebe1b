"""Small finished data sets, with statistics that fit their shards."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_prep.check_shard import add_up
from owt_mpi.data.manifest import Manifest
from owt_mpi.data.shard_record import read_record
from owt_mpi.data.shard_writer import write_mean_image
from tests.shards import image_shape_of, write_split

Images = Mapping[str, list[np.ndarray]]  # by split


def some_images(num_images: int, seed: int, sizes: bool = False, channels: int = 3) -> list[np.ndarray]:
    """Return random images of 7 x 6, with `sizes` of differing sizes."""
    random = np.random.default_rng(seed)
    more = [index % 4 * sizes for index in range(num_images)]
    return [random.integers(0, 256, (7 + extra, 6 + 2 * extra, channels), dtype=np.uint8) for extra in more]


def write_data_set(
    folder: Path, images: Images, class_names: tuple[str, ...], num_shards: int = 2, storage: str = "raw"
) -> Path:
    """Write a data set whose sample i is of class i modulo the number of classes, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, each in images.items():
        labels = [index % len(class_names) for index in range(len(each))]
        splits[split] = write_split(folder, split, each, labels, num_shards, class_names, storage)
    sums = add_up([read_record(folder / shard.file).sums for shard in splits["train"].shards])
    mean = sums.mean_image(splits["train"].count)
    manifest = Manifest(
        class_names, image_shape_of(images["train"]), splits, sums.statistics(), seed=0, storage=storage,
        mean_image=None if mean is None else write_mean_image(folder, mean),
    )  # fmt: skip
    manifest.write(folder)
    return folder
