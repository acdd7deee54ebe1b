"""The pass loop and the schemes: right rows, right gradients, exchange under the head's passes."""

import numpy as np
import pytest

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel.schedule import run_passes
from tests.comm.recording import RecordingCommunicator
from tests.op_check import REFERENCE

K, NUM_ROWS, NUM_FEATURES = 4, 8, 12
PLANS = [Plan(K, "a"), Plan(K, "b"), Plan(K, "c"), Plan(K, "d"), Plan(K, "c", senders=2)]


def plan_name(plan):
    return plan.make_scheme().name


def acts_of(rank):
    return np.random.default_rng(rank).standard_normal((NUM_ROWS, NUM_FEATURES))


def iterate(comm, plan):
    """Run the passes with a head that multiplies by rank + 1; return what it saw, and the gradient."""
    seen = []

    def head_step(x, labels, rows, p):
        seen.append((x, labels, rows, p))
        return x * (comm.rank + 1)

    labels = 100 * comm.rank + np.arange(NUM_ROWS)
    return seen, run_passes(plan.make_scheme(), comm, REFERENCE, acts_of(comm.rank), labels, head_step)


@pytest.mark.parametrize("plan", PLANS, ids=plan_name)
def test_the_passes_hold_every_row_once_with_its_label(plan):
    whole = np.concatenate([acts_of(rank) for rank in range(K)])
    for rank, (seen, _) in enumerate(run_ranks(K, lambda comm: iterate(comm, plan))):
        assert [p for _, _, _, p in seen] == list(range(1 if plan.scheme == "a" else K))
        assert len({len(rows) for _, _, rows, _ in seen}) == 1, "passes are equally long"
        all_rows = np.concatenate([rows for _, _, rows, _ in seen])
        np.testing.assert_array_equal(np.sort(all_rows), np.arange(K * NUM_ROWS))
        for x, labels, rows, _ in seen:
            block = slice(rank * 3, rank * 3 + 3) if plan.scheme == "d" else slice(None)
            np.testing.assert_array_equal(x, whole[rows][:, block])
            np.testing.assert_array_equal(labels, rows // NUM_ROWS * 100 + rows % NUM_ROWS)


@pytest.mark.parametrize("plan", PLANS, ids=plan_name)
def test_every_row_gets_its_gradient_back(plan):
    for rank, (_, grad) in enumerate(run_ranks(K, lambda comm: iterate(comm, plan))):
        # (d): each block of features comes from the one rank that has it; else every rank adds its own
        factor = np.repeat([1, 2, 3, 4], 3) if plan.scheme == "d" else 1 + 2 + 3 + 4
        np.testing.assert_allclose(grad, acts_of(rank) * factor, rtol=1e-12)


def test_the_senders_of_a_pass_are_one_in_b_all_in_c_and_take_turns_between():
    def senders(plan):
        scheme = plan.make_scheme()
        return [sorted({int(row) // NUM_ROWS for row in scheme.group_rows(K, NUM_ROWS, p)}) for p in range(K)]

    assert senders(Plan(K, "b")) == [[0], [1], [2], [3]]
    assert senders(Plan(K, "c", senders=2)) == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert senders(Plan(K, "c")) == [[0, 1, 2, 3]] * 4


def test_activations_and_gradients_cross_under_the_passes():
    def events(comm):
        noted = []

        def head_step(x, labels, rows, p):
            noted.append(f"pass {p}")
            return x

        recording = RecordingCommunicator(comm, noted)
        run_passes(Plan(3).make_scheme(), recording, REFERENCE, acts_of(0)[:6], np.arange(6), head_step)
        return noted

    assert run_ranks(3, events)[0][2:] == [  # after the labels
        "start all_gather_rows 2",
        "wait all_gather_rows 2",
        "start all_gather_rows 3",
        "pass 0",
        "start reduce_scatter_rows 4",
        "wait all_gather_rows 3",
        "start all_gather_rows 5",
        "pass 1",
        "start reduce_scatter_rows 6",
        "wait all_gather_rows 5",
        "pass 2",
        "start reduce_scatter_rows 7",
        "wait reduce_scatter_rows 4",
        "wait reduce_scatter_rows 6",
        "wait reduce_scatter_rows 7",
    ]


def test_a_head_step_without_gradient_sends_nothing_back():
    scheme, acts = Plan(1).make_scheme(), np.ones((2, 3))
    assert run_passes(scheme, SerialCommunicator(), REFERENCE, acts, np.arange(2), lambda *_: None) is None
