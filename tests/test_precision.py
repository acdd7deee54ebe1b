"""Training in 16 bits: master weights keep what halves would lose, ranks agree, and float16 losses are scaled."""

import functools

import numpy as np
import pytest

import owt_mpi.optim
from owt_mpi.autograd import Parameter
from owt_mpi.backends import precision as precision_module
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.precision import HALF_DTYPES, compute_dtype
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.bad_steps import BadStepError, BadSteps
from owt_mpi.comm.half import HalfCommunicator
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.staged import staged
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, DataOptions, OptimizerOptions
from owt_mpi.loss_scale import FIRST, GOOD_STEPS_TO_DOUBLE, LARGEST, SMALLEST, LossScale, loss_scale_for
from owt_mpi.nn.init import Constant
from owt_mpi.optim import MomentumSGD
from owt_mpi.parallel.collective_ops import AllGatherOp
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.step_judge import StepJudge
from owt_mpi.trainer import Trainer
from tests.tiny import GLOBAL_BATCH, global_batch, on_device, part_of, tiny_model, train_tiny, train_tiny_on

HALF = HalfBackend(ReferenceBackend())
PRECISIONS = ["fp16", *(["bf16"] if len(HALF_DTYPES) > 1 else [])]
UNIT = {"fp16": 2.0**-11, "bf16": 2.0**-8}  # half the spacing at 1


def options(precision, **others):
    return {"dtype": "float32", "precision": precision, **others}


@functools.cache
def one_rank(precision, num_steps=20):
    return train_tiny(SerialCommunicator(), **options(precision, num_steps=num_steps))


def distance(a, b):
    return np.sqrt(sum(np.square(a[name].astype(np.float64) - b[name]).sum() for name in a))


# the optimizer


def half_parameter(dtype, value):
    parameter = Parameter((2,), Constant(value))
    parameter.name = "w"
    parameter.set_values(np.full(2, value, np.float32), HALF, dtype)
    return parameter


def train_by_small_steps(dtype, num_steps=64):
    """Return the weights, before and after rounding, after updates by a quarter of what rounding keeps at 1."""
    update = np.finfo(np.float16).eps / 8 if dtype == np.float16 else 2.0**-7 / 8
    parameter = half_parameter(dtype, 1.0)
    sgd = MomentumSGD([parameter], HALF, momentum=0.0, weight_decay=0.0)
    for _ in range(num_steps):
        parameter.accumulate_grad(np.full(2, 1.0, dtype))
        sgd.step(lr=update)
    return parameter, 1.0 - num_steps * update


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_updates_that_rounding_would_lose_add_up_in_the_master_weights(dtype):
    parameter, expected = train_by_small_steps(dtype)
    assert parameter.data.dtype == dtype
    assert parameter.exact.dtype == np.float32
    np.testing.assert_allclose(parameter.exact, expected, rtol=1e-6)
    np.testing.assert_array_equal(parameter.data, parameter.exact.astype(dtype))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_without_master_weights_they_would_be_lost(dtype, monkeypatch):
    def lossy(self, lr, grad_scale=1.0):
        for parameter in self.parameters:
            parameter.master[...] = parameter.data.astype(np.float32)  # as if the rounded weights were all there is
        plain_step(self, lr, grad_scale)

    plain_step = MomentumSGD.step
    monkeypatch.setattr(owt_mpi.optim.MomentumSGD, "step", lossy)
    parameter, expected = train_by_small_steps(dtype)
    np.testing.assert_array_equal(parameter.data.astype(np.float32), 1.0)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(parameter.exact, expected, rtol=1e-6)


def test_gradients_are_divided_by_the_loss_scale():
    parameter = half_parameter(np.float16, 1.0)
    parameter.accumulate_grad(np.array([1024.0, -512.0], np.float16))
    MomentumSGD([parameter], HALF, weight_decay=0.0).step(lr=0.5, grad_scale=1 / 1024)
    np.testing.assert_array_equal(parameter.exact, np.array([0.5, 1.25], np.float32))


# training


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_follows_the_losses_of_float32(precision):
    losses, exact = one_rank(precision, num_steps=60)[1], one_rank("fp32", num_steps=60)[1]
    np.testing.assert_allclose(losses, exact, rtol={"fp16": 0.02, "bf16": 0.05}[precision])  # 0.009 and 0.021 are seen
    np.testing.assert_allclose(losses[:5], exact[:5], rtol=UNIT[precision])
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scheme", ["dp", "a", "b", "c", "d"])
@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
def test_k_ranks_train_the_same_network_as_one_but_for_rounding(precision, scheme, trunk_sync):
    """Compared is how far the parameters are apart, in units of how far training has moved them."""
    start, _ = one_rank(precision, num_steps=0)
    serial, serial_losses = one_rank(precision)
    for num_ranks in (2, 4):
        parameters, losses = train_tiny_on(Plan(num_ranks, scheme), **options(precision, trunk_sync=trunk_sync))
        assert all(values.dtype == np.float32 for values in parameters.values())  # the master weights
        assert distance(parameters, serial) < 16 * UNIT[precision] * distance(serial, start)
        np.testing.assert_allclose(losses, serial_losses, rtol=2 * UNIT[precision])


def test_that_comparison_notices_a_slice_in_place_of_a_reduce_scatter(monkeypatch):
    def slice_only(self, gy):
        width = gy.shape[1] // self.comm.size
        return (np.ascontiguousarray(gy[:, self.comm.rank * width : (self.comm.rank + 1) * width]),)

    (start, _), (serial, _) = one_rank("fp16", num_steps=0), one_rank("fp16")
    monkeypatch.setattr(AllGatherOp, "backward", slice_only)
    parameters, _ = train_tiny_on(Plan(2), **options("fp16"))
    assert distance(parameters, serial) > 0.1 * distance(serial, start)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_head_may_learn_after_every_pass(passes):
    one, two = (train_tiny_on(Plan(4, "b"), **options(p, passes_per_update=passes)) for p in ("fp16", "fp32"))
    np.testing.assert_allclose(one[1], two[1], rtol=8 * UNIT["fp16"])


# loss scaling


def train_with_an_overflow(comm, spoil_rank, scheme="c", trunk_sync="all-reduce", num_steps=3, backend=HALF, period=0):
    """Train in float16, the last gradient infinite on one rank in step 1; return what each step left.

    It is the trunk's, or with a `period` of passes between the head's updates the head's.
    """
    config = Config(
        optimizer=OptimizerOptions(lr=0.02, lr_base_batch=GLOBAL_BATCH),
        parallel=ParallelOptions(precision="fp16", bucket_mib=0.001, trunk_sync=trunk_sync),
    )
    layout = make_layout(HalfCommunicator(staged(comm, backend)), Plan(comm.size, scheme))
    trainer = Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH)
    trainer.set_head_update(HeadUpdate(period))
    spoilt = (trainer.head if period else trainer.trunk).parameters()[-1]
    states = []
    for step in range(num_steps):
        if step == 1 and comm.rank == spoil_rank:
            plain = spoilt.accumulate_grad

            def infinite(grad, plain=plain):
                plain(backend.xp.full(grad.shape, np.inf, grad.dtype))

            spoilt.accumulate_grad = infinite
        trainer.train_step(on_device(part_of(global_batch(step, "float16"), comm.rank, comm.size), backend), step)
        if step == 1 and comm.rank == spoil_rank:
            del spoilt.accumulate_grad
        trainer.collect_masters()
        parameters = trainer.trunk.parameters() + trainer.head.parameters()
        weights = [backend.to_host(p.exact).copy() for p in parameters]
        states.append((trainer.loss_scale.facts(), weights))
    return states


@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
@pytest.mark.parametrize("spoil_rank", [0, 1])
def test_an_overflow_on_one_rank_skips_the_step_on_all_and_halves_the_scale(spoil_rank, trunk_sync):
    with np.errstate(all="ignore"):
        ranks = run_ranks(2, lambda comm: train_with_an_overflow(comm, spoil_rank, trunk_sync=trunk_sync))
    for (facts, first), (facts_after, second), (facts_last, third) in ranks:
        assert facts == {"loss_scale": FIRST, "skipped_updates": 0}
        assert facts_after == facts_last == {"loss_scale": FIRST / 2, "skipped_updates": 1}
        for before, after, later in zip(first, second, third, strict=True):
            np.testing.assert_array_equal(before, after)
            assert np.isfinite(later).all()
            assert (later != after).any()


def test_an_overflow_in_every_pass_skips_the_updates_after_each():
    """The head's updates, which are made before the host knows, and the last, which is the trunk's too."""
    with np.errstate(all="ignore"):
        (_, first), (facts, second), _ = run_ranks(2, lambda comm: train_with_an_overflow(comm, 1, "b", period=1))[0]
    assert facts == {"loss_scale": FIRST / 2, "skipped_updates": 2}
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_scale_is_halved_after_an_overflow_and_doubled_after_many_good_steps():
    scale = loss_scale_for("float16")
    for _ in range(GOOD_STEPS_TO_DOUBLE - 1):
        scale.end_step()
    assert scale.value == FIRST
    scale.skip()
    scale.skip()  # two updates of one step
    scale.end_step()
    assert (scale.value, scale.skipped_updates) == (FIRST / 2, 2)
    for _ in range(GOOD_STEPS_TO_DOUBLE):
        assert scale.value == FIRST / 2
        scale.end_step()
    assert scale.value == FIRST


def test_the_scale_stays_within_bounds_and_that_of_other_types_is_one():
    low, high = LossScale(True, SMALLEST), LossScale(True, LARGEST)
    assert low.is_smallest
    low.skip()
    low.end_step()
    for _ in range(GOOD_STEPS_TO_DOUBLE):
        high.end_step()
    assert (low.value, high.value) == (SMALLEST, LARGEST)
    for name in ("bfloat16", "float32", "float64"):
        other = loss_scale_for(name)
        other.end_step()
        assert (other.value, other.facts()) == (1.0, {})


def test_all_sums_are_waited_for_even_where_the_first_has_overflowed():
    """Waiting for a sum may start its second exchange, and all ranks start exchanges in one order."""
    asked = []

    class Sync:
        def __init__(self, number):
            self.number = number

        def sums(self):
            asked.append(self.number)
            return [np.array([1.0, self.number])]

    layout, bad_steps = make_layout(SerialCommunicator(), Plan(1)), BadSteps(False, 0.0, 1, 1.0)
    for numbers, expected in ((np.inf, 2.0), True), ((2.0, np.nan), True), ((2.0, 3.0), False):
        judge = StepJudge(layout, HALF, loss_scale_for("float16"), bad_steps, *map(Sync, numbers), GLOBAL_BATCH)
        judge.begin(0, global_batch(0, "float16"), print, learns_within=False)
        assert judge.after_backward() is expected
        assert asked == list(numbers)
        asked.clear()


def test_gradients_that_no_smaller_scale_would_help_end_the_training():
    def train(comm):
        layout = make_layout(HalfCommunicator(comm), Plan(1))
        config = Config(parallel=ParallelOptions(precision="fp16"))
        trainer = Trainer(config, tiny_model(), layout, HALF, GLOBAL_BATCH)
        trainer.loss_scale.value = SMALLEST
        trainer.trunk.parameters()[0].accumulate_grad = lambda grad: setattr(
            trainer.trunk.parameters()[0], "grad", np.full_like(grad, np.nan)
        )
        with pytest.raises(BadStepError, match=r"at step 3; .* no more than 1; lower --lr, or choose --precision bf16"):
            trainer.train_step(global_batch(3, "float16"), 3)

    train(SerialCommunicator())


def test_a_loss_that_is_no_number_is_no_matter_of_scaling():
    config = Config(parallel=ParallelOptions(precision="fp16"))
    trainer = Trainer(
        config, tiny_model(), make_layout(HalfCommunicator(SerialCommunicator()), Plan(1)), HALF, GLOBAL_BATCH
    )
    batch = global_batch(0, "float16")
    batch.images[0] = np.inf
    with np.errstate(all="ignore"), pytest.raises(BadStepError, match="the loss is nan at step 0"):
        trainer.train_step(batch, 0)
    assert trainer.loss_scale.value == FIRST


# options


def test_precision_and_float64_contradict_each_other():
    for precision in ("tf32", "bf16", "fp16"):
        config = Config(data=DataOptions("x"), parallel=ParallelOptions(precision=precision, dtype="float64"))
        with pytest.raises(ValueError, match=f"--precision {precision} and --dtype float64 contradict each other"):
            config.check()


def test_precision_decides_what_is_computed_in(monkeypatch):
    assert compute_dtype("fp32", "float64") == np.float64
    assert compute_dtype("tf32", "float32") == np.float32
    assert compute_dtype("fp16", "float32") == np.float16
    monkeypatch.setattr(precision_module, "HALF_DTYPES", HALF_DTYPES[:1])
    with pytest.raises(ValueError, match=r"needs the package ml_dtypes.* pip install 'owt_mpi\[bf16\]'"):
        compute_dtype("bf16", "float32")
