"""The pass loop and scheme (a): right rows, right gradients, one pass."""

import numpy as np

from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.schedule import run_passes
from owt_mpi.parallel.schemes import SchemeA
from tests.op_check import REFERENCE

NUM_ROWS, NUM_FEATURES = 3, 5


def test_every_rank_sees_the_whole_batch_once_and_gets_its_own_gradient_summed():
    def iterate(comm):
        acts = np.random.default_rng(comm.rank).standard_normal((NUM_ROWS, NUM_FEATURES))
        labels = 10 * comm.rank + np.arange(NUM_ROWS)
        seen = []

        def head_step(x, labels, rows, p):
            seen.append((x, labels, rows, p))
            return x * (comm.rank + 1)

        return acts, seen, run_passes(SchemeA(), comm, REFERENCE, acts, labels, head_step)

    ranks = run_ranks(4, iterate)
    whole = np.concatenate([acts for acts, _, _ in ranks])
    for acts, seen, grad in ranks:
        ((x, labels, rows, p),) = seen
        np.testing.assert_array_equal(x, whole)
        assert labels.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
        np.testing.assert_array_equal(rows, np.arange(12))
        assert p == 0
        np.testing.assert_allclose(grad, acts * (1 + 2 + 3 + 4))


def test_a_head_step_without_gradient_sends_nothing_back():
    assert (
        run_passes(SchemeA(), run_ranks(1, lambda c: c)[0], REFERENCE, np.ones((2, 3)), np.arange(2), lambda *_: None)
        is None
    )
