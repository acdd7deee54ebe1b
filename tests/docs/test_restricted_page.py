"""The page on restricted connectivity tells the bytes that a dry run prints."""

import numpy as np
import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import alexnet_owt
from owt_mpi.nn.restricted import restricted
from owt_mpi.parallel.layout import Plan, SchemeName, make_layout
from owt_mpi.summary import summarise
from tests.mpi_run import REPO_ROOT


def row(crosstalk: float, scheme: SchemeName) -> str:
    """Return the row of the page's table."""
    model = restricted(alexnet_owt(InputSpec(224, 3, 1000)), crosstalk, 8)
    received = []
    for num_ranks in (2, 4, 8):
        plan = Plan(num_ranks, scheme)
        layout = run_ranks(num_ranks, lambda comm, plan=plan: make_layout(comm, plan))[0]
        received.append(sum(summarise(model, layout, 128, np.dtype(np.float32)).received_bytes.values()) / 1e6)
    parameters = sum(p.size for p in model.parameters())
    return f"| {crosstalk:g} | {parameters:,} | `{scheme}` | {' | '.join(f'{mb:.1f}' for mb in received)} |"


@pytest.mark.parametrize("scheme", ["dp", "c", "d"])
@pytest.mark.parametrize("crosstalk", [1.0, 0.5, 0.1, 0.0])
def test_the_page_tells_the_bytes_that_a_dry_run_prints(crosstalk: float, scheme: SchemeName) -> None:
    lines = (REPO_ROOT / "docs/restricted.md").read_text(encoding="utf-8").splitlines()
    assert row(crosstalk, scheme) in lines
