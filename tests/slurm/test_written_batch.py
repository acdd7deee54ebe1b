"""A script of `python -m owt_mpi.slurm` on a real SLURM, which is told nothing besides."""

import subprocess
import sys

from tests.gated import Weights
from tests.mpi_run import REPO_ROOT
from tests.slurm.conftest import Training, mpi_variables


def test_a_script_that_was_written_for_the_cluster_trains(training: Training, undisturbed: Weights):
    training.open_gate()
    script = training.folder / "job.sh"
    told = mpi_variables()
    subprocess.run(
        [
            sys.executable, "-m", "owt_mpi.slurm", "train", "--nodes", "2", "--gpus-per-node", "2",
            "--cores-per-rank", "1", "--mem-per-core", "10M", "--time", "5", "--partition", "debug",
            "--job-name", "written", "--launcher", told.pop("OWT_MPI_SRUN_MPI"), "--venv", told.pop("OWT_MPI_VENV"),
            "--root", str(REPO_ROOT), "--out", str(script), "--", str(training.run_dir), *training.arguments,
        ],
        cwd=training.folder, check=True, timeout=60,
    )  # fmt: skip
    training.job = training.cluster.submit(f"--output={training.folder}/job.out", script, **told)
    assert training.wait() == "COMPLETED", training.output
    facts = training.cluster.facts(training.job)
    assert (facts["JobName"], facts["NodeList"], facts["NumTasks"]) == ("written", "n[1-2]", "4")
    training.assert_weights(undisturbed)
