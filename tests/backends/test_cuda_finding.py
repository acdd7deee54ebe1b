"""Which GPU a rank takes, and what it is told where it can have none."""

import sys

import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_finding import NoGpuError, choose_device, load_cupy
from tests.fake_cupy import Machine, stand_in


@pytest.mark.parametrize(("local_rank", "num_devices", "expected"), [(0, 4, 0), (3, 4, 3), (0, 1, 0), (3, 1, 0)])
def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_it_sees(local_rank, num_devices, expected):
    assert choose_device(local_rank, num_devices) == expected


def test_a_rank_without_a_gpu_is_told_how_many_there_are():
    with pytest.raises(ValueError, match=r"2 GPUs are visible, and none is left for rank 2 .* at most 2 ranks a node"):
        choose_device(2, 2)


def test_absent_cupy_and_an_absent_gpu_are_named_with_the_way_out(monkeypatch, tmp_path):
    with stand_in():
        Machine.driver = 0
        with pytest.raises(NoGpuError, match=r"finds no GPU, as there is no NVIDIA driver; see whether"):
            load_cupy()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(NoGpuError, match=r"CuPy is not installed; get it with pip install 'owt_mpi\[gpu\]'") as caught:
        load_cupy()
    assert caught.value.reason == "CuPy is not installed"
    (tmp_path / "cupy.py").write_text("import no_such_part_of_it\n")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NoGpuError, match="CuPy does not load: No module named 'no_such_part_of_it'; get it"):
        load_cupy()


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"driver": 11040}, "driver is for CUDA up to 11.4 only, and CuPy 14.2.0 runs on CUDA 12.9; update the driver"),
        (
            {"num_devices": 0},
            "CuPy 14.2.0 finds no GPU .cudaErrorNoDevice: no CUDA.*CUDA_VISIBLE_DEVICES",
        ),
        (
            {"fault": "cudaErrorSystemNotReady: system not yet"},
            "no GPU .cudaErrorSystemNotReady: system",
        ),
    ],
    ids=["old_driver", "no_device", "not_ready"],
)
def test_what_cuda_says_is_passed_on(machine, message):
    with stand_in():
        for name, value in machine.items():
            setattr(Machine, name, value)
        with pytest.raises(NoGpuError, match=message):
            CudaBackend()


def test_an_older_driver_of_the_same_major_version_will_do():
    with stand_in():
        Machine.driver = 12000
        CudaBackend()


def test_a_missing_library_is_named_before_anything_is_computed():
    with stand_in():
        Machine.missing_library = "libnvrtc.so.12"
        with pytest.raises(NoGpuError, match=r"lacks a library of CUDA 12.9 .*libnvrtc.so.12.: No such file\); load"):
            CudaBackend()


def test_a_gpu_that_another_process_has_is_an_error_with_the_way_out(monkeypatch):
    with stand_in() as cupy:

        def busy(*arguments, **options):
            raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy")

        monkeypatch.setattr(cupy.cuda, "Stream", busy)
        with pytest.raises(NoGpuError, match=r"GPU 0 cannot be used \(cudaErrorDevicesUnavailable.* another process"):
            CudaBackend()
