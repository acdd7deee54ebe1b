"""`python -m owt_mpi.env`: all that can be told is told, whatever is missing, hangs or crashes, and no secrets are."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from owt_mpi import env
from owt_mpi.backends.at_hand import gpus
from owt_mpi.environment import launcher, machine, software
from owt_mpi.environment.probes import ask
from tests.cuda_backend import cuda_backend
from tests.mpi_run import REPO_ROOT, find_mpirun

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "hush-1", "OWT_MPI_API_KEY": "hush-2", "NCCL_AUTH": "hush-3", "SLURM_JWT": "hush-4",
    "MY_OWN": "hush-5", "UCX_TOKEN": "hush-6", "PMIX_SERVER_URI": "hush-7",
}  # fmt: skip
PYTHON = sys.executable


def test_the_command_tells_all_sections_and_no_secrets(tmp_path):
    file = tmp_path / "env.json"
    done = subprocess.run(
        [PYTHON, "-m", "owt_mpi.env", "--json", str(file)], cwd=REPO_ROOT, capture_output=True, text=True, check=False,
        timeout=120, env={**os.environ, **SECRETS, "NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "17"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    facts = json.loads(file.read_text())
    assert list(facts) == list(env.SECTIONS)
    assert done.stdout == env.text_of(facts)
    assert "hush" not in done.stdout + file.read_text()
    assert facts["variables"]["NCCL_DEBUG"] == "INFO"
    assert facts["SLURM"] == {"SLURM_JOB_ID": "17"}
    assert facts["program"]["owt_mpi"] == metadata.version("owt_mpi")
    assert facts["packages"]["numpy"] == metadata.version("numpy")
    assert facts["hdf5"]["HDF5"][0].isdigit()
    assert facts["blas"]
    assert "cannot be told" not in done.stdout
    if find_mpirun() is not None:
        assert facts["mpi"]["MPI"].startswith(("MPICH", "Open MPI"))
        assert facts["mpi"]["arrays of a GPU"].startswith(("yes: ", "no: "))
        assert "libmpi" in facts["mpi"]["library"]
        assert facts["launcher"]["mpirun"].startswith(find_mpirun())


def test_ranks_but_the_first_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["env"])
    monkeypatch.setenv("PMI_RANK", "1")
    assert env.main() == 0
    assert capsys.readouterr().out == ""


def test_what_fails_is_told_in_its_place(monkeypatch):
    def fails():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(env, "SECTIONS", {"broken": fails, "empty": dict, "sound": lambda: {"a": "b\n c"}})
    facts = env.environment()
    assert facts == {"broken": {"cannot be told": "RuntimeError: no such thing"}, "empty": {}, "sound": {"a": "b\n c"}}
    assert env.text_of(facts) == "broken\n  cannot be told: RuntimeError: no such thing\nsound\n  a: b c\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "ended by signal 6"),
        ("raise OSError('libfoo.so is missing')", "OSError: libfoo.so is missing"),
        ("print('owt_mpi says: [1]')", "ended with code 0"),
        ("print('owt_mpi says: {')", "ended with code 0"),
        ("import sys; sys.exit(3)", "ended with code 3"),
    ],
)
def test_a_library_that_crashes_is_told_of(code, said):
    assert ask("mpi", [PYTHON, "-c", code]) == {"mpi": said}


def test_a_library_that_hangs_is_told_of():
    command = [PYTHON, "-c", "import signal; signal.pause()"]
    assert ask("mpi", command, seconds=0.5) == {"mpi": "gave no answer within 0.5 seconds"}


def test_a_library_that_talks_does_not_hide_the_answer():
    code = "print('WARNING: {}'); print('owt_mpi says: {\"MPI\": 5}'); print('bye')"
    assert ask("mpi", [PYTHON, "-c", code]) == {"MPI": "5"}
    assert ask("mpi", ["/no/such/python"])["mpi"].startswith("cannot be asked: ")


def test_a_library_is_asked_as_if_no_launcher_had_started_this_process(monkeypatch):
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "HYDI_CONTROL_FD"):
        monkeypatch.setenv(name, "a launcher's")
    code = """import os, json
left = {name: value for name, value in os.environ.items() if value == "a launcher's"}
print('owt_mpi says: ' + json.dumps(left))"""
    assert ask("mpi", [PYTHON, "-c", code]) == {}


def test_only_variables_that_libraries_heed_are_told():
    environ = {**SECRETS, "OMP_NUM_THREADS": "2", "MPIR_CVAR_X": "1", "UCX_TLS": "rc", "LD_LIBRARY_PATH": "x" * 1000}
    told = launcher.variables(environ)
    assert list(told) == ["LD_LIBRARY_PATH", "MPIR_CVAR_X", "OMP_NUM_THREADS", "UCX_TLS"]
    assert told["LD_LIBRARY_PATH"] == "x" * 300 + "..."
    assert launcher.slurm({"SLURM_JOB_ID": "1", "SLURM_JWT": "x", "SLURM_NTASKS": "4"}) == {
        "SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"
    }  # fmt: skip


def test_no_mpirun_is_told_of(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launcher.mpirun() == {"mpirun": "not found"}


@pytest.mark.parametrize(
    ("content", "name", "features"),
    [
        (
            "model name : AMD EPYC\nflags : fpu avx2 fma amx_bf16 hypervisor\n",
            "AMD EPYC",
            "avx2 fma amx_bf16",
        ),
        ("processor : 0\nFeatures : fp asimd sve bf16\n", "", "asimd sve bf16"),
        (None, "", "not known"),
    ],
)
def test_processors_of_any_kind_are_told(tmp_path, content, name, features):
    file = tmp_path / "cpuinfo"
    if content is not None:
        file.write_text(content)
    facts = machine.processor(file)
    assert facts["processor"] if not name else facts["processor"] == name
    assert facts["features"] == features
    assert facts["cores"].endswith(" in the affinity")


def test_numbers_of_cores_are_short():
    assert [machine._ranges(cores) for cores in ({0, 1, 2, 3, 8}, {5}, {2, 4, 5})] == ["0-3,8", "5", "2,4-5"]


def test_what_is_left_in_shared_memory_is_told(tmp_path):
    (tmp_path / "mpich_shm_1").write_bytes(bytes(5_000_000))
    for number in range(12):
        (tmp_path / f"sem.{number}").write_bytes(b"x" * 4096)
    stamp = (tmp_path / "mpich_shm_1").stat().st_mtime + 7200
    facts = machine.shared_memory(tmp_path, now=stamp)
    assert facts["files of this user"].startswith("13, 5.")
    assert facts["mpich_shm_1"].endswith(" MB, written 2.0 hours ago")
    assert len(facts) == 2 + 10
    assert machine.shared_memory(tmp_path / "nowhere") == {
        f"{tmp_path}/nowhere": "cannot be looked at: No such file or directory"
    }


def test_extras_that_are_missing_are_named(monkeypatch):
    requires = [
        "numpy>=1.26", 'Some_Library.Of>=3; extra == "gpu"', "h5py ; extra == 'cpu'", 'none-such; extra == "gpu"',
        "pillow[x]>=1 ; (python_version < '3') and extra == 'cpu'",
    ]  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    assert software.extras() == {"gpu": "missing: some-library-of, none-such", "cpu": "installed"}
    assert software.package_versions()["none-such"] == "not installed"


def test_a_program_that_was_not_installed_has_no_extras(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert software.extras() == {}


def test_what_cupy_sees_is_told():
    with cuda_backend() as backend:
        facts = gpus()
    assert facts["GPU 0"].startswith(f"{backend.device_name}, compute capability ")
    assert "CuPy runs on CUDA" in facts["CuPy"]
    assert facts["cuDNN"]
