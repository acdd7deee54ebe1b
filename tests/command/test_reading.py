"""Training from encoded shards, cached, in blocks, by any number of ranks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.data.manifest import Manifest, Statistics
from tests.command.conftest import CLASS_NAMES, SHAPE
from tests.mpi_run import Result
from tests.shards import write_split


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """96 training images and 21 validation images of differing sizes, as JPEG files."""
    folder = tmp_path / "encoded"
    folder.mkdir()
    random = np.random.default_rng(5)
    splits = {}
    for split, count, num_shards in (("train", 96, 2), ("val", 21, 1)):
        labels = [index * 7 % len(CLASS_NAMES) for index in range(count)]
        sizes = [(SHAPE[0] + index % 5, SHAPE[1] + index % 3, 3) for index in range(count)]
        levels = [np.uint8(48 * label) for label in labels]
        images = [random.integers(0, 64, size, np.uint8) + level for size, level in zip(sizes, levels, strict=True)]
        splits[split] = write_split(folder, split, images, labels, num_shards, CLASS_NAMES, storage="jpeg")
    statistics = Statistics.from_moments(np.full(3, 104.0), np.eye(3) * 57.0**2)
    Manifest(CLASS_NAMES, (None, None, 3), splits, statistics, seed=0, storage="jpeg").write(folder)
    return folder


def test_encoded_cached_blocks_train_the_same_network_on_two_ranks_as_on_one(
    mpirun: Callable[..., Result], encoded: Path, preset: Path, tmp_path: Path
) -> None:
    options = ["--preset", str(preset), "--data", str(encoded), "--shuffle", "block", "--shuffle-block", "4"]
    options += ["--shuffle-buffer", "32", "--cache", "0.01", "--backend", "reference", "--dtype", "float64"]
    weights = []
    for ranks, threads in ((1, 1), (2, 3)):
        run_dir = tmp_path / f"run{ranks}"
        told = ["--run-dir", str(run_dir), "--read-threads", str(threads)]
        result = mpirun(ranks, ["-m", "owt_mpi.train", *options, *told]).check()
        lines = result.rank_stdout[0].splitlines()
        said = {name: line for line in lines for name in ("data", "cache") if line.startswith(f"{name}: ")}
        assert said["data"].endswith(f"decoded by {threads} threads a rank")
        assert said["cache"].startswith("cache: all of ")
        weights.append(read_weights(run_dir / "weights.h5"))
    for name, values in weights[0].items():
        np.testing.assert_allclose(weights[1][name], values, rtol=0, atol=1e-12, err_msg=name)
