"""Bytes on the wire: the closed forms, the forecast from shapes and the ledger of a step that ran agree to the byte."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.wire_table import markdown, row, rows
from owt_mpi.accounts import wire_lines
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.ledger import Flow, FlowKey, Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.module import Sequential
from owt_mpi.nn.restricted import restricted
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.summary import summarise
from owt_mpi.trainer import Trainer
from tests.mpi_run import REPO_ROOT

PLANS = [
    Plan(size, scheme, group)
    for size in (2, 4, 8)
    for scheme in ("dp", "a", "b", "c", "d")
    for group in ((0,) if scheme == "dp" else tuple(g for g in (2, 4, 8) if g <= size))
]
SMALL_N = 8  # images a rank
SMALL_FEATURES = 3 * 2 * 8
SMALL_WIDTHS = (24, 16, 8)
SIDE_TALK = {"labels", "hits", "score"}  # left out of the closed forms: no activations, no gradients


def small_model():
    spec = InputSpec(crop=6, channels=3, num_classes=SMALL_WIDTHS[-1])
    trunk = Sequential(
        {"conv1": Conv2d(3, 12, 3, 1, 1), "relu1": ReLU(), "pool1": MaxPool2d(3, 3), "flatten": Flatten()}
    )
    head = {}
    for number, (inputs, units) in enumerate(zip((SMALL_FEATURES, *SMALL_WIDTHS), SMALL_WIDTHS, strict=False)):
        head |= {f"fc{number}": Linear(inputs, units), f"relu{number}": ReLU()}
    head.popitem()
    return Model("small", spec, trunk, Sequential(head), "logistic")


def closed_form(plan, n, features, widths, trunk_size, itemsize):
    """Return bytes received by a rank in a step, by the formulas of docs/wire.md."""
    size, group = plan.num_ranks, plan.ranks_sharing_head
    head_size = sum((inputs + 1) * units for inputs, units in zip((features, *widths), widths, strict=False))
    replicas = size // group
    if plan.scheme == "d":
        boundary, head = 2 * (group - 1) * n * features // group, 2 * (group - 1) * n * sum(widths)
    else:
        boundary, head = 2 * (group - 1) * n * features, 2 * (group - 1) * n * sum(widths[:-1])
    return {
        "boundary": boundary * itemsize,
        "head": head * itemsize,
        "trunk": 2 * (size - 1) * trunk_size * itemsize // size,
        "replicas": 2 * (replicas - 1) * (head_size // group) * itemsize // replicas,
    }


def step_flows(plan, build=small_model):
    """Return each rank's flows of one training step, and the forecast of what it receives."""
    model = build()
    plan.check(model, SMALL_N)

    def step(comm):
        ledger = Ledger()
        layout = make_layout(MeteredCommunicator(comm, ledger), plan)
        config = Config(parallel=ParallelOptions(dtype="float64", bucket_mib=0.001))
        trainer = Trainer(config, build(), layout, ReferenceBackend(), SMALL_N * plan.num_ranks)
        rng = np.random.default_rng(comm.rank)
        row_numbers = comm.rank * SMALL_N + np.arange(SMALL_N)
        images = rng.standard_normal((SMALL_N, 6, 6, 3))
        trainer.train_step(Batch(images, rng.integers(0, 8, SMALL_N), row_numbers, row_numbers, None), 0)
        return ledger.take(), summarise(model, layout, SMALL_N, np.dtype(np.float64)).received_bytes

    return run_ranks(plan.num_ranks, step)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.scheme}-{plan.num_ranks}-{plan.group_size}")
def test_ledger_forecast_and_closed_form_agree_on_a_step_that_ran(plan):
    trunk_size = sum(int(np.prod(p.shape)) for p in small_model().trunk.parameters())
    expected = closed_form(plan, SMALL_N, SMALL_FEATURES, SMALL_WIDTHS, trunk_size, 8)
    for flows, forecast in step_flows(plan):
        received = Counter(dict.fromkeys(expected, 0))
        sent = Counter(dict.fromkeys(expected, 0))
        for key, flow in flows.items():
            if key.payload not in SIDE_TALK:
                received[key.label] += flow.received_bytes
                sent[key.label] += flow.sent_bytes
        assert dict(received) == expected
        assert sent == received, "over a step"
        assert list(forecast.values()) == list(expected.values())


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.scheme}-{plan.num_ranks}-{plan.group_size}")
def test_the_forecast_for_alexnet_is_the_closed_form(plan):
    forecast = row(plan)
    expected = closed_form(plan, 128, 9216, (4096, 4096, 1000), 2_469_696, 4)
    assert {part: forecast[part] for part in expected} == expected


def test_the_input_split_moves_35_percent_fewer_head_bytes_at_8_ranks():
    column, inputs = row(Plan(8, "c")), row(Plan(8, "d"))
    assert inputs["boundary"] + inputs["head"] < 0.65 * (column["boundary"] + column["head"])


def test_every_flow_of_the_head_and_the_trunk_has_a_name():
    names = {(key.label, key.payload) for key in step_flows(Plan(2, "c"))[0][0]}
    assert names == {
        ("boundary", "labels"),
        ("boundary", "activations"),
        ("boundary", "gradients"),
        ("head", "head.fc1"),
        ("head", "head.fc2"),
        ("head", "hits"),
        ("trunk", "bucket 0"),
        ("trunk", "bucket 1"),
        ("world", "score"),
    }


def test_the_cross_talk_of_a_head_in_blocks_is_in_ledger_and_forecast():
    for flows, forecast in step_flows(Plan(4, "c"), lambda: restricted(small_model(), 0.5, 8)):
        received = Counter()
        for key, flow in flows.items():
            received[key.label, key.payload] += flow.received_bytes
        layers = [received["head", f"head.fc{number}"] for number in (1, 2)]
        assert layers == [2 * 3 * SMALL_N * features * 8 for features in (8 * 2, 8 * 1)], "half of 3 and of 2, a block"
        assert sum(layers) == forecast["activations within the head and their gradients"]


def test_the_page_shows_what_the_command_prints():
    assert markdown(rows()) in (REPO_ROOT / "docs" / "wire.md").read_text(encoding="utf-8")


def test_the_summary_is_of_a_step_and_of_the_mean_rank():
    key = FlowKey("boundary", "all_gather", "activations")
    ranks = [{key: Flow(4, 0, 6_000_000, 0.5, 0.1)}, {key: Flow(4, 0, 2_000_000, 0.5, 0.3)}]
    assert [line.split() for line in wire_lines(ranks, num_steps=2)[2:]] == [
        ["boundary", "all_gather", "2.0", "2.000", "250.00", "60%"],
        ["all", "2.0", "2.000", "250.00", "60%"],
    ]
    assert wire_lines([{}], num_steps=2) == []
