"""The counter-based generator: pure functions of key and index, the published sequence, sound distributions."""

import numpy as np
import pytest

from owt_mpi import rng

KEY = rng.stream_key(1, "test")


def test_bits_are_those_of_splitmix64():
    # the first outputs for seed 1234567, from the authors' C program (https://prng.di.unimi.it/splitmix64.c)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert rng.random_bits(1234567, np.arange(5)).tolist() == expected


def test_an_element_does_not_depend_on_which_others_are_drawn():
    whole = rng.normal(KEY, np.arange(1000))
    np.testing.assert_array_equal(rng.normal(KEY, np.array([731, 5])), whole[[731, 5]])
    np.testing.assert_array_equal(
        rng.uniform(KEY, np.arange(20).reshape(4, 5)), rng.uniform(KEY, np.arange(20)).reshape(4, 5)
    )


def test_the_indices_given_are_not_changed():
    indices = np.arange(10, dtype=np.uint64)
    rng.random_bits(KEY, indices)
    np.testing.assert_array_equal(indices, np.arange(10))


@pytest.mark.parametrize("other", [(2, "test"), (1, "tesu"), (1, "test", 0), (1, "t", "est"), (1, 0)])
def test_streams_of_other_names_are_unrelated(other):
    a, b = rng.uniform(KEY, np.arange(4000)), rng.uniform(rng.stream_key(*other), np.arange(4000))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_a_number_and_its_text_name_different_streams():
    assert rng.stream_key(1, 2) != rng.stream_key(1, "2")


def test_uniform_numbers_fill_the_unit_interval_evenly():
    u = rng.uniform(KEY, np.arange(100_000))
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 90  # chi-square, 49 degrees of freedom, 0.03 %


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    x = rng.normal(KEY, np.arange(200_000))
    np.testing.assert_allclose([x.mean(), x.std(), (x**3).mean(), (x**4).mean()], [0, 1, 0, 3], atol=0.05)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01


def test_integers_are_below_their_bound_and_reach_every_value():
    drawn = rng.integers(KEY, np.arange(7000), 7)
    assert np.bincount(drawn).min() > 850
    assert drawn.max() == 6
    assert not rng.integers(KEY, np.arange(100), 1).any()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_bernoulli_is_true_as_often_as_asked(probability):
    assert abs(rng.bernoulli(KEY, np.arange(50_000), probability).mean() - probability) < 0.01


def test_a_permutation_holds_every_index_once_and_moves_them():
    order = rng.permutation(KEY, 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert (order == np.arange(1000)).sum() < 10
