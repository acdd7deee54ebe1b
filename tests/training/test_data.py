"""The loaders of a run are as its options say."""

from dataclasses import replace

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.config import Config, DataOptions, ModelOptions, RunOptions
from owt_mpi.data.augment import RandomViews, colour_noise
from owt_mpi.data.readers import SyntheticReader
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.training.data import Data, make_loaders

READER, VALIDATION = (SyntheticReader(20, (9, 8, 3), 4, seed) for seed in (1, 2))
CONFIG = Config(
    model=ModelOptions(crop=6),
    data=DataOptions(data="x"),
    parallel=ParallelOptions(dtype="float64"),
    run=RunOptions(seed=7),
)


def loaders(config: Config = CONFIG, **data: object) -> Data:
    config = replace(config, data=replace(config.data, **data))
    return make_loaders(config, READER, VALIDATION, 4, SerialCommunicator(), ReferenceBackend())


def test_noise_is_that_of_the_training_set_and_makes_training_numbers_no_larger() -> None:
    noisy, plain = (next(loaders(colour_noise=noise).train.epoch(1)) for noise in (0.25, 0.0))
    augmentation = RandomViews(7, (6, 6), colours=colour_noise(READER.statistics, 0.25))
    colours = augmentation.views(1, plain.indices, READER.sizes(plain.indices)).colours
    assert colours is not None
    np.testing.assert_allclose(noisy.images * 1.25, plain.images + colours[:, None, None], atol=1e-12)


def test_validation_has_no_noise_and_the_centre_or_ten_views() -> None:
    noisy, plain = (next(loaders(colour_noise=noise).validation.epoch(0)) for noise in (0.25, 0.0))
    np.testing.assert_array_equal(noisy.images, plain.images)
    assert [loaders(validation_views=views).validation.num_views for views in (1, 10)] == [1, 10]


def test_standard_deviations_divide_where_they_are_asked_for() -> None:
    mean, both = (next(loaders(normalise=how).train.epoch(0)) for how in ("mean", "mean-std"))
    np.testing.assert_allclose(both.images * np.array(READER.statistics.std), mean.images, rtol=1e-12)


@pytest.mark.parametrize(("policy", "steps"), [("drop", 2), ("pad", 3), ("wrap", 3)])
def test_the_last_batch_is_treated_as_asked(policy: str, steps: int) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, last_batch=policy))
    data = make_loaders(config, READER, None, 8, SerialCommunicator(), ReferenceBackend())
    assert len(list(data.train.epoch(0))) == steps


def test_images_come_in_the_precision_that_is_computed_in() -> None:
    config = replace(CONFIG, parallel=ParallelOptions(precision="fp16"))
    assert next(loaders(config).train.epoch(0)).images.dtype == np.float16
