"""The variable batch size: scales by hand, the schedule's form, and equality with a serial program."""

import numpy as np
import pytest

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.parallel.head_update import HeadUpdate, gradient_scales, head_update_of, parse_head_update
from owt_mpi.parallel.layout import Plan
from tests.tiny import largest_difference, train_tiny, train_tiny_on


def test_scales_are_those_done_by_hand():
    # 512 images in 4 passes of 128: the head's mean is over 128, 256 or 512 rows, the trunk's always over 512
    per_pass = gradient_scales(512, num_passes=4, period=1)
    assert (per_pass.head_batch, per_pass.head, per_pass.boundary) == (128, 1 / 128, 1 / 4)
    every_two = gradient_scales(512, num_passes=4, period=2)
    assert (every_two.head_batch, every_two.head, every_two.boundary) == (256, 1 / 256, 1 / 2)
    per_iteration = gradient_scales(512, num_passes=4, period=4)
    assert (per_iteration.head_batch, per_iteration.head, per_iteration.boundary) == (512, 1 / 512, 1)


@pytest.mark.parametrize(("update", "period"), [(HeadUpdate(), 6), (HeadUpdate(1), 1), (HeadUpdate(3), 3)])
def test_the_period_divides_the_passes(update, period):
    assert update.period(6) == period


def test_a_period_that_does_not_come_out_even_is_named():
    with pytest.raises(ValueError, match=r"every-4-passes does not divide the 6 head passes .* use 1 or 2 or 3 or 6"):
        HeadUpdate(4).period(6)


def test_a_schedule_says_what_holds_in_each_epoch():
    schedule = parse_head_update("per-pass, 31:every-2-passes,61:per-iteration")
    assert [head_update_of(schedule, epoch).passes for epoch in (1, 30, 31, 60, 61, 90)] == [1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sometimes", "is not understood; give per-pass"),
        ("every-0-passes", "is not understood"),
        ("per-pass,per-iteration", "epochs are .1, 1., but must start at 1 and rise"),
        ("5:per-pass", "must start at 1"),
        ("per-pass,x:per-iteration", "is not understood"),
    ],
)
def test_a_schedule_of_another_form_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_head_update(text)


@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("plan", [Plan(4, "b"), Plan(4, "c"), Plan(4, "d"), Plan(4, "c", senders=2)])
def test_updates_between_passes_change_the_training_but_not_between_runs(plan, period):
    whole, _ = train_tiny(SerialCommunicator())
    split, losses = train_tiny_on(plan, passes_per_update=period)
    again, losses_again = train_tiny_on(plan, passes_per_update=period)
    assert largest_difference(split, whole) > 1e-3
    assert losses == losses_again
    for name, values in split.items():
        np.testing.assert_array_equal(values, again[name])


def test_c_and_d_make_the_same_small_batch_updates():
    c, _ = train_tiny_on(Plan(4, "c"), passes_per_update=1)
    d, _ = train_tiny_on(Plan(4, "d"), passes_per_update=1)
    assert largest_difference(c, d) < 1e-12
