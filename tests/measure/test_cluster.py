"""The machine at hand as a cluster: the sums, and the whole on ranks that are threads."""

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.measure.cluster import measure_cluster, rates_of
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.choice import PlanCase, step_timing
from owt_mpi.planner.cluster import Cluster
from owt_mpi.planner.cluster_files import load_cluster, to_toml
from owt_mpi.planner.kernel import Kernel, Operand

SPEC = InputSpec(16, 3, 8)
BUILDER = find_builder("small")


def kernel(work: str, num_bytes: int, flop: int = 0) -> Kernel:
    return Kernel("", work, (Operand("", num_bytes),), (), flop)


def test_rates_are_what_was_done_over_the_seconds_of_it():
    kernels = [
        kernel("conv2d", 10, 600),
        kernel("conv2d_grad_w", 10, 400),
        kernel("linear", 10, 300),
        kernel("relu", 50),
        kernel("momentum_sgd", 150),
        kernel("add", 30),  # in the rest
    ]
    seconds = {"conv2d": 1.0, "conv2d_grad_w": 3.0, "linear": 2.0, "relu": 1.0, "momentum_sgd": 4.0, "to_host": 9.0}
    rates = rates_of(kernels, seconds, rest=1.05)
    assert (rates.convolutions, rates.linear, rates.memory) == (250, 150, 40)
    assert rates.kernel_seconds == pytest.approx((1.05 - 30 / 40) / 6)


def test_a_network_without_convolutions_has_their_rate_of_linear_layers():
    rates = rates_of([kernel("linear", 10, 300), kernel("relu", 50)], {"linear": 2.0, "relu": 1.0}, 0.0)
    assert rates.convolutions == rates.linear == 150
    assert rates.kernel_seconds == 0


def measured(num_ranks: int) -> list[Cluster]:
    def run(comm):
        return measure_cluster(BUILDER, SPEC, 8, comm, ReferenceBackend(), seconds=0.0)

    return run_ranks(num_ranks, run) if num_ranks > 1 else [run(SerialCommunicator())]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_what_is_measured_is_a_cluster_that_can_be_planned_for(num_ranks, tmp_path):
    first, *others = measured(num_ranks)
    assert all(other.levels == first.levels for other in others)
    assert first.most_ranks == num_ranks
    assert not first.device.is_gpu
    assert max(first.device.convolution_share, first.device.linear_share) == 1.0
    file = tmp_path / "here.toml"
    file.write_text(to_toml(first))
    assert load_cluster(str(file)) == first
    for scheme in ("dp", "c") if num_ranks > 1 else ("dp",):
        timing = step_timing(PlanCase(BUILDER, SPEC, 8, first), Plan(num_ranks, scheme))
        assert np.isfinite(timing.seconds)
        assert timing.seconds > 0
    kinds = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"}
    assert set(first.slower) == (kinds if num_ranks > 1 else set())


def test_ranks_on_several_nodes_have_a_level_between_nodes():
    def run(comm):
        comm.split_by_node = lambda label: comm.split(comm.rank // 2, comm.rank, label)
        return measure_cluster(BUILDER, SPEC, 8, comm, ReferenceBackend(), seconds=0.0)

    first, *others = run_ranks(4, run)
    assert [(level.ranks, level.link) for level in first.levels] == [(2, "a rank"), (0, "a unit")]
    assert all(other.levels[1] == first.levels[1] for other in others)
    assert first.most_ranks == 0
