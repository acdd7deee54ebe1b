"""The page on GPUs shows the memory that is forecast."""

import numpy as np

from owt_mpi.comm.threads import run_ranks
from owt_mpi.memory_forecast import MemoryForecast, MemoryOptions, forecast_memory
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.recompute import recompute_trunk
from owt_mpi.parallel.layout import Plan, make_layout
from tests.mpi_run import REPO_ROOT


def forecast(name: str, recompute: str) -> MemoryForecast:
    model = find_builder(name)(InputSpec(224, 3, 1000))
    if recompute == "trunk":
        model = recompute_trunk(model, 4, "cuda")
    options = MemoryOptions("cuda", device_bytes=80 * 2**30)
    return run_ranks(
        4, lambda comm: forecast_memory(model, make_layout(comm, Plan(4, "c")), 128, np.dtype("f4"), options)
    )[0]


def rows() -> list[str]:
    lines = []
    for name in ("alexnet-owt", "vgg16"):
        for recompute in ("none", "trunk"):
            found = forecast(name, recompute)
            held = sum(found.always[part] for part in ("weights", "gradients", "momentum"))
            kept, under_way = found.parts["activations of the trunk"], found.parts["gradients under way"]
            rest = found.num_bytes - held - kept - under_way - found.always["workspace"]
            cells = (f"{size / 1e6:,.0f}" for size in (held, kept, under_way, rest, found.num_bytes))
            lines.append(f"| {name} | {recompute} | {' | '.join(cells)} | {found.peak} |")
    return lines


def test_the_page_shows_the_memory_that_is_forecast():
    lines = (REPO_ROOT / "docs/gpu.md").read_text(encoding="utf-8").splitlines()
    for row in rows():
        assert row in lines
