"""Every kernel is accepted by NVIDIA's compiler for every GPU since Volta, and all work in registers."""

import re

import pytest

from benchmarks.kernel_table import ARCHITECTURES, FILES, TRAFFIC, VARIANTS, Compiled, compile_file, markdown
from owt_mpi.backends.cuda_launch import kernel_source


def names(file: str) -> list[str]:
    return re.findall(r"extern \"C\" __global__ void __launch_bounds__\(MAX_THREADS, 1\)\n(\w+)\(", kernel_source(file))


@pytest.fixture
def nvrtc():
    """NVRTC of the version whose package is installed, or skip the test."""
    library = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed")
    try:
        supported = library.getSupportedArchs()
    except RuntimeError as error:
        pytest.skip(f"NVRTC does not load: {error}")
    if not set(ARCHITECTURES) <= set(supported):
        pytest.skip(f"NVRTC {library.getVersion()} does not compile for all of {ARCHITECTURES}; 12.9 does")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("architecture", "variant"), list(zip(ARCHITECTURES, VARIANTS * 2, strict=True)))
def test_compiles_without_spilling(nvrtc, architecture, variant, file):
    rows = compile_file(file, architecture, *variant)
    assert sorted(row.kernel for row in rows) == sorted(names(file))
    for row in rows:
        assert row.architecture == f"sm_{architecture}"
        assert 0 < row.registers <= 128
        # nor is an array kept in memory, as one is whose loops are not unrolled
        assert row.spill_store_bytes == row.spill_load_bytes == row.stack_bytes == 0, row


def test_a_pack_is_read_and_written_at_once(nvrtc):
    from cupy_backends.cuda.libs import nvrtc as library

    for stored, lanes in VARIANTS[:3]:
        program = library.createProgram(kernel_source("activation"), "activation.cu", [], [])
        library.compileProgram(program, ("-arch=compute_80", f"-DSTORED={stored}", f"-DLANES={lanes}"))
        text = library.getPTX(program)
        body = (text.decode() if isinstance(text, bytes) else text).split(".entry bias_relu")[1].split(".entry")[0]
        assert len(re.findall(r"ld\.global(?:\.nc)?\.v4\.[fbu]32", body)) == 2, body
        assert len(re.findall(r"st\.global\.v4\.[fbu]32", body)) == 1, body
        library.destroyProgram(program)


def test_code_that_is_refused_is_shown_with_the_compilers_words(nvrtc):
    with pytest.raises(RuntimeError, match=r"(?s)pool.cu, -arch=sm_80.*identifier \"double_float\" is undefined"):
        compile_file("pool", 80, "double_float", 1)


def test_the_table_has_a_row_for_each_kernel():
    every = [name for file in FILES for name in names(file)]
    assert sorted(TRAFFIC) == sorted(every)
    row = Compiled("lrn", "sm_70", "float", 4, 31, 0, 0, 0, 0)
    others = [Compiled(name, "sm_90", stored, 4, 40, 0, 0, 0, 0) for name in every for stored in ("float", "float16")]
    assert "| lrn | x | 8 | 8 | 4 | 4 |  | 31-40 | 40-40 | 0 |" in markdown([row, *others]).splitlines()
