"""The proof where there is a GPU: its arrays on the stand-in for CuPy."""

import pytest

from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.prove import ProveOptions, run_proof
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import RACES

SMALL = {"crop": 8, "classes": 8, "steps": 1, "schemes": ("dp", "b", "d"), "virtual_ranks": 2}


@pytest.fixture(autouse=True)
def a_gpu():
    with cuda_backend():
        yield
        assert RACES == []


def prove(**options):
    run_ranks(2, lambda comm: run_proof(ProveOptions(**(SMALL | options)), comm, 2))


def test_ranks_on_a_gpu_equal_the_serial_program_there(capsys):
    prove(trunk_syncs=("all-reduce",), wire_dtypes=("bfloat16",), fc_crosstalks=(1.0,))
    said = capsys.readouterr().out
    assert "backend: cuda (auto: there is a GPU; " in said
    assert "transport: staged (auto: virtual ranks share a GPU; " in said
    assert "\n6 cases: 6 pass; " in said


def test_sums_in_fixed_order_are_the_hosts(capsys):
    with pytest.raises(CollectiveExit, match="--bitwise makes sums in fixed order on the host alone; choose --backend"):
        prove(bitwise=True, backend="cuda")
    prove(bitwise=True, pieces=2, images_per_rank=2, schemes=("dp",))
    said = capsys.readouterr().out
    assert "(auto: on the host; " in said
    assert "backend: cuda" not in said
