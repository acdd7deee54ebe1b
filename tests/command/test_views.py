"""What is seen of images, as the options say: the same on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest

from owt_mpi.checkpoint.weights import read_weights
from tests.command.test_train import options, records_of, train_alone

ROWS = ["--global-batch", "20", "--scheme", "a", "--last-batch", "pad"]  # of 96 images, so that 4 rows are empty
SEEN = [*ROWS, "--crop-mode", "resized", "--colour-noise", "0.2", "--validation-views", "10"]


def test_ranks_see_the_same_views_and_average_the_same_scores(shards: Path, preset: Path, tmp_path: Path):
    runs = {}
    for ranks, more in (("1", SEEN), ("2", SEEN), ("4", SEEN), ("plain", [])):
        count = "1" if ranks == "plain" else ranks
        arguments = [*options(shards, preset, tmp_path / ranks), "--virtual-ranks", count, *more]
        done = train_alone(*arguments, "--backend", "reference", "--dtype", "float64")
        assert done.returncode == 0, done.stderr
        validations = [each for each in records_of(tmp_path / ranks) if each["kind"] == "validation"]
        runs[ranks] = (read_weights(tmp_path / ranks / "weights.h5"), validations)
    expected, expected_validations = runs["1"]
    for ranks in ("2", "4"):
        weights, validations = runs[ranks]
        for name, values in expected.items():
            np.testing.assert_allclose(weights[name], values, rtol=1e-9, atol=1e-12, err_msg=f"{ranks}: {name}")
        for ours, theirs in zip(validations, expected_validations, strict=True):
            assert (ours["top1"], ours["top5"], ours["images"]) == (theirs["top1"], theirs["top5"], 21)
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
    assert any((runs["plain"][0][name] != values).any() for name, values in expected.items())
    assert runs["plain"][1][0]["images"] == 21
