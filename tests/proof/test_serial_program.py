"""The rows of head batches, by hand, and what the serial program is not told by the ranks' program."""

from dataclasses import replace

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.proof.problem import Problem, smallest_crop
from owt_mpi.proof.serial_program import head_batch_of_rows, train_serially, update_magnitudes


@pytest.mark.parametrize(
    ("scheme", "senders", "group_size", "passes_per_update", "expected"),
    [
        # 4 ranks with 4 rows each; a digit is the update of the head that a row belongs to
        ("dp", 0, 1, 0, "0000 0000 0000 0000"),
        ("a", 0, 4, 1, "0000 0000 0000 0000"),
        ("b", 0, 4, 0, "0000 0000 0000 0000"),
        ("b", 0, 4, 1, "0000 1111 2222 3333"),
        ("b", 0, 4, 2, "0000 0000 1111 1111"),
        ("c", 0, 4, 1, "0123 0123 0123 0123"),
        ("d", 0, 4, 1, "0123 0123 0123 0123"),
        ("c", 0, 4, 2, "0011 0011 0011 0011"),
        ("c", 2, 4, 1, "0011 0011 2233 2233"),
        ("c", 2, 4, 2, "0000 0000 1111 1111"),
        # two groups of two: both groups' rows make a batch together
        ("b", 0, 2, 1, "0000 1111 0000 1111"),
        ("c", 0, 2, 1, "0011 0011 0011 0011"),
    ],
)
def test_head_batches_are_those_done_by_hand(scheme, senders, group_size, passes_per_update, expected):
    batches = head_batch_of_rows(scheme, senders, group_size, 4, 16, passes_per_update)
    assert "".join(map(str, batches)) == expected.replace(" ", "")


@pytest.fixture
def problem(tiny: str) -> Problem:
    return Problem(find_builder(tiny), InputSpec(11, 3, 8), 16, 2, np.dtype(np.float64), seed=3, lr=0.01)


def test_a_head_batch_of_its_own_changes_the_training(problem):
    whole, halves = (
        train_serially(problem, batches, ReferenceBackend()) for batches in (np.zeros(16, int), np.repeat([0, 1], 8))
    )
    for name, values in whole.values.items():
        assert np.abs(values - halves.values[name]).max() > 1e-6, f"{name} is the same"


def test_training_moves_every_parameter(problem):
    trained = train_serially(problem, np.zeros(16, int), ReferenceBackend())
    assert trained.moved.keys() == trained.values.keys()
    assert min(trained.moved.values()) > 1e-4


def test_the_magnitude_of_an_update_is_what_one_step_moves_if_the_batch_is_one_part(problem):
    one_step = replace(problem, num_steps=1)
    trained = train_serially(one_step, np.zeros(16, int), ReferenceBackend())
    whole, parts = (update_magnitudes(one_step, trained, count, ReferenceBackend()) for count in (1, 8))
    for name in ("trunk.conv1.bias", "head.fc2.bias", "head.fc3.bias"):  # weights decay, too
        assert whole[name] == pytest.approx(trained.moved[name], rel=1e-12)
    assert all(whole[name] <= parts[name] <= 8 * whole[name] for name in whole)
    assert any(whole[name] < 0.9 * parts[name] for name in whole)  # parts pull against each other


def test_a_network_in_blocks_has_fewer_weights_and_is_trained_as_such(problem):
    in_blocks = replace(problem, fc_crosstalk=0.5, fc_blocks=4)
    trained = train_serially(in_blocks, np.zeros(16, int), ReferenceBackend())
    assert trained.values["head.fc2.weight"].shape == (12, 4 + 3 * 2)  # 16 features: 4 of its block, 2 of each other
    assert trained.values["head.fc3.weight"].shape == (8, 3 + 3 * 2)
    assert min(trained.moved.values()) > 1e-4


def test_data_are_functions_of_seed_and_step(problem):
    (images, labels), (again, same_labels), (others, _) = problem.batch(0), problem.batch(0), problem.batch(1)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same_labels)
    assert np.abs(images - others).max() > 1
    assert images.dtype == np.float64


def test_the_smallest_crop_is_one_that_the_network_accepts():
    assert smallest_crop(find_builder("small"), 3, 16) == 16
    assert smallest_crop(find_builder("alexnet-owt"), 3, 16) == 64


def test_a_network_that_accepts_no_crop_says_why():
    def broken(spec):
        raise ValueError("the head takes 7 features")

    with pytest.raises(ValueError, match="the head takes 7 features"):
        smallest_crop(broken, 3, 16)
