"""Why cuDNN cannot be used, in words for the user: by a stand-in for it."""

import sys
from types import SimpleNamespace

import pytest

from owt_mpi.backends.cudnn import find_cudnn


def test_cudnn_is_found_where_a_handle_can_be_made(fake):
    assert find_cudnn() is None
    assert fake.handles == {}


@pytest.mark.parametrize(
    ("broken", "error", "reason"),
    [
        ("backend_version", RuntimeError("Unable to find symbol cudnnGetVersion"), "libcudnn.so.9 does not load"),
        ("create_handle", RuntimeError("cudaGetDeviceCount(&count) != cudaSuccess"), "finds no GPU that it can use"),
    ],
)
def test_what_is_missing_is_named_and_not_raised(fake, monkeypatch, broken, error, reason):
    def fail():
        raise error

    monkeypatch.setattr(fake, broken, fail)
    assert reason in find_cudnn()
    assert str(error) in find_cudnn()


def test_cublas_is_looked_for_before_cudnn_ends_the_process_for_want_of_it(fake, monkeypatch):
    def load_nvidia_dynamic_lib(name):
        raise RuntimeError(f"no {name} in site-packages")

    pathfinder = SimpleNamespace(load_nvidia_dynamic_lib=load_nvidia_dynamic_lib)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=pathfinder))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    assert "needs the library libcublasLt, which does not load (no cublasLt in site-packages)" in find_cudnn()


def test_an_absent_or_old_library_is_named(fake, monkeypatch):
    fake.version = 8907
    assert "is of version 8907, but 90000 is the oldest" in find_cudnn()
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert "nvidia-cudnn-frontend is not installed" in find_cudnn()
    assert "pip install 'owt_mpi[gpu]'" in find_cudnn()
