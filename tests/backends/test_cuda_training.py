"""Training on the GPU backend, on the stand-in for CuPy: the same network as on the reference backend.

Every scheme at K = 1, 2 and 4, by ranks that are threads, each with a backend (and so streams) of its own. Streams are
deferred and fresh memory is NaN: what is not ordered or not written shows.
"""

import functools
import re

import numpy as np
import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_device import CudaDevice
from owt_mpi.backends.precision import HALF_DTYPES
from owt_mpi.bad_steps import BadStepError
from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import BatchOptions, Config, DataOptions, ModelOptions, RunOptions
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training.run import run_training
from owt_mpi.trunk_pass import TrunkPass
from tests.fake_cupy import RACES, RaceError
from tests.test_bad_steps import spoil_head_gradient, spoil_image, spoil_trunk_gradient
from tests.test_bad_steps import train as train_with_a_bad_step
from tests.test_precision import HALF, train_with_an_overflow
from tests.thread_patch import patched_in_thread
from tests.tiny import largest_difference, tiny_model, train_tiny, train_tiny_on

NUM_STEPS = 3
NUM_PARAMETERS = len(tiny_model().parameters())
TOLERANCE = 2e-6  # float32; 2.5e-7 is what the order of sums makes of it


@functools.cache
def on_the_reference(loss="logistic", passes_per_update=0, num_ranks=1, scheme="c"):
    options = {"dtype": "float32", "num_steps": NUM_STEPS, "loss": loss, "passes_per_update": passes_per_update}
    return train_tiny_on(Plan(num_ranks, scheme), **options)


def train_on_cuda(plan, **options):
    """Return what train_tiny_on returns, each rank with a backend of its own."""
    results = run_ranks(
        plan.num_ranks,
        lambda comm: train_tiny(comm, plan, dtype="float32", num_steps=NUM_STEPS, backend=CudaBackend(), **options),
    )
    for parameters, _ in results[1:]:
        for name, values in parameters.items():
            np.testing.assert_array_equal(values, results[0][0][name], err_msg=f"{name} differs between ranks")
    return results[0]


def check_same(result, expected):
    parameters, losses = result
    assert largest_difference(parameters, expected[0]) < TOLERANCE
    np.testing.assert_allclose(losses, expected[1], rtol=TOLERANCE)
    assert RACES == []


BAD_STEP_CASES = [
    (Plan(1), 0, {"dtype": "float32"}),
    (Plan(2, "c"), 0, {"dtype": "float32"}),
    (Plan(2, "dp"), 0, {"dtype": "float32", "trunk_sync": "sharded"}),
    (Plan(2, "c"), 1, {"dtype": "float32", "trunk_sync": "sharded"}),
    (Plan(2, "b"), 0, {"dtype": "float32", "precision": "bf16"}),
]
CASES = [(1, "c"), *((num_ranks, scheme) for num_ranks in (2, 4) for scheme in ("dp", "a", "b", "c", "d"))]


@pytest.mark.parametrize(("num_ranks", "scheme"), CASES)
def test_k_ranks_train_the_same_network_as_the_reference(cuda, num_ranks, scheme):
    check_same(train_on_cuda(Plan(num_ranks, scheme)), on_the_reference())


@pytest.mark.parametrize("scheme", ["c", "d"])
def test_the_softmax_over_shards_is_the_references(cuda, scheme):
    check_same(train_on_cuda(Plan(2, scheme), loss="softmax"), on_the_reference("softmax"))


def test_an_update_after_each_pass_is_the_references(cuda):
    check_same(train_on_cuda(Plan(2, "b"), passes_per_update=1), on_the_reference("logistic", 1, 2, "b"))


def test_weights_that_are_shared_out_are_the_references(cuda):
    check_same(train_on_cuda(Plan(4, "c", group_size=2), trunk_sync="sharded"), on_the_reference())


@pytest.mark.parametrize("wire_dtype", ["float16", "bfloat16"])
def test_gradients_in_16_bits_are_rounded_as_the_references_are(cuda, wire_dtype):
    expected = train_tiny_on(Plan(2, "c"), dtype="float32", num_steps=NUM_STEPS, wire_dtype=wire_dtype)
    check_same(train_on_cuda(Plan(2, "c"), wire_dtype=wire_dtype), expected)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize("scheme", ["b", "c", "d"])
def test_halves_train_as_the_references_do_but_for_rounding(cuda, scheme, dtype):
    options = {"precision": "fp16" if dtype == np.float16 else "bf16", "trunk_sync": "sharded"}
    expected = train_tiny_on(Plan(2, scheme), dtype="float32", num_steps=NUM_STEPS, **options)
    parameters, losses = train_on_cuda(Plan(2, scheme), **options)
    unit = 2.0 ** -(11 if dtype == np.float16 else 8)
    np.testing.assert_allclose(losses, expected[1], rtol=2 * unit)
    assert largest_difference(parameters, expected[0]) < 8 * unit
    assert RACES == []


def test_a_trunk_that_is_computed_again_is_the_same_to_the_bit(cuda):
    (plain, losses), (again, losses_again) = train_on_cuda(Plan(2, "c")), train_on_cuda(Plan(2, "c"), cuts=(3, 6))
    assert losses_again == losses
    for name, values in again.items():
        np.testing.assert_array_equal(values, plain[name], err_msg=name)
    assert RACES == []


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("period", [0, 1])
def test_an_overflow_skips_the_updates_that_it_skips_on_the_reference(cuda, num_ranks, period):
    def train(comm, backend=None):
        return train_with_an_overflow(comm, 0, "b", backend=backend or CudaBackend(), period=period)

    with np.errstate(all="ignore"):
        expected = run_ranks(num_ranks, lambda comm: train(comm, HALF))
    for states, on_reference in zip(run_ranks(num_ranks, train), expected, strict=True):
        assert [facts for facts, _ in states] == [facts for facts, _ in on_reference]
        for (_, weights), (_, others) in zip(states, on_reference, strict=True):
            for one, other in zip(weights, others, strict=True):
                np.testing.assert_allclose(one, other, atol=8 * 2.0**-11 * np.abs(other).max())
    assert RACES == []


@pytest.mark.parametrize("case", BAD_STEP_CASES)
@pytest.mark.parametrize("spoil", [spoil_image, spoil_trunk_gradient, spoil_head_gradient])
def test_a_bad_step_is_left_out_as_on_the_reference(cuda, case, spoil):
    plan, passes, parallel = case
    spoilt, without = (
        run_ranks(
            plan.num_ranks,
            lambda comm, how=how: train_with_a_bad_step(comm, plan, how, passes, parallel, backend=CudaBackend()),
        )
        for how in (spoil, None)
    )
    for ours, expected in zip(spoilt, without, strict=True):
        for array, values in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(array, values)
    assert RACES == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_does_not_wait_for_the_trunks_backward_pass(cuda, monkeypatch, precision):
    """A step returns, with its score, when the device has got through the head, and needs to be no further."""
    compute, backward, train_step, noted = cuda._device.compute, TrunkPass.backward, Trainer.train_step, []

    def noted_backward(self, grad):
        noted.append(compute._num_enqueued)
        backward(self, grad)

    def noted_step(self, *arguments):
        score = train_step(self, *arguments)
        noted.append(compute.num_done)
        return score

    monkeypatch.setattr(TrunkPass, "backward", noted_backward)
    monkeypatch.setattr(Trainer, "train_step", noted_step)
    train_tiny_on(Plan(1), dtype="float32", num_steps=NUM_STEPS, backend=cuda, precision=precision)
    assert len(noted) == 2 * NUM_STEPS
    for head_ends, done in zip(noted[::2], noted[1::2], strict=True):
        assert 0 < done <= head_ends
    assert RACES == []


def test_loss_scaling_lets_the_host_wait_once_more_a_step(cuda, monkeypatch):
    """For the flags of its updates, behind them."""
    downloads, download = [], CudaDevice.download
    monkeypatch.setattr(CudaDevice, "download", lambda self, array: downloads.append(array) or download(self, array))
    for precision, number in (("fp32", 0), ("fp16", NUM_STEPS)):
        train_on_cuda(Plan(1), precision=precision)
        assert len(downloads) == number + NUM_PARAMETERS
        downloads.clear()


def test_ranks_may_share_a_backend(cuda):
    check_same(train_tiny_on(Plan(2, "d"), dtype="float32", num_steps=NUM_STEPS, backend=cuda), on_the_reference())


def test_a_whole_run_says_what_it_computes_on(cuda, tmp_path, capsys):
    """Virtual ranks share the GPU; everything from the options to the weights that are kept."""
    config = Config(
        model=ModelOptions(model="cifar-quick", crop=32),
        data=DataOptions(data="synthetic", synthetic_images=16, synthetic_classes=4),
        batch=BatchOptions(images_per_rank=4, epochs=1),
        parallel=ParallelOptions(backend="auto", virtual_ranks=2),
        run=RunOptions(run_dir=str(tmp_path / "run")),
    )
    run_ranks(2, lambda comm: run_training(config, comm, ranks_sharing_cores=2))
    said = capsys.readouterr().out
    assert "backend: cuda (auto: there is a GPU; Pretended GPU, device 0, " in said
    assert re.search(
        r"memory: 2[67]\d\.\d MB .* and 46\.2 MB of the host; 1,073\.7 MB free of GPU 0 for 2 ranks\n", said
    )
    for name, values in read_weights(tmp_path / "run/weights.h5").items():
        assert np.isfinite(values).all(), name
    assert RACES == []


# mistakes


def test_a_host_that_does_not_wait_for_the_losses_is_noticed(cuda, monkeypatch):
    start_download = CudaDevice.start_download
    without_waiting = patched_in_thread(monkeypatch, cuda.xp.cuda.Event, "synchronize", lambda event: None)

    def hasty_download(self, array):
        finish = start_download(self, array)

        def finish_at_once():
            with without_waiting():
                return finish()

        return finish_at_once

    monkeypatch.setattr(CudaDevice, "start_download", hasty_download)
    with pytest.raises((RaceError, BadStepError)):
        train_on_cuda(Plan(2, "a"))


def test_a_communicator_that_copies_out_of_order_is_noticed(cuda, monkeypatch):
    monkeypatch.setattr(cuda.xp.cuda.Stream, "wait_event", lambda stream, event: None)
    with pytest.raises(RaceError):
        train_on_cuda(Plan(2, "a"))


def test_a_communicator_that_takes_device_arrays_for_the_hosts_is_noticed(cuda, monkeypatch):
    monkeypatch.setattr("tests.tiny.staged", lambda comm, backend: comm)
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        train_on_cuda(Plan(2, "a"))


def test_a_scalar_of_a_wrong_type_is_noticed(cuda, monkeypatch):
    class WideIntegers:
        def __getattr__(self, name):
            return getattr(np, "int64" if name == "int32" else name)

    monkeypatch.setattr("owt_mpi.backends.cuda_kernels.np", WideIntegers())
    with pytest.raises(TypeError, match=r"must be numpy.int32, got int64"):
        train_on_cuda(Plan(1))
