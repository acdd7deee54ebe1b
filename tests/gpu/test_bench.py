"""`python -m owt_mpi.bench --gpu` on a GPU: it runs through, and every operation conforms."""

import pytest

from owt_mpi.backends.cudnn_graphs import MIN_COMPUTE_CAPABILITY
from owt_mpi.bench import BenchOptions, run_bench
from owt_mpi.comm.threads import run_ranks

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", MIN_COMPUTE_CAPABILITY)
def test_the_benchmark_runs_through_and_all_operations_conform(gpu, precision):
    if int(gpu.xp.cuda.Device().compute_capability) < MIN_COMPUTE_CAPABILITY[precision]:
        pytest.skip(f"this GPU does not compute in {precision}")
    size = {"model": "small", "crop": 16, "classes": 8, "batch": 8}
    options = BenchOptions(**size, precision=(precision,), gpu=True, virtual_ranks=2, repeats=2)
    report = run_ranks(2, lambda comm: run_bench(options, comm, 2, "none"))[0]
    assert all(row.passes for row in report.conformance)
    assert all(seconds > 0 for row in report.convolutions for seconds in row.seconds.values())
    assert [row.why_not for row in report.schemes] == [""] * 5
    assert sum(part.flop or 0 for part in report.parts) == report.steps[0].flop
