"""The stand-in for NCCL has the names and arguments of CuPy's, and refuses what NCCL would."""

import subprocess
import sys
from importlib.util import find_spec
from shutil import which

import pytest

from tests.fake_cupy import stand_in
from tests.fake_nccl import module, nccl_stand_in
from tests.fake_nccl.record_signatures import FUNCTIONS, METHODS


@pytest.mark.skipif(find_spec("cupy") is None or which("cc") is None, reason="needs CuPy and a C compiler")
def test_the_recorded_signatures_are_those_of_the_installed_cupy() -> None:
    code = (
        "from tests.fake_nccl.record_signatures import PATH, real_signatures\n"
        "assert real_signatures() == PATH.read_text(encoding='utf-8')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_its_names_are_those_recorded() -> None:
    public = {name for name in vars(module.NcclCommunicator) if not name.startswith("_")}
    assert public == set(METHODS)
    assert set(module.PARAMETERS) == {"NcclCommunicator", *METHODS, *FUNCTIONS}
    with stand_in(), nccl_stand_in() as nccl:
        from cupy.cuda import nccl as imported

        assert imported is nccl
        assert all(hasattr(nccl, name) for name in FUNCTIONS)
    constructor = [name for _, name in module.PARAMETERS["NcclCommunicator"]]
    assert constructor == ["ndev", "commId", "rank", "config=None"]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((1, 1, 3, 7, 0), TypeError, r"takes 6 arguments \(5 given\)"),
        ((1, 1, 3.0, 7, 0, 1), TypeError, "count of allReduce.. is 3.0, not a size_t"),
        ((1, 1, 3, 99, 0, 1), module.NcclError, "datatype 99"),
        ((1, 1, 3, 7, 7, 1), module.NcclError, "op 7"),
        ((1, 1, 3, 7, 0, 1), module.NcclError, "12 bytes at 0x1 are not a device's"),
    ],
)
def test_it_refuses(args: tuple[int, ...], error: type[Exception], message: str) -> None:
    with stand_in(), nccl_stand_in() as nccl:
        alone = nccl.NcclCommunicator(1, nccl.get_unique_id(), 0)
        with pytest.raises(error, match=message):
            alone.allReduce(*args)
