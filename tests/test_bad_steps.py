"""A step that would ruin the network is left out on all ranks, or ends the training; an exploding loss ends it too."""

from math import inf, log, nan

import numpy as np
import pytest

from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.bad_steps import ENOUGH, WINDOW, BadStepError, BadSteps, loss_of_guessing
from owt_mpi.checkpoint.weights import whole_parameter
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.staged import staged
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, OptimizerOptions, RunOptions
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.score import Score
from owt_mpi.trainer import Trainer
from tests.tiny import GLOBAL_BATCH, global_batch, on_device, part_of, tiny_model

BAD_STEP, NUM_STEPS = 2, 5
GUESSING = log(4)


def judge(bad, loss, is_whole=True, are_gradients_finite=True):
    """Return the verdict on a step whose gradients are known as well."""
    verdict = bad.judge(loss, is_whole)
    if verdict is not None and (verdict.ends or bad.leaves_out):
        return verdict
    return bad.settle(are_gradients_finite) or verdict


def judge_all(losses, leaves_out=False, limit=5.0, most=3):
    """Return what is said of each loss after WINDOW losses of 1: a good step, a bad one, or the end."""
    bad = BadSteps(leaves_out, limit, most, GUESSING)
    assert all(judge(bad, 1.0) is None for _ in range(WINDOW))
    verdicts = [judge(bad, loss) for loss in losses]
    return ["good" if each is None else "end" if each.ends else "bad" for each in verdicts], bad


@pytest.mark.parametrize("leaves_out", [False, True])
def test_a_loss_above_so_many_times_the_median_is_bad_and_a_few_in_a_row_end_the_training(leaves_out):
    said, bad = judge_all([5.0, 5.1, 6.0, 4.9, 7.0, 8.0, 9.0], leaves_out)
    assert said == ["good", "bad", "bad", "good", "bad", "bad", "end"]
    assert bad.num_left_out == 5 * leaves_out
    assert bad.last_was_learnt is not leaves_out
    assert judge_all([1e9] * 9, limit=0)[0] == ["good"] * 9


def test_a_loss_that_is_no_number_ends_the_training_unless_it_is_left_out():
    assert judge_all([nan])[0] == judge_all([inf])[0] == ["end"]
    said, bad = judge_all([nan, inf, 1.0, nan, nan, nan], leaves_out=True, limit=0)
    assert said == ["bad", "bad", "good", "bad", "bad", "end"]
    assert bad.num_left_out == 5


def test_so_do_gradients_and_a_step_is_counted_once():
    assert judge(BadSteps(False, 5.0, 3, GUESSING), 1.0, are_gradients_finite=False).ends
    assert not judge(BadSteps(True, 5.0, 3, GUESSING), 1.0, are_gradients_finite=False).ends
    _, bad = judge_all([])
    assert judge(bad, 9.0, are_gradients_finite=False).wrong == "gradients are no finite numbers"
    assert bad.num_in_a_row == 1
    bad.forget_last()
    assert bad.num_in_a_row == 0


def test_losses_below_that_of_guessing_and_of_steps_of_few_examples_do_not_explode():
    bad = BadSteps(False, 5.0, 1, GUESSING)
    for _ in range(WINDOW):
        assert judge(bad, 0.01) is None
    assert judge(bad, GUESSING) is None
    assert judge(bad, 9.0, is_whole=False) is None
    assert judge(bad, GUESSING + 0.01).wrong == "the loss is 1.396, more than 5 times the median of those before, 0.01"


def test_nothing_is_compared_with_a_few_losses_or_with_those_long_past():
    bad = BadSteps(False, 5.0, 2, GUESSING)
    assert [judge(bad, loss) for loss in [1.0, *[100.0] * (ENOUGH - 1)]] == [None] * ENOUGH
    assert judge(bad, 501.0) is not None
    for loss in [30.0] * WINDOW + [7.0] * (WINDOW // 2 + 1):
        assert judge(bad, loss) is None
    assert judge(bad, 36.0) is not None


def test_the_loss_of_guessing_is_that_of_equal_outputs():
    shares = np.full(10, 1 / 10)
    assert loss_of_guessing("softmax", 10) == pytest.approx(-np.log(shares[0]))
    assert loss_of_guessing("logistic", 10) == pytest.approx(-np.log(shares[0]) - np.log(1 - shares[1:]).sum())


def test_a_run_that_goes_on_decides_as_one_that_was_never_stopped():
    one, two = (BadSteps(True, 5.0, 9, GUESSING) for _ in range(2))
    for loss in [1.0] * 12 + [6.0, nan, 1.1, 7.0]:
        judge(one, loss)
        judge(two, loss)
        later = BadSteps(True, 5.0, 9, GUESSING)
        later.restore(two.state())
        assert later == one
        two = later
    assert (one.num_left_out, one.num_in_a_row) == (3, 1)
    one.restore({})
    assert one == BadSteps(True, 5.0, 9, GUESSING)


# in the training


def new_trainer(comm, plan, on_nan="skip", backend=None, **parallel):
    """Return a trainer of the tiny network on the ranks of `comm`; in float64 where options do not say otherwise."""
    options = ParallelOptions(**{"dtype": "float64", "bucket_mib": 0.001, **parallel})
    config = Config(
        optimizer=OptimizerOptions(lr=0.02, lr_base_batch=GLOBAL_BATCH),
        parallel=options,
        run=RunOptions(on_nan=on_nan, max_bad_steps=3),
    )
    dtype = compute_dtype(options.precision, options.dtype)
    backend = backend or select_backend("reference", dtype)[0]
    layout = make_layout(carrying_halves(staged(comm, backend), dtype), plan)
    return Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH)


def own_batch(trainer, step, bad_images=()):
    """Return this rank's part of the batch of a step, on the device, those images no numbers."""
    world = trainer.layout.world
    batch = part_of(global_batch(step, trainer.dtype), world.rank, world.size)
    batch.images[list(bad_images)] = nan
    return on_device(batch, trainer.backend)


def state_of(trainer):
    """Return copies of all weights and momentum of this rank."""
    syncs = (trainer.trunk_sync, trainer.head_sync)
    return [trainer.backend.to_host(array).copy() for sync in syncs for array in sync.changed_arrays()]


def spoil_image(trainer):
    return own_batch(trainer, BAD_STEP, bad_images=[1])


def spoil_trunk_gradient(trainer):
    spoil_gradient(trainer.trunk.parameters()[0])
    return own_batch(trainer, BAD_STEP)


def spoil_head_gradient(trainer):
    spoil_gradient(trainer.head.parameters()[-2])
    return own_batch(trainer, BAD_STEP)


def spoil_gradient(parameter):
    """Let the next gradient of the parameter be infinite in one element."""
    plain = parameter.accumulate_grad

    def infinite(grad):
        del parameter.accumulate_grad
        spoilt = grad.copy()
        spoilt.reshape(-1)[:1] = inf
        plain(spoilt)

    parameter.accumulate_grad = infinite


def train(comm, plan, spoil, passes, parallel, said="", backend=None):
    """Train with one bad step, on the last rank, or where `spoil` is None without that step; return what is learnt."""
    trainer = new_trainer(comm, plan, backend=backend, **parallel)
    trainer.set_head_update(HeadUpdate(passes))
    with np.errstate(all="ignore"):
        for step in range(NUM_STEPS):
            if step != BAD_STEP:
                assert trainer.train_step(own_batch(trainer, step), step).num_examples == GLOBAL_BATCH
            elif spoil is not None:
                before = state_of(trainer)
                batch = spoil(trainer) if comm.rank == comm.size - 1 else own_batch(trainer, step)
                score = trainer.train_step(batch, step)
                assert trainer.backend.device is not None or score == Score()
                trainer.judge.settle()  # on a GPU the host knows no sooner
                ((number, text),) = trainer.judge.take_warnings()
                assert number == BAD_STEP
                assert text.startswith("the step is left out, 1 so far: ")
                assert said.format(rank=comm.size - 1) in text
                for array, values in zip(state_of(trainer), before, strict=True):
                    np.testing.assert_array_equal(array, values)
    trainer.judge.settle()
    assert trainer.judge.take_warnings() == []
    trainer.collect_masters()
    parameters = trainer.trunk.parameters() + trainer.head.parameters()
    to_host, syncs = trainer.backend.to_host, (trainer.trunk_sync, trainer.head_sync)
    momentum = [to_host(v).copy() for sync in syncs for _, v in sync.collect_momentum()]
    return [np.array(whole_parameter(p, trainer.layout.head)) for p in parameters] + momentum


CASES = [
    (Plan(1), 0, {}),
    (Plan(2, "dp"), 0, {}),
    (Plan(2, "dp"), 0, {"trunk_sync": "sharded"}),
    (Plan(2, "a"), 0, {}),
    (Plan(2, "b"), 1, {}),
    (Plan(2, "c"), 1, {"trunk_sync": "sharded"}),
    (Plan(2, "d"), 0, {}),
    (Plan(4, "c"), 0, {}),
    (Plan(4, "c"), 2, {}),
    (Plan(4, "d"), 1, {"trunk_sync": "sharded", "wire_dtype": "bfloat16"}),
    (Plan(4, "b", 2), 1, {"trunk_sync": "sharded"}),  # two groups of two ranks, each with a copy of the head
    (Plan(2, "c"), 0, {"precision": "fp16", "dtype": "float32"}),
    (Plan(4, "b", 2), 1, {"precision": "fp16", "dtype": "float32", "trunk_sync": "sharded"}),
]


@pytest.mark.parametrize(("plan", "passes", "parallel"), CASES)
def test_a_bad_image_on_one_rank_changes_nothing_and_training_goes_on_as_without_the_step(plan, passes, parallel):
    said = "in the images of samples 13 on rank {rank};" if plan.num_ranks == 4 else "in the images of samples "
    spoilt = run_ranks(plan.num_ranks, lambda comm: train(comm, plan, spoil_image, passes, parallel, said))
    without = run_ranks(plan.num_ranks, lambda comm: train(comm, plan, None, passes, parallel))
    for ours, expected in zip(spoilt, without, strict=True):
        for array, values in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("spoil", [spoil_trunk_gradient, spoil_head_gradient])
@pytest.mark.parametrize(
    ("plan", "passes", "parallel"),
    [CASES[0], (Plan(2, "c"), 0, {}), (Plan(2, "c"), 1, {"trunk_sync": "sharded"}), (Plan(4, "d"), 0, {})],
)
def test_a_gradient_that_is_not_finite_on_one_rank_is_left_out_though_the_loss_is(plan, passes, parallel, spoil):
    is_summed = spoil is spoil_trunk_gradient and plan.num_ranks > 1 and not parallel
    said = "weight on all ranks, which sum it;" if is_summed else "weight on rank {rank};"
    if passes and spoil is spoil_head_gradient:  # which makes the losses of later passes so as well
        said = "is in what the head learnt within the step;"
    spoilt = run_ranks(plan.num_ranks, lambda comm: train(comm, plan, spoil, passes, parallel, said))
    without = run_ranks(plan.num_ranks, lambda comm: train(comm, plan, None, passes, parallel))
    for array, values in zip(spoilt[0], without[0], strict=True):
        np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize(("passes", "is_undone"), [(0, True), (1, False)])
def test_a_bad_gradient_ends_the_training_where_it_is_to_and_leaves_the_state_before(passes, is_undone):
    def fn(comm):
        trainer = new_trainer(comm, Plan(2, "c"), "stop")
        trainer.set_head_update(HeadUpdate(passes))
        trainer.train_step(own_batch(trainer, 0), 0)
        before = state_of(trainer)
        if comm.rank == 1:
            spoil_gradient(trainer.trunk.parameters()[0])
        with pytest.raises(BadStepError) as caught:
            trainer.train_step(own_batch(trainer, 1), 1)
        assert str(caught.value) == (
            "gradients are no finite numbers at step 1; the first is that of trunk.conv1.weight on all ranks, which "
            "sum it; lower --lr, or look at the data"
        )
        assert caught.value.is_undone == is_undone
        same = [np.array_equal(array, values) for array, values in zip(state_of(trainer), before, strict=True)]
        assert all(same) == is_undone

    run_ranks(2, fn)


def test_too_many_steps_left_out_in_a_row_end_the_training_at_the_state_before_them():
    def fn(comm):
        trainer = new_trainer(comm, Plan(2, "b"))
        trainer.set_head_update(HeadUpdate(1))
        trainer.train_step(own_batch(trainer, 0), 0)
        before = state_of(trainer)
        with np.errstate(all="ignore"):
            for step in (1, 2, 3):
                batch = own_batch(trainer, step, bad_images=range(8))
                if step < 3:
                    trainer.train_step(batch, step)
                    continue
                with pytest.raises(BadStepError, match=r"bad steps in a row: 3 \(--max-bad-steps\)$") as caught:
                    trainer.train_step(batch, step)
        assert caught.value.is_undone
        for array, values in zip(state_of(trainer), before, strict=True):
            np.testing.assert_array_equal(array, values)

    run_ranks(2, fn)
