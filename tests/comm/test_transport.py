"""What --transport and --node-sums choose, with the reason, and what they refuse."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.gpu_aware import VARIABLE
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.staged import CHUNK_BYTES
from owt_mpi.comm.threads import run_ranks
from owt_mpi.comm.transport import open_transport
from owt_mpi.parallel_options import ParallelOptions
from tests.comm.checks import values
from tests.comm.device_backend import DeviceBackend
from tests.comm.process_like import ProcessLike
from tests.fake_cupy import RACES, stand_in
from tests.fake_nccl import nccl_stand_in
from tests.mpi_run import Result

NO_NCCL = "no NCCL: CuPy finds no NCCL library (pip install nvidia-nccl-cu12, or load your cluster's)"


@pytest.fixture
def cupy() -> Iterator[Any]:
    with stand_in() as module, nccl_stand_in() as nccl:
        nccl.available = False
        yield module


def chosen(cupy: Any, options: ParallelOptions, nodes: str = "aa", processes: bool = True) -> str:
    """Return the description on all ranks, each on a node, after a sum of device arrays by what was chosen."""

    def fn(comm: Any) -> str:
        if processes:
            comm = ProcessLike(comm)
        with cupy.cuda.Stream(non_blocking=True):
            backend = DeviceBackend(cupy, comm.rank)
            transport = open_transport(comm, backend, options, nodes[comm.rank])
            x = cupy.asarray(values((5, 3), comm.rank)) + 1
            total = transport.comm.start_all_reduce(x).wait().get()
        expected = comm.size + sum(values((5, 3), rank) for rank in range(comm.size))
        np.testing.assert_array_equal(total, expected)
        if processes:
            comm.thread.close()
        return transport.description

    descriptions = run_ranks(len(nodes), fn)
    assert set(descriptions) == {descriptions[0]}
    assert RACES == []
    return descriptions[0]


def test_auto_takes_nccl_where_it_is_there(cupy: Any) -> None:
    cupy.cuda.nccl.available = True
    assert chosen(cupy, ParallelOptions()) == "nccl (auto; NCCL 2.23.4)"
    assert chosen(cupy, ParallelOptions(transport="nccl")) == "nccl (as asked; NCCL 2.23.4)"


def test_auto_takes_mpi_where_it_takes_device_arrays(cupy: Any) -> None:
    yes = "--gpu-aware-mpi says yes, and a device array arrived"
    assert chosen(cupy, ParallelOptions(gpu_aware_mpi="yes")) == f"mpi (auto: {NO_NCCL}; {yes})"
    assert chosen(cupy, ParallelOptions(transport="mpi", gpu_aware_mpi="yes")) == f"mpi (as asked; {yes})"


def test_auto_takes_staging_else(cupy: Any) -> None:
    options = ParallelOptions(gpu_aware_mpi="no", staging_chunk_mib=0.5)
    why = f"{NO_NCCL}; not by MPI: --gpu-aware-mpi says no"
    assert chosen(cupy, options) == f"staged (auto: {why}; chunks of 0.5 MiB)"
    assert chosen(cupy, ParallelOptions(transport="staged")) == "staged (as asked; chunks of 4 MiB)"
    assert CHUNK_BYTES == 4 * 2**20


def test_virtual_ranks_are_staged(cupy: Any) -> None:
    expected = "staged (auto: virtual ranks share a GPU; chunks of 4 MiB)"
    assert chosen(cupy, ParallelOptions(), processes=False) == expected


@pytest.mark.parametrize(
    ("options", "processes", "message"),
    [
        (ParallelOptions(transport="nccl"), True, "--transport nccl cannot be had: CuPy finds no NCCL library"),
        (
            ParallelOptions(transport="mpi", gpu_aware_mpi="no"),
            True,
            "--gpu-aware-mpi says no; choose",
        ),
        (ParallelOptions(transport="nccl"), False, "virtual ranks are threads; choose staged"),
        (ParallelOptions(transport="mpi"), False, "virtual ranks are threads; choose staged"),
    ],
)
def test_what_cannot_be_had_is_refused(cupy: Any, options: ParallelOptions, processes: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(cupy, options, processes=processes)


def test_sums_by_way_of_the_nodes_are_told(cupy: Any) -> None:
    staged = "staged (as asked; chunks of 4 MiB); sums "
    for nodes, node_sums, words in [
        ("abab", "leaders", "by the leaders of 2 nodes"),
        ("abab", "sharded", "sharded over 2 nodes"),
        ("abb", "sharded", "flat, as nodes have 1 or 2 ranks"),
        ("aa", "leaders", "flat, as all ranks are on one node"),
    ]:
        options = ParallelOptions(transport="staged", node_sums=node_sums)  # type: ignore[arg-type]
        assert chosen(cupy, options, nodes) == staged + words
    options = ParallelOptions(gpu_aware_mpi="yes", node_sums="leaders")
    assert chosen(cupy, options, "abab").endswith("a device array arrived); sums by the leaders of 2 nodes")
    cupy.cuda.nccl.available = True
    expected = "sums by the leaders of 2 nodes for arrays on the host, and NCCL's own for the GPU's"
    assert chosen(cupy, ParallelOptions(node_sums="leaders"), "abab") == f"nccl (auto; NCCL 2.23.4); {expected}"


def test_shards_of_device_arrays_are_not_given_to_mpi(cupy: Any) -> None:
    options = ParallelOptions(gpu_aware_mpi="yes", node_sums="sharded")
    with pytest.raises(ValueError, match="choose leaders, or --transport staged"):
        chosen(cupy, options, "abab")


def on_the_host(options: ParallelOptions, nodes: str = "aa") -> str:
    def fn(comm: Communicator) -> str:
        return open_transport(comm, ReferenceBackend(), options, nodes[comm.rank]).description

    return run_ranks(len(nodes), fn)[0]


def test_arrays_on_the_host_need_no_choice() -> None:
    for transport in ("auto", "mpi"):
        options = ParallelOptions(transport=transport)  # type: ignore[arg-type]
        assert on_the_host(options) == "memory of the process (arrays are on the host)"
    comm = SerialCommunicator()
    transport = open_transport(comm, ReferenceBackend(), ParallelOptions())
    assert transport.comm is comm
    assert transport.description == "none (one rank)"
    options = ParallelOptions(node_sums="sharded")
    assert on_the_host(options, "abba").endswith("(arrays are on the host); sums sharded over 2 nodes")


@pytest.mark.parametrize("transport", ["staged", "nccl"])
def test_a_transport_of_gpus_is_refused_for_arrays_on_the_host(transport: Any) -> None:
    with pytest.raises(ValueError, match=f"--transport {transport} moves arrays of a GPU, and backend 'reference'"):
        on_the_host(ParallelOptions(transport=transport))


def test_one_gpu_needs_no_transport(cupy: Any) -> None:
    transport = open_transport(SerialCommunicator(), DeviceBackend(cupy, 0), ParallelOptions())
    assert transport.description == "none (one rank)"
    x = cupy.asarray(values((5, 3), 0))
    np.testing.assert_array_equal(transport.comm.start_all_reduce(x).wait().get(), values((5, 3), 0))


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_mpi(mpirun: Callable[..., Result], value: str) -> None:
    """The libraries of the tests are not CUDA-aware, but take the memory of the stand-in, which is the host's."""
    result = mpirun(2, ["-m", "tests.comm.run_transport"], env={VARIABLE: value}).check()
    [mpich_or_open_mpi] = {line for line in result.stdout.splitlines() if line.startswith("support: ")}
    expected = {
        "": ("support: False MPIX_GPU_query_support says no", "support: False MPIX_Query_cuda_support says no"),
        "0": ("support: False OWT_MPI_GPU_AWARE says no",),
        "1": ("support: True OWT_MPI_GPU_AWARE says yes, and a device array arrived",),
    }
    assert mpich_or_open_mpi in expected[value]
    transport = "mpi (auto: " if value == "1" else "staged (auto: "
    assert result.stdout.count(f"transport: {transport}no NCCL: ") == 2
    assert result.stdout.count("sum: 3.0 races: 0") == 2
