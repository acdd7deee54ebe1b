"""cuDNN: the real library for the tests that are marked so, a stand-in for the others."""

import ctypes
import importlib.util
import shutil
import sys

import pytest

from owt_mpi.backends.cudnn import Cudnn
from tests.cudnn.stand_ins import FakeCudnn, FakeCupy


def _why_not() -> str | None:
    if importlib.util.find_spec("cudnn") is None:
        return "nvidia-cudnn-frontend is not installed; it is in the extra `gpu`"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        if shutil.which("gcc") is None:
            return "there is neither an NVIDIA driver nor gcc, to build what stands in for its library"
    return None


@pytest.fixture(scope="session")
def real_cudnn() -> None:
    """Skip the test where the library cannot be loaded."""
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def fake(monkeypatch):
    module = FakeCudnn()
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    return module


@pytest.fixture
def cupy(fake):
    return FakeCupy(fake)


@pytest.fixture
def added():
    """The calls of the kernel that adds bias and ReLU."""
    return []


@pytest.fixture
def make(cupy, added):
    return lambda **options: Cudnn(cupy, cupy.allocate, lambda *arguments: added.append(arguments), **options)
