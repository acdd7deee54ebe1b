"""launch/eval.sbatch on a real SLURM: what the ranks of two nodes say of a network is what a plain calculation says."""

from pathlib import Path

from tests.evaluation import conftest as evaluation
from tests.evaluation.test_evaluate import check_equals_plain
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import NODES, mpi_variables

shards, softmax_run = evaluation.shards, evaluation.softmax_run


def test_the_ranks_of_two_nodes_score_a_run(cluster: Cluster, softmax_run: evaluation.Run, tmp_path: Path):
    output = tmp_path / "job.out"
    files = ("--json", tmp_path / "a.json", "--npz", tmp_path / "a.npz", "--worst", "3")
    job = cluster.submit(
        *NODES, "--time=5", f"--output={output}", "launch/eval.sbatch", softmax_run.folder, *files, **mpi_variables()
    )
    assert cluster.wait(job) == "COMPLETED", output.read_text()
    assert "ranks: 4 ranks" in output.read_text()
    check_equals_plain(softmax_run, tmp_path)
