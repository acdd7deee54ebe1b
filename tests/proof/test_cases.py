"""Which cases are tried with what is not by default."""

import numpy as np
import pytest

from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan
from owt_mpi.proof.cases import ALL_SCHEMES, Case, list_cases
from owt_mpi.proof.problem import Problem


def extra_cases(num_ranks: int, *arguments) -> list[tuple[str, int, str, str]]:
    """Return (scheme, group size, head update, extras) of those that have extras."""
    cases = list_cases(num_ranks, *arguments)
    return [(c.scheme, c.plan.ranks_sharing_head, c.update_words, c.extras) for c in cases if c.extras]


def test_without_a_choice_nothing_is_added():
    assert len(list_cases(8, ALL_SCHEMES, ())) == 37
    assert extra_cases(8, ALL_SCHEMES, ()) == []


@pytest.mark.parametrize(
    ("num_ranks", "schemes", "group_sizes", "scheme", "group_size", "update"),
    [
        (8, ALL_SCHEMES, (), "c", 4, "per-pass"),
        (8, ALL_SCHEMES, (2, 8), "c", 2, "per-pass"),
        (2, ALL_SCHEMES, (), "c", 2, "per-pass"),
        (4, ("a", "dp"), (), "a", 2, "per-iteration"),
        (4, ("dp",), (), "dp", 1, "per-iteration"),
    ],
)
def test_exchanges_are_tried_where_trunk_and_head_have_copies_if_there_are_groups(
    num_ranks, schemes, group_sizes, scheme, group_size, update
):
    found = extra_cases(num_ranks, schemes, group_sizes, ("all-reduce", "sharded"), ("float16", "bfloat16"))
    assert found == [
        (scheme, group_size, update, "sharded"),
        (scheme, group_size, "per-iteration", "float16"),
        (scheme, group_size, "per-iteration", "sharded, bfloat16"),
    ]


def test_restricted_connectivity_is_tried_in_every_scheme_with_the_largest_group():
    found = extra_cases(8, ("dp", "a", "d", "senders"), (), ("all-reduce",), (), (1.0, 0.5))
    assert [case[:2] for case in found] == [("dp", 1), ("a", 8), ("d", 8)]
    assert {case[2:] for case in found} == {("per-iteration", "cross-talk 0.5")}


def test_the_first_choice_holds_in_all_cases():
    cases = list_cases(4, ALL_SCHEMES, (), ("sharded",), (), (0.5,))
    assert [(case.plan, case.update) for case in cases] == [(c.plan, c.update) for c in list_cases(4, ALL_SCHEMES, ())]
    assert {case.extras for case in cases} == {"sharded, cross-talk 0.5"}


def test_what_the_wire_rounds_is_the_bound_of_docs_wire():
    def rounding(sync, wire):
        return Case(Plan(2), HeadUpdate(), sync, wire).rounding

    assert rounding("all-reduce", "auto") == rounding("sharded", "auto") == 0
    assert rounding("sharded", "float16") == 2.0**-11
    assert rounding("all-reduce", "bfloat16") == 2 * 2.0**-8 + 2.0**-16


def test_where_the_wire_rounds_one_step_has_the_rate_of_all(tiny):
    problem = Problem(find_builder(tiny), InputSpec(11, 3, 8), 16, 5, np.dtype(np.float64), seed=3, lr=0.01)
    rounded = Case(Plan(4), HeadUpdate(), wire_dtype="float16").problem(problem)
    assert (rounded.num_steps, rounded.lr) == (1, 0.05)
    assert Case(Plan(4), HeadUpdate(), "sharded").problem(problem) == problem


def test_blocks_that_do_not_divide_a_layer_are_an_obstacle(tiny):
    problem = Problem(find_builder(tiny), InputSpec(11, 3, 8), 16, 5, np.dtype(np.float64), seed=3, lr=0.01)
    case = Case(Plan(4), HeadUpdate(), fc_crosstalk=0.5)
    assert "--fc-blocks 8 does not divide" in case.obstacle(problem)
