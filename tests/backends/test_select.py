"""What is asked for is what one gets, or an error with the way out; auto says what it took."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.random import mtrand

from owt_mpi.backends import cuda
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.onednn_api import LIBRARY_VARIABLE, find_library
from owt_mpi.backends.precision import HALF_DTYPES
from owt_mpi.backends.select import select_backend
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import Machine
from tests.mpi_run import REPO_ROOT

needs_bfloat16 = pytest.mark.skipif(len(HALF_DTYPES) == 1, reason="ml_dtypes is not installed")


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def without_onednn(monkeypatch, tmp_path):
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lib/python3/site-packages")])
    return tmp_path


def test_auto_takes_onednn_for_float32(onednn):
    backend, reason = select_backend("auto", np.float32)
    assert backend.name == "onednn"
    assert reason.startswith("onednn (auto: no CUDA, as CuPy is not installed; ")
    assert f"libdnnl {onednn.library.version} from {onednn.library.path}, {onednn.library.isa}" in reason


def test_auto_takes_the_reference_for_float64():
    backend, reason = select_backend("auto", "float64")
    assert (backend.name, reason) == ("reference", "reference (auto: only NumPy computes in float64)")


def test_auto_takes_the_reference_for_halves_without_a_gpu():
    backend, reason = select_backend("auto", "float16")
    assert backend.name == "reference"
    assert np.float16 in backend.dtypes
    assert reason == (
        "reference (auto: no CUDA, as CuPy is not installed, and of CPU backends only NumPy computes in float16)"
    )


@needs_bfloat16
def test_auto_takes_onednn_for_bfloat16_where_the_processor_multiplies_it(onednn):
    if not onednn.library.multiplies_bfloat16:
        pytest.skip(f"this processor ({onednn.library.isa}) does not")
    backend, reason = select_backend("auto", HALF_DTYPES[1])
    assert (backend.name, backend.dtypes) == ("onednn", HALF_DTYPES[1:])
    assert reason.endswith("AVX-512 with bfloat16)")


@needs_bfloat16
@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("auto", "reference (auto: on the host; slow, as this processor (AVX2) does not multiply bfloat16 numbers; "),
        ("onednn", "'onednn' cannot compute in bfloat16: this processor (AVX2) does not multiply bfloat16 numbers; "),
    ],
)
def test_bfloat16_is_not_multiplied_without_instructions_for_it(onednn, choice, said):
    code = (
        "import numpy as np\n"
        "from owt_mpi.backends.precision import HALF_DTYPES\n"
        "from owt_mpi.backends.select import select_backend\n"
        f"print(select_backend({choice!r}, HALF_DTYPES[1], on_host=True)[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
    )  # fmt: skip
    assert said in done.stdout + done.stderr
    assert done.returncode == (0 if choice == "auto" else 1)


def test_a_gpu_computes_in_halves():
    with cuda_backend():
        assert select_backend("auto", np.float16)[0].name == "cuda"


@pytest.mark.parametrize("choice", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("capability", "dtype", "tf32", "message"),
    [
        ("70", HALF_DTYPES[-1], False, "'bf16' needs a GPU of compute capability 8.0 .* has 7.0; use fp32 or fp16"),
        ("75", np.float32, True, "'tf32' needs a GPU of compute capability 8.0 or higher, this one has 7.5"),
        ("61", np.float16, False, "'fp16' needs a GPU of compute capability 7.0 .* has 6.1; use fp32"),
    ],
)
def test_a_precision_that_the_gpu_is_too_old_for_is_refused_at_the_start(choice, capability, dtype, tf32, message):
    with cuda_backend():
        Machine.compute_capability = capability
        with pytest.raises(ValueError, match=message):
            select_backend(choice, dtype, tf32=tf32)
        assert select_backend(choice, np.float32)[0].name == "cuda"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("auto", "--precision tf32 needs a GPU, but CuPy is not installed.*; or use --precision fp32"),
        ("onednn", "'onednn' has no TF32, .* use --precision fp32, or --backend cuda"),
        ("reference", "'reference' has no TF32"),
    ],
)
def test_tf32_is_refused_without_a_gpu(choice, message):
    with pytest.raises(ValueError, match=message):
        select_backend(choice, np.float32, tf32=True)


def test_a_gpu_goes_first_and_is_described():
    with cuda_backend():
        for choice, why in (("auto", "auto: there is a GPU"), ("cuda", "as asked")):
            backend, reason = select_backend(choice, np.float32, local_rank=1)
            assert (backend.name, backend.device) == ("cuda", "0000:02:00.0 02")
            assert reason.startswith(f"cuda ({why}; Pretended GPU, device 1, ")
            assert "convolutions by im2col and cuBLAS, as the package nvidia-cudnn-frontend is not installed" in reason
        assert select_backend("auto", np.float64)[0].name == "reference"
        with pytest.raises(ValueError, match="none is left for rank 2"):
            select_backend("auto", np.float32, local_rank=2)


def test_options_for_cudnn_reach_it_and_are_said_to_be_idle_without_a_gpu(monkeypatch):
    options, given = CudnnOptions(deterministic=True, workspace_bytes=3 << 20), []

    class Recorder:
        description, workspace_bytes = "cuDNN, deterministic", 3 << 20

        def __init__(self, *needed, **options):
            given.append(options)

    with cuda_backend() as backend:
        monkeypatch.setattr(backend.xp.cuda, "alloc", None, raising=False)
        monkeypatch.setattr(cuda, "find_cudnn", lambda: None)
        monkeypatch.setattr(cuda, "Cudnn", Recorder)
        reason = select_backend("cuda", np.float32, cudnn=options)[1]
    assert given[-1] == {"tf32": False, "autotune": False, "deterministic": True, "workspace_bytes": 3 << 20}
    assert reason.endswith("convolutions by cuDNN, deterministic)")
    reason = select_backend("reference", np.float32, cudnn=options)[1]
    assert reason.endswith("; the options for cuDNN change nothing without a GPU")


def test_convolutions_without_cudnn_can_be_asked_for(monkeypatch):
    with cuda_backend():
        monkeypatch.setattr(cuda, "find_cudnn", lambda: None)
        assert CudaBackend(cudnn=None).description.endswith("convolutions by im2col and cuBLAS, as asked")


def test_auto_goes_on_without_a_gpu(onednn):
    with cuda_backend():
        Machine.driver = 0
        backend, reason = select_backend("auto", np.float32)
    assert backend.name == "onednn"
    assert "auto: no CUDA, as CuPy 14.2.0 finds no GPU, as there is no NVIDIA driver; libdnnl" in reason


def test_auto_says_where_it_looked_for_onednn_in_vain(without_onednn):
    backend, reason = select_backend("auto", np.float32)
    assert backend.name == "reference"
    assert f"no libdnnl.so.3 in {without_onednn}/lib" in reason
    assert "pip install 'owt_mpi[cpu]'" in reason
    assert "\n" not in reason


def test_what_is_asked_for_is_taken(onednn):
    assert select_backend("onednn", np.float32)[0].name == "onednn"
    assert select_backend("reference", np.float32)[0].name == "reference"
    assert select_backend("reference", np.float32)[1].startswith("reference (as asked; NumPy")


@pytest.mark.parametrize(
    ("choice", "dtype", "message"),
    [
        ("cuda", "float32", "'cuda' cannot be had: CuPy is not installed; get it with pip install 'owt_mpi.gpu.'"),
        ("cuda", "float64", "'cuda' computes in float32, .*not float64; use float32, or backend 'reference'"),
        ("onednn", "float16", "computes in float32.*, not float16; use float32, or backend 'cuda' or 'reference'"),
        ("gpu", "float32", "'gpu' is unknown; choose auto"),
        ("onednn", "float64", "computes in float32.*, not float64; use float32, or backend 'reference'"),
        ("auto", "int32", "dtype int32 is not computed by any backend; use float32"),
    ],
)
def test_refuses_what_cannot_be_had(choice, dtype, message):
    with pytest.raises(ValueError, match=message):
        select_backend(choice, dtype)


def test_onednn_asked_for_but_absent_is_an_error_with_the_way_out(without_onednn):
    with pytest.raises(ValueError, match=r"does not load: no libdnnl.so.3 in .*pip install 'owt_mpi\[cpu\]'"):
        select_backend("onednn", np.float32)


@pytest.mark.parametrize("choice", ["auto", "onednn"])
def test_a_library_that_the_user_names_must_load(monkeypatch, tmp_path, choice):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "absent.so"))
    with pytest.raises(ValueError, match=r"OWT_MPI_LIBDNNL names .*absent.so, which is not a file"):
        select_backend(choice, np.float32)
    (tmp_path / "text.so").write_text("no library\n")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "text.so"))
    with pytest.raises(ValueError, match=r"does not load: .*text.so"):
        select_backend(choice, np.float32)


def test_another_library_is_not_taken_for_onednn(monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, mtrand.__file__)  # some shared library that is always there
    with pytest.raises(ValueError, match="is not oneDNN 3: it has no dnnl_memory_desc_create_with_tag"):
        select_backend("auto", np.float32)


def test_the_library_is_found_beside_the_packages_in_use(without_onednn):
    library = without_onednn / "elsewhere/lib/libdnnl.so.3"
    library.parent.mkdir(parents=True)
    library.touch()
    sys.path.append(str(without_onednn / "elsewhere/lib/python3.11/site-packages"))
    assert find_library() == library
