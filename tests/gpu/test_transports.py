"""Every transport of arrays between GPUs: ranks that are threads share one, processes need one each."""

from collections.abc import Callable

import numpy as np
import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.comm.transport import open_transport
from owt_mpi.parallel_options import ParallelOptions
from tests.comm.checks import CHECKS
from tests.comm.on_device import OnDevice
from tests.mpi_run import Result

pytestmark = pytest.mark.gpu

SMALL_CHUNKS = ParallelOptions(staging_chunk_mib=40 / 2**20)  # arrays of the checks are cut into many, with tails


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_threads_exchange_through_pinned_memory(gpu, check, num_ranks):
    def run(comm):
        gpu.from_host(np.zeros(1))  # from now on the thread's work goes to the backend's stream
        check(OnDevice(open_transport(comm, gpu, SMALL_CHUNKS).comm, gpu.xp))

    run_ranks(num_ranks, run)


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("transport", ["auto", "staged", "mpi", "nccl"])
def test_processes_exchange_by_every_transport(gpu, mpirun: Callable[..., Result], transport, num_ranks):
    num_gpus = gpu.xp.cuda.runtime.getDeviceCount()
    if num_gpus < num_ranks:
        pytest.skip(f"{num_ranks} processes need as many GPUs, and there are {num_gpus}")
    result = mpirun(num_ranks, ["-m", "tests.gpu.run_transport", transport], timeout_s=200).check()
    if result.stdout.startswith("cannot be had"):
        assert transport in ("mpi", "nccl")
        pytest.skip(result.rank_stdout[0].strip())
    for stdout in result.rank_stdout:
        assert set(stdout.split()) == {check.__name__ for check in CHECKS}
