import numpy as np
import pytest

from owt_mpi.data.readers import Reader, SyntheticReader


def test_synthetic_samples_depend_on_seed_and_index_alone() -> None:
    reader: Reader = SyntheticReader(100, (5, 3, 3), 7, seed=1)
    images, labels = reader.read(np.arange(100))
    some, some_labels = reader.read(np.array([99, 4]))
    np.testing.assert_array_equal(some, images[[99, 4]])
    np.testing.assert_array_equal(some_labels, labels[[99, 4]])
    assert len(np.unique(images.reshape(100, -1), axis=0)) == 100
    assert not np.array_equal(images, SyntheticReader(100, (5, 3, 3), 7, seed=2).read(np.arange(100))[0])


def test_synthetic_statistics_fit_its_pixels() -> None:
    reader = SyntheticReader(200, (16, 16, 3), 7, seed=1)
    images, labels = reader.read(np.arange(200))
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), reader.statistics.mean, rtol=0.01)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), reader.statistics.std, rtol=0.01)
    assert set(labels.tolist()) == set(range(7))


def test_synthetic_reader_refuses_an_index_outside() -> None:
    with pytest.raises(IndexError):
        SyntheticReader(10, (5, 3, 1), 7, seed=1).read(np.array([10]))
