"""The stand-ins of tests/cudnn/stand_ins.py have no name and take no argument that the real modules do not."""

import inspect
import subprocess
import sys

import pytest

from tests.cudnn import stand_ins
from tests.cudnn.stand_ins import FakeCudnn, FakeGraph, FakeTensor

pytestmark = [pytest.mark.cudnn, pytest.mark.usefixtures("real_cudnn")]

ENUMERATIONS = [stand_ins.data_type, stand_ins.heur_mode, stand_ins.numerical_note, stand_ins.behavior_note]


def methods(fake_type):
    return [name for name, _ in inspect.getmembers(fake_type, inspect.isfunction) if not name.startswith("_")]


def documented_arguments(function):
    """pybind11 writes a signature for each overload into the docstring."""
    return [line for line in function.__doc__.splitlines() if line.lstrip("0123456789. ").startswith(function.__name__)]


def test_modules_and_enumerations_have_the_names():
    import cudnn

    assert [name for name in methods(FakeCudnn) if not hasattr(cudnn, name)] == []
    assert hasattr(cudnn, "cudnnGraphNotSupportedError")
    for enumeration in ENUMERATIONS:
        real = getattr(cudnn, enumeration.__name__)
        assert [each.name for each in enumeration if not hasattr(real, each.name)] == []


@pytest.mark.parametrize(("fake_type", "real_name"), [(FakeGraph, "pygraph"), (FakeTensor, "tensor")])
def test_methods_have_the_names_and_arguments(fake_type, real_name):
    import cudnn

    real = getattr(cudnn, real_name)
    names = methods(fake_type)
    assert len(names) > 5
    for name in names:
        function = getattr(real, name)
        arguments = list(inspect.signature(getattr(fake_type, name)).parameters.values())[1:]
        by_keyword = [each.name for each in arguments if each.kind is each.KEYWORD_ONLY]
        if inspect.isfunction(function):
            assert set(by_keyword) <= set(inspect.signature(function).parameters), name
        else:
            overloads = documented_arguments(function)
            assert any(all(f"{each}:" in line for each in by_keyword) for line in overloads), (name, overloads)


def test_running_a_plan_takes_what_it_is_given():
    import cudnn

    real = inspect.signature(cudnn.pygraph.execute_plan_at_index)
    real.bind(None, {1: 512}, 4096, 3, handle=1000)
    assert "set_stream(handle: int, stream: int)" in cudnn.set_stream.__doc__


def test_the_real_cupy_has_what_is_asked_of_it():
    cupy = pytest.importorskip("cupy")
    for path in ("get_current_stream", "Event", "get_elapsed_time", "Device.compute_capability", "runtime.memGetInfo"):
        found = cupy.cuda
        for name in path.split("."):
            found = getattr(found, name)
    assert hasattr(cupy.cuda.Stream, "is_capturing")
    assert cupy.cuda.Stream.null.ptr == 0
    assert all(hasattr(cupy.cuda.Event, name) for name in ("record", "synchronize"))
    assert hasattr(cupy.cuda.MemoryPointer, "ptr")
    assert callable(cupy.cuda.alloc)


def test_on_a_machine_without_a_gpu_the_reason_is_given_and_nothing_raised():
    """In a process of its own, as the library stays loaded."""
    script = "from owt_mpi.backends.cudnn import find_cudnn; print(find_cudnn())"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    lines = answer.stdout.strip().splitlines()
    assert lines[-1] == "None" or "finds no GPU that it can use" in lines[-1]
