"""A step by its operations: each call is given the work that the planner counts for it, and nothing is lost."""

from math import prod

import pytest

from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.measure.roof import Roof, find_roof
from owt_mpi.measure.step import (
    WARM_UP_STEPS,
    ReplayedStep,
    make_trainer,
    measure_parts,
    measure_step,
    part_rows,
    planned_kernels,
    random_batch,
)
from owt_mpi.measure.timed_backend import TimedBackend, TimedCall
from owt_mpi.nn.model import InputSpec
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.devices import DEVICES
from owt_mpi.planner.kernel import Kernel, Operand, step_bytes, step_flop
from tests.cuda_backend import cuda_backend
from tests.tiny import SPEC, tiny_model

IMAGES = 4


@pytest.fixture(params=["logistic", "softmax"])
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def parts(model):
    batch = random_batch(SPEC, IMAGES, 0, ReferenceBackend())
    comm, backend = SerialCommunicator(), ReferenceBackend()
    return measure_parts(lambda spec: model, SPEC, comm, backend, batch, Roof(DEVICES["a100"], "fp32"), repeats=1)


def test_the_operations_of_a_step_do_all_that_the_planner_counts(model, parts):
    kernels = planned_kernels(model, IMAGES)
    assert sum(part.flop or 0 for part in parts) == step_flop(kernels)
    assert sum(part.least_bytes or 0 for part in parts) == step_bytes(kernels)
    assert sum(part.roof_seconds or 0 for part in parts) == pytest.approx(DEVICES["a100"].step_seconds(kernels, "fp32"))
    uncounted = {part.operation for part in parts if part.flop is None}
    assert uncounted == {"find_overflow", "start_to_host", "to_host", "the rest"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_in_halves_all_that_the_planner_counts_is_done_too(model, precision):
    pytest.importorskip("ml_dtypes")
    backend = HalfBackend(ReferenceBackend())
    batch = random_batch(SPEC, IMAGES, 0, backend, precision)
    kernels = planned_kernels(model, IMAGES, precision)
    case = (lambda spec: model, SPEC, SerialCommunicator(), backend, batch, None)
    parts = measure_parts(*case, repeats=1, precision=precision)
    assert sum(part.flop or 0 for part in parts) == step_flop(kernels)
    assert sum(part.least_bytes or 0 for part in parts) == step_bytes(kernels)
    assert {part.precision for part in parts} == {precision}


def test_calls_are_told_apart_by_layer(model, parts):
    found = {(part.operation, part.layer): part for part in parts}
    assert len(found) == len(parts)
    for layer in ("trunk.conv1", "trunk.conv2"):
        assert found["conv2d", layer].calls == found["conv2d_grad_w", layer].calls == 1
    assert ("conv2d_grad_x", "trunk.conv1") not in found  # nobody asks for the gradient of the images
    assert found["momentum_sgd", ""].calls == len(model.parameters())
    losses = {key: part.calls for key, part in found.items() if "loss" in key[0]}
    assert losses == ({("softmax_loss", ""): 3} if model.loss == "softmax" else {("logistic_loss", "head"): 1})
    weights = sum(prod(p.shape) for p in model.parameters())
    assert found["momentum_sgd", ""].least_bytes == 20 * weights  # w and v read and written, g read
    outputs = IMAGES * 4 * 4 * 6  # pooled from 9 x 9
    assert found["conv2d_grad_w", "trunk.conv2"].flop == 2 * outputs * 9 * 4 + outputs  # products, gradient of b


def test_a_replayed_step_is_measured_beside_the_plain_one_without_its_recording(monkeypatch):
    launches = []
    with cuda_backend() as backend:
        launch = backend.xp.cuda.Graph.launch
        monkeypatch.setattr(backend.xp.cuda.Graph, "launch", lambda *own: launches.append(own) or launch(*own))

        def trainer(trunk_dropout, cuda_graph):
            return make_trainer(
                lambda spec: tiny_model(trunk_dropout=trunk_dropout), SPEC, IMAGES, Plan(1), SerialCommunicator(),
                backend, cuda_graph=cuda_graph,
            )  # fmt: skip

        batch = random_batch(SPEC, IMAGES, 0, backend)
        replayed = ReplayedStep(trainer(0.0, cuda_graph=True), batch)
        rows = measure_step(
            trainer(0.0, cuda_graph=False), batch, planned_kernels(tiny_model(), IMAGES), None, 3, [replayed]
        )
        with pytest.raises(ValueError, match=r"trunk\.dropout2 drops others in each"):
            trainer(0.1, cuda_graph=True)
    assert [row.what for row in rows] == ["owt_mpi", "owt_mpi, --cuda-graph"]
    assert len(launches) == 2 * (WARM_UP_STEPS + 3 - 1)  # forward and backward, from the second step on


def test_times_are_medians_over_steps_of_each_call():
    kernels = [Kernel(layer, "ReLU", (Operand("x", 8),), (Operand("y", 8),), other_flop=2) for layer in ("a", "b")]
    steps = [[TimedCall("relu", 1.0 * s), TimedCall("relu", 10.0 * s), TimedCall("odd", 7.0)] for s in (1, 5, 3)]
    rows = part_rows(steps, kernels, None)
    assert [(row.operation, row.layer, row.seconds, row.flop) for row in rows] == [
        ("relu", "a", 3.0, 2),
        ("relu", "b", 30.0, 2),
        ("odd", "", 7.0, None),
    ]


def test_calls_that_the_planner_does_not_foresee_are_added_up_without_work():
    kernel = Kernel("a", "ReLU", (Operand("x", 8),), (Operand("y", 8),), other_flop=2)
    (row,) = part_rows([[TimedCall("relu", 1.0), TimedCall("relu", 2.0)]], [kernel], None)
    assert (row.layer, row.calls, row.seconds, row.flop) == ("", 2, 3.0, None)


def test_a_call_is_timed_from_an_idle_device_to_an_idle_device():
    events = []

    class Backend(ReferenceBackend):
        def synchronize(self):
            events.append("synchronize")

        def relu(self, x, drop=None):
            events.append("relu")
            return x

    ticks = iter([1.0, 4.0])
    timed = TimedBackend(Backend(), clock=lambda: events.append("clock") or next(ticks))
    timed.relu(None)
    assert events == ["synchronize", "clock", "relu", "synchronize", "clock"]
    assert timed.calls == [TimedCall("relu", 3.0)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-PCIE-40GB", None),
    ],
)
def test_a_roof_is_given_to_gpus_that_are_described(name, expected):
    assert find_roof(name, "fp16") == (Roof(DEVICES[expected], "fp16") if expected else None)


def test_a_roof_is_that_of_a_precision_which_a_gpu_may_not_have():
    product = Kernel("a", "conv", (Operand("x", 8),), (Operand("y", 8),), product_flop=10**12)
    a100 = [find_roof("NVIDIA A100-SXM4-80GB", precision) for precision in ("fp32", "tf32", "bf16")]
    assert [roof.seconds([product]) for roof in a100] == pytest.approx([1 / 19.5, 1 / 156, 1 / 312])
    assert find_roof("Tesla V100-SXM2-32GB", "bf16") is None


def test_random_batches_differ_by_rank_and_know_their_rows():
    first, second = (random_batch(InputSpec(5, 2, 7), 3, rank, ReferenceBackend()) for rank in (0, 1))
    assert first.images.shape == (3, 5, 5, 2)
    assert (first.images != second.images).any()
    assert second.rows.tolist() == [3, 4, 5]
