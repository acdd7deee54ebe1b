"""The forecast of costs: the paper's figures, and shapes alone."""

import json
from math import prod

import numpy as np
import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.memory_forecast import MemoryOptions
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.summary import Summary, print_summary, summarise


def summary_of(
    scheme: str, num_ranks: int, model: str = "alexnet-owt", n: int = 128, dtype: str = "float32", **sync: str
) -> Summary:
    def fn(comm):
        spec = InputSpec(224, 3, 1000)
        layout = make_layout(comm, Plan(num_ranks, scheme))
        return summarise(MODELS[model](spec), layout, n, np.dtype(dtype), MemoryOptions(**sync))

    return run_ranks(num_ranks, fn)[0]


# bytes a rank receives in a step, n = 128, float32, ring collectives, in MB
@pytest.mark.parametrize(
    ("num_ranks", "dp", "hybrid"), [(1, 0.0, 0.0), (2, 244.4, 27.7), (4, 366.6, 68.3), (8, 427.7, 142.1)]
)
def test_received_bytes_are_those_of_the_closed_form(num_ranks, dp, hybrid):
    for scheme, expected in (("dp", dp), ("a", hybrid), ("b", hybrid), ("c", hybrid)):
        received = sum(summary_of(scheme, num_ranks).received_bytes.values()) / 1e6
        assert received == pytest.approx(expected, abs=0.06), scheme


@pytest.mark.parametrize("scheme", ["dp", "c"])
def test_sharded_synchronisation_moves_the_bytes_of_an_all_reduce_and_shares_the_momentum(scheme):
    whole, sharded = summary_of(scheme, 4), summary_of(scheme, 4, trunk_sync="sharded")
    assert sum(sharded.received_bytes.values()) == sum(whole.received_bytes.values())
    assert sharded.received_bytes["new weights of the trunk"] == 3 / 4 * 4 * 2_469_696
    head = 61_100_840 - 2_469_696
    held = 2_469_696 // 4 + head // 4  # dp: of copies; (c): of a head that is split already
    assert sharded.memory_bytes["momentum"] == 4 * held
    assert sharded.memory_bytes["gradients"] == whole.memory_bytes["gradients"]


def test_16_bits_on_the_wire_halve_the_gradients_and_leave_new_weights_whole():
    def trunk_bytes(**sync):
        return [size for name, size in summary_of("c", 2, **sync).received_bytes.items() if "trunk" in name]

    assert trunk_bytes() == [4 * 2_469_696]
    assert trunk_bytes(wire_dtype="bfloat16") == trunk_bytes(wire_dtype="float16") == [2 * 2_469_696]
    assert trunk_bytes(wire_dtype="float16", trunk_sync="sharded") == [2_469_696, 2 * 2_469_696]


def test_halves_are_half_the_bytes_but_for_master_weights_and_sums_for_few_ranks():
    whole, half = summary_of("c", 4), summary_of("c", 4, dtype="float16")
    assert {name: 2 * size for name, size in half.received_bytes.items()} == whole.received_bytes
    assert half.memory_bytes["weights"] == half.memory_bytes["gradients"] == whole.memory_bytes["weights"] // 2
    assert half.memory_bytes["master weights"] == half.memory_bytes["momentum"] == whole.memory_bytes["momentum"]
    assert "master weights" not in whole.memory_bytes
    few, boundary = summary_of("b", 4, dtype="float16").received_bytes, "activations to the head and their gradients"
    assert few[boundary] == 1.5 * half.received_bytes[boundary]  # float32 on the way back


def test_the_input_split_moves_41_percent_less_within_and_before_the_head_at_8_ranks():
    def head_floats_an_example(scheme):
        received = summary_of(scheme, 8).received_bytes
        return sum(size for name, size in received.items() if "activations" in name) / 4 / (8 * 128)

    assert head_floats_an_example("c") == pytest.approx(2 * 7 / 8 * (9216 + 4096 + 4096))
    assert head_floats_an_example("d") == pytest.approx(2 * 7 / 8 * (9216 / 8 + 4096 + 4096 + 1000))


def test_convolutions_do_92_percent_of_the_work():
    layers = summary_of("a", 1).layers
    trunk = sum(layer.multiply_adds for layer in layers if layer.name.startswith("trunk"))
    assert trunk / sum(layer.multiply_adds for layer in layers) == pytest.approx(0.918, abs=0.001)


def test_a_rank_holds_its_share_of_the_head_and_all_of_the_trunk():
    whole, shared = summary_of("a", 1), summary_of("a", 4)
    for alone, part in zip(whole.layers, shared.layers, strict=True):
        share = 4 if part.name.startswith("head") else 1
        assert part.parameters_held * share == part.parameters == alone.parameters
    assert shared.parameters == 61_100_840
    assert shared.memory_bytes["weights"] == 4 * (2_469_696 + (61_100_840 - 2_469_696) // 4)


def test_the_costs_of_a_layer_are_those_of_its_formula():
    layers = {layer.name: layer for layer in summary_of("a", 1, "vgg11", n=2).layers}
    assert layers["trunk.conv1_1"].multiply_adds == 2 * 224 * 224 * 64 * 27
    assert layers["trunk.conv1_1"].output_bytes == 4 * prod(layers["trunk.conv1_1"].output_shape)


def test_the_printed_table_shows_whole_numbers(capsys):
    print_summary(summary_of("a", 2))
    printed = capsys.readouterr().out
    assert "8,995,430,400" in printed
    assert "61,100,840 parameters; 2 ranks, scheme a, 128 images a rank and step" in printed


def test_memory_is_printed_in_parts_and_in_all_for_other_backends(capsys, tmp_path):
    summary = summary_of("c", 2, backend="reference")
    print_summary(summary, str(tmp_path / "summary.json"))
    printed = capsys.readouterr().out
    total = sum(summary.memory_bytes.values())
    assert f"memory a rank at its peak ({summary.memory_peak}): {total / 1e6:,.1f} MB\n  weights: 127.1 MB" in printed
    assert printed.index("lost between arrays: ") < printed.index("received by a rank a step")
    onednn = sum(summary_of("c", 2).memory_bytes.values())
    assert "memory a rank on another backend: cuda " in printed
    assert f" MB and cuDNN's workspace, onednn {onednn / 1e6:,.1f} MB\n" in printed
    assert json.loads((tmp_path / "summary.json").read_text())["memory_elsewhere"]["onednn"] == onednn
    assert summary_of("c", 2, dtype="float16", backend="reference").memory_elsewhere.keys() == {"cuda"}, "of halves"
