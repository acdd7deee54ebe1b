"""A small data set of odd sizes, written as build_shards writes it."""

from pathlib import Path

import numpy as np
import pytest

from owt_mpi.data.manifest import Manifest, Statistics
from tests.shards import write_split

SHAPE = (7, 6, 3)  # h != w, c odd
CLASS_NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """The images of the training split, all different."""
    return np.random.default_rng(5).integers(0, 256, (29, *SHAPE), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pixels: np.ndarray) -> Path:
    """A data set of 29 training images in 3 shards and 11 validation images in 2; label = index * 3 mod 4."""
    splits = {}
    for split, images, num_shards in (("train", pixels, 3), ("val", 255 - pixels[:11], 2)):
        labels = [position * 3 % len(CLASS_NAMES) for position in range(len(images))]
        splits[split] = write_split(tmp_path, split, list(images), labels, num_shards, CLASS_NAMES)
    statistics = Statistics.from_moments(np.array([1.0, 2.0, 3.0]), np.diag([4.0, 9.0, 16.0]))
    Manifest(CLASS_NAMES, SHAPE, splits, statistics, seed=0).write(tmp_path)
    return tmp_path
