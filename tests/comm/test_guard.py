"""A failing rank never hangs the others: every way to fail ends the job with a code and says who failed.

The helper's time limit is the detector of hangs.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from owt_mpi.comm import guard
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import CollectiveExit, agree
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from tests.mpi_run import REPO_ROOT, Result, ends, find_mpirun, is_open_mpi

LIMIT_S = 10
SCRIPT = "tests/comm/failing_rank.py"
Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [
        ("raises", 1, "rank 1 of 3 on host HOST:\nTraceback"),
        ("raises_while_its_collective_is_under_way", 1, "rank 1 of 3 on host HOST:\nTraceback"),
        ("raises_in_a_thread", 1, "rank 1 of 3 on host HOST:\nin thread 'loader'\nTraceback"),
        ("calls_sys_exit", 5, "rank 1 of 3 on host HOST: exit with code 5\n"),
        ("returns_a_code", 5, "rank 1 of 3 on host HOST: exit with code 5\n"),
        ("raises_what_is_for_people", 3, "rank 1 of 3 on host HOST: error: shard 7 was cut; copy it again\n"),
        ("is_interrupted", 130, "rank 1 of 3 on host HOST: interrupted\n"),
        ("fails_alone_with_a_collective_exit", 2, "error: no such preset"),
    ],
)
def test_a_failing_rank_ends_the_job_with_its_code_and_name(mpirun: Run, case: str, code: int, said: str) -> None:
    result = mpirun(3, [SCRIPT, case], LIMIT_S)
    assert result.returncode == code, result.stderr
    assert result.rank_stderr[1].startswith("rank 1 of 3 on host ")
    assert said.replace("HOST", os.uname().nodename) in result.rank_stderr[1]
    assert result.rank_stderr[0] == result.rank_stderr[2] == ""
    if "Traceback" in said:
        assert result.rank_stderr[1].endswith("KeyError: 'shard 7'\n")
        assert result.rank_stderr[1].count("Traceback") == 1


def test_a_rank_that_aborts_lets_the_launcher_read_its_message_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPICH's forgets what it has not read."""
    monkeypatch.setenv("PMI_RANK", "1")
    reading, writing = os.pipe()
    os.write(writing, b"rank 1: the fan has stopped\n")
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            os.read(reading, 100)

    monkeypatch.setattr(guard.time, "sleep", sleep)
    guard._let_launcher_read([writing])
    assert len(slept) == 3
    os.write(writing, b"nobody reads this")
    clock = iter(range(100))
    monkeypatch.setattr(guard.time, "monotonic", lambda: float(next(clock)))
    guard._let_launcher_read([writing])
    assert len(slept) < 6, "it does not wait for ever"
    os.close(writing)
    os.close(reading)


def test_a_rank_that_raises_before_mpi_ends_the_job(mpirun: Run) -> None:
    result = mpirun(3, [SCRIPT, "before_mpi_one_raises"], LIMIT_S)
    assert result.returncode == 1
    assert result.rank_stderr[1].startswith(f"rank 1 on host {os.uname().nodename}:\nTraceback")
    assert result.rank_stderr[1].endswith("KeyError: 'shard 7'\n")


def test_a_killed_rank_ends_the_job(mpirun: Run) -> None:
    result = mpirun(3, [SCRIPT, "is_killed"], LIMIT_S)
    assert result.returncode != 0
    assert "Killed" in result.launcher_output


@pytest.mark.parametrize(("case", "code"), [("all_exit", 2), ("all_exit", 3), ("before_mpi_all_exit", 2)])
def test_a_collective_exit_gives_its_code_and_one_line(mpirun: Run, case: str, code: int) -> None:
    result = mpirun(4, [SCRIPT, case, str(code)], LIMIT_S)
    assert result.returncode == code, result.stderr
    assert result.rank_stderr == ("error: 'batch' must be positive\n", "", "", "")
    assert result.rank_stdout == (("output before the end\n",) if case == "all_exit" else ("",)) * 4
    launcher = find_mpirun()
    assert launcher is not None
    if not is_open_mpi(launcher):  # whose mpirun remarks on every code but 0, and cannot be told not to
        assert result.launcher_output == ""


def test_a_rank_that_stops_when_all_is_done_is_not_waited_for(mpirun: Run) -> None:
    result = mpirun(3, [SCRIPT, "stops_when_all_is_done"], 3 * LIMIT_S)
    assert result.returncode == 1
    assert "all is done, but a rank has not come to its end within 2 s of this one" in result.stderr
    assert result.rank_stderr[1] == ""


def test_a_rank_that_stops_as_it_ends_the_job_for_all_is_not_waited_for(mpirun: Run) -> None:
    launcher = find_mpirun()
    assert launcher is not None
    if is_open_mpi(launcher):
        pytest.skip("with Open MPI each rank ends by itself")
    result = mpirun(3, [SCRIPT, "stops_as_all_exit", "3"], 3 * LIMIT_S)
    assert result.returncode == 3
    assert result.rank_stderr[0] == "error: 'batch' must be positive\n"
    assert "(said for rank 0, which has not ended the job)" in result.stderr


def test_ranks_agree_to_stop_when_one_has_an_error(mpirun: Run) -> None:
    result = mpirun(3, [SCRIPT, "agrees"], LIMIT_S)
    assert result.returncode == 3
    host = os.uname().nodename
    line = f"error: rank 1 of 3 on host {host}: OSError: cannot open shard 1 (1 more ranks failed)\n"
    assert result.rank_stderr == (line, "", "")


def test_sigterm_to_the_launcher_leaves_no_rank(mpirun: Run, tmp_path: Path) -> None:
    result = mpirun(2, [SCRIPT, "loses_its_launcher", str(tmp_path)], LIMIT_S)
    assert result.returncode != 0
    assert_gone(tmp_path, 2)


def test_a_kill_of_the_launchers_part_on_a_host_leaves_no_rank(mpirun: Run, tmp_path: Path) -> None:
    """MPICH's mpirun alone would wait for ever, and its ranks go on."""
    result = mpirun(2, [SCRIPT, "loses_its_parent", str(tmp_path)], LIMIT_S)
    assert result.returncode != 0
    assert "the launcher's on this host) has ended" in result.stderr
    assert_gone(tmp_path, 2)


def test_the_helper_ends_a_hanging_job_and_shows_its_log(mpirun: Run, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"hangs after 3 s(.|\n)*rank 1\nwaits for nothing"):
        mpirun(2, [SCRIPT, "hangs", str(tmp_path)], timeout_s=3)
    assert_gone(tmp_path, 2)


def assert_gone(directory: Path, num_ranks: int) -> None:
    """Assert that the processes whose ids the ranks wrote into `directory` end."""
    for rank in range(num_ranks):
        assert ends(int((directory / str(rank)).read_text()), LIMIT_S), f"rank {rank} goes on"


@pytest.mark.parametrize(
    ("statement", "code", "stderr_end"),
    [
        ("return 0", 0, ""),
        ("raise SystemExit(5)", 5, ""),
        ("raise SystemExit('stop')", 1, "stop\n"),
        ("raise CollectiveExit(3, 'error: no data')", 3, "error: no data\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise KeyError('shard 7')", 1, "KeyError: 'shard 7'\n"),
        (
            "e = ValueError('bad'); e.exit_code = 3; e.__notes__ = ['raised on rank 1']; raise e",
            3,
            "error: bad; raised on rank 1\n",
        ),
        ("t = threading.Thread(target=[].pop); t.start(); t.join(); return 0", 1, "IndexError: pop from empty list\n"),
    ],
)
def test_without_mpi_the_codes_are_the_same(statement: str, code: int, stderr_end: str) -> None:
    program = (
        "import threading\nfrom owt_mpi.comm.guard import CollectiveExit, run_command\n"
        f"def main():\n    {statement}\nrun_command(main)"
    )
    launchers = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
    env = {name: value for name, value in os.environ.items() if name not in launchers}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO_ROOT, env=env, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == code
    assert done.stderr.endswith(stderr_end)
    assert bool(done.stderr) == bool(stderr_end)
    assert "rank 0" not in done.stderr


def test_agree_raises_on_all_ranks_alike() -> None:
    def fn(comm: Communicator) -> tuple[object, str]:
        with pytest.raises(CollectiveExit) as caught:
            agree(comm, ValueError("no labels") if comm.rank == 2 else None, code=2)
        return caught.value.code, str(caught.value)

    ends = run_ranks(3, fn)
    assert ends == [(2, f"error: rank 2 of 3 on host {os.uname().nodename}: no labels")] * 3
    agree(SerialCommunicator(), None)


def test_an_error_that_all_ranks_have_alike_names_no_rank() -> None:
    def fn(comm: Communicator) -> str:
        with pytest.raises(CollectiveExit) as caught:
            agree(comm, ValueError("--lr is -1, but must be 0 or more"))
        return str(caught.value)

    assert run_ranks(2, fn) == ["error: --lr is -1, but must be 0 or more"] * 2


def test_what_an_error_quotes_stays_in_one_line() -> None:
    with pytest.raises(CollectiveExit) as ended:
        agree(SerialCommunicator(), ValueError("there is no file a\n\x1b[2J" + "b" * 10_000))
    assert ended.value.message.startswith("error: there is no file a\\n\\x1b[2Jbbb")
    assert len(ended.value.message) < 2000
