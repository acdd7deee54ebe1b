"""What is told of every layer is what a plain loop finds, on any number of ranks, however head and update are split."""

import numpy as np
import pytest

from owt_mpi.autograd import tensor
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.staged import staged
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, OptimizerOptions
from owt_mpi.nn.module import Context
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training import layer_statistics as module
from owt_mpi.training.layer_statistics import layer_statistics
from tests.cuda_backend import cuda_backend
from tests.tiny import GLOBAL_BATCH, global_batch, on_device, part_of, tiny_model

STEPS = 3


def make_trainer(comm, plan, backend, **parallel):
    options = ParallelOptions(bucket_mib=0.001, **{"dtype": "float64", **parallel})
    config = Config(optimizer=OptimizerOptions(lr=0.02, lr_base_batch=GLOBAL_BATCH), parallel=options)
    computed = compute_dtype(options.precision, options.dtype)
    layout = make_layout(carrying_halves(staged(comm, backend), computed), plan)
    return Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH)


def trained(comm, plan, backend, **parallel):
    """Return a trainer after STEPS steps, and its part of the last batch."""
    trainer = make_trainer(comm, plan, backend, **parallel)
    for step in range(STEPS):
        batch = on_device(part_of(global_batch(step, trainer.dtype), comm.rank, comm.size), backend)
        trainer.train_step(batch, step)
    return trainer, batch


def statistics(plan, **parallel):
    def of_rank(comm):
        return layer_statistics(*trained(comm, plan, ReferenceBackend(), **parallel), STEPS)

    found = run_ranks(plan.num_ranks, of_rank)
    assert all(each == found[0] for each in found)
    return found[0]


def flat(found):
    """Return all numbers by name, of outputs and updates."""
    outputs = {f"{name} {which}": v for name, each in found["outputs"].items() for which, v in each.items()}
    return {**outputs, **{f"update of {name}": value for name, value in found["updates"].items()}}


def expected():
    """Return the statistics by a plain loop over the layers, and by weights before and after the last step."""

    def alone(comm):
        backend = ReferenceBackend()
        trainer = make_trainer(comm, Plan(1), backend)
        parameters = trainer.trunk.parameters() + trainer.head.parameters()
        for step in range(STEPS):
            before = {each.name: each.data.copy() for each in parameters}
            batch = global_batch(step, trainer.dtype)
            trainer.train_step(batch, step)
        updates = {
            each.name: np.linalg.norm(each.data - before[each.name]) / np.linalg.norm(each.data) for each in parameters
        }
        ctx = Context(True, batch.rows, trainer.seed, STEPS - 1)
        x, outputs = tensor(batch.images, backend), {}
        for layers in (trainer.trunk.layers, trainer.head.layers):
            for name, layer in layers.items():
                x = layer(x, ctx)
                outputs[layer.name] = {"mean": x.data.mean(), "std": x.data.std(), "zeros": (x.data == 0).mean()}
                if name.startswith(("dropout", "flatten")):
                    del outputs[layer.name]
        return {"outputs": outputs, "updates": updates}

    return run_ranks(1, alone)[0]


@pytest.fixture(scope="module")
def plain():
    return flat(expected())


@pytest.mark.parametrize("piece", [1 << 17, 50])
def test_statistics_are_those_of_a_plain_loop(plain, piece, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", piece)
    found = flat(statistics(Plan(1)))
    assert list(found) == list(plain), "in the order in which layers run"
    assert found == pytest.approx(plain, rel=1e-10)
    assert 0.2 < plain["trunk.relu2 zeros"] < 0.8
    assert 0 < plain["update of head.fc4.weight"] < 0.1


@pytest.mark.parametrize(
    ("plan", "parallel"),
    [
        (Plan(2, "a"), {}),
        (Plan(4, "b"), {"trunk_sync": "sharded"}),
        (Plan(4, "c"), {}),
        (Plan(4, "c", group_size=2), {"trunk_sync": "sharded"}),
        (Plan(2, "d"), {}),
        (Plan(4, "d", group_size=2), {}),
        (Plan(4, "dp"), {"trunk_sync": "sharded"}),
    ],
    ids=str,
)
def test_any_number_of_ranks_finds_what_one_does(plain, plan, parallel):
    assert flat(statistics(plan, **parallel)) == pytest.approx(plain, rel=1e-8)


def test_training_keeps_its_bits_when_somebody_looks():
    def weights(comm, looks):
        trainer = make_trainer(comm, Plan(2), ReferenceBackend())
        for step in range(STEPS):
            batch = part_of(global_batch(step, trainer.dtype), comm.rank, comm.size)
            trainer.train_step(batch, step)
            if looks:
                layer_statistics(trainer, batch, step + 1)
        return [each.data for each in trainer.trunk.parameters() + trainer.head.parameters()]

    for with_looks, without in zip(*(run_ranks(2, lambda c, x=x: weights(c, x)) for x in (True, False)), strict=True):
        for a, b in zip(with_looks, without, strict=True):
            np.testing.assert_array_equal(a, b)


def test_halves_are_added_up_exactly():
    """The tolerance is that of what is added up: outputs of bfloat16 have 8 bits."""

    def of_rank(comm):
        options = {"dtype": "float32", "precision": "bf16", "trunk_sync": "sharded"}
        backend = select_backend("reference", compute_dtype("bf16", "float32"))[0]
        trainer, batch = trained(comm, Plan(2), backend, **options)
        return layer_statistics(trainer, batch, STEPS)

    one, other = run_ranks(2, of_rank)
    assert one == other
    whole = flat(expected())
    for name, value in flat(one).items():
        assert value == pytest.approx(whole[name], rel=0.1, abs=0.05), name


def test_outputs_of_a_gpu_are_added_up_there(plain):
    def of_rank(comm):
        return layer_statistics(*trained(comm, Plan(2), CudaBackend(), dtype="float32"), STEPS)

    with cuda_backend():
        found = run_ranks(2, of_rank)
    assert flat(found[0]) == pytest.approx(plain, rel=1e-3, abs=1e-5)


def test_what_is_no_finite_number_is_none():
    def of_rank(comm):
        trainer, batch = trained(comm, Plan(1), ReferenceBackend())
        trainer.trunk.layers["conv2"].weight.data[0] = np.nan
        for bias in (each for each in trainer.head.parameters() if each.is_bias):
            bias.data[:] = 0
        with np.errstate(invalid="ignore"):
            return layer_statistics(trainer, batch, STEPS)

    (found,) = run_ranks(1, of_rank)
    assert found["outputs"]["trunk.conv2"]["mean"] is None
    assert found["outputs"]["trunk.conv2"]["std"] is None
    assert found["outputs"]["trunk.conv1"]["mean"] is not None
    assert found["updates"]["trunk.conv2.weight"] is None
    assert found["updates"]["head.fc3.bias"] is None
