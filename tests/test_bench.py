"""`python -m owt_mpi.bench`: every table has its rows, the file has the same, and wrong options are named."""

import json
import sys

import numpy as np
import pytest

from owt_mpi import bench
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.wrapper import BackendWrapper
from owt_mpi.bench import BenchOptions, run_bench
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.measure.report import Report
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import RACES
from tests.fake_cupy.install import COMPUTE_TYPES

TINY = {"model": "small", "crop": 8, "classes": 8, "batch": 4, "repeats": 1}
CONVOLUTIONS = [
    ("trunk.conv1", "conv2d"),
    ("trunk.conv1", "conv2d_grad_w"),
    ("trunk.conv2", "conv2d"),
    ("trunk.conv2", "conv2d_grad_w"),
    ("trunk.conv2", "conv2d_grad_x"),
]


@pytest.fixture(autouse=True)
def without_pytorch(monkeypatch):
    monkeypatch.setattr(bench, "why_not", lambda model: "left out in tests")


def run(num_ranks=1, **options):
    """Return rank 0's report."""
    chosen = BenchOptions(**TINY | options)
    return run_ranks(num_ranks, lambda comm: run_bench(chosen, comm, num_ranks, "none"))[0]


def check(report, num_ranks, ways, precisions=("fp32",)):
    """Look at the facts, and at each precision's rows by themselves."""
    assert {"device", "backend", "driver", "MPI", "transport", "network"} < report.facts.keys()
    assert report.facts["precision"] == ", ".join(precisions)
    for precision in precisions:
        lists = (report.conformance, report.convolutions, report.steps, report.parts, report.schemes)
        check_rows(
            Report(report.facts, *([r for r in rows if r.precision == precision] for rows in lists)), num_ranks, ways
        )
    assert [row.precision for row in report.conformance] == [name for name in precisions for _ in range(23)]


def check_rows(report, num_ranks, ways):
    assert [(row.layer, row.operation) for row in report.convolutions] == CONVOLUTIONS
    assert all(list(row.seconds) == ways for row in report.convolutions)
    replayed = [("owt_mpi, --cuda-graph", 4)] * ("im2col + cuBLAS" in ways)
    assert [(row.what, row.images) for row in report.steps] == [("owt_mpi", 4), *replayed]
    assert sum(part.flop or 0 for part in report.parts) == report.steps[0].flop
    assert [(row.ranks, row.scheme) for row in report.schemes] == [(num_ranks, s) for s in ("dp", "a", "b", "c", "d")]
    for row in report.schemes:
        assert row.fastest <= row.seconds <= row.slowest
        assert 0 <= row.exposed_seconds <= row.exchange_seconds


def test_all_parts_on_the_reference_backend_are_printed_and_kept(capsys, tmp_path):
    file = tmp_path / "rows.json"
    report = run(2, backend="reference", virtual_ranks=2, json=str(file))
    check(report, 2, ["NumPy's products"])
    printed = capsys.readouterr().out
    for title in ("Conformance", "Convolutions", "Training step, one rank", "step by part", "step by scheme"):
        assert title in printed
    assert "no share of a roof" in printed
    assert "no step of PyTorch's: left out in tests" in printed
    kept = json.loads(file.read_text())
    assert {name: len(rows) for name, rows in kept.items()} == {
        "facts": 11, "conformance": 23, "convolutions": 5, "steps": 1, "parts": len(report.parts), "schemes": 5,
        "remarks": 2,
    }  # fmt: skip
    rows = [row for name, rows in kept.items() if name not in ("facts", "remarks") for row in rows]
    assert {row["precision"] for row in rows} == {"fp32"}


def test_all_parts_on_the_gpu_backend():
    with cuda_backend():
        report = run(2, gpu=True, virtual_ranks=2)
        assert RACES == []
    check(report, 2, ["im2col + cuBLAS"])
    assert report.facts["driver"] == "for CUDA up to 13.0; CuPy runs on CUDA 12.9"
    assert report.facts["transport"].startswith("staged (auto: virtual ranks share a GPU; chunks of 4 MiB)")


def test_halves_are_measured_without_a_gpu_and_are_half_on_the_wire(capsys):
    options = {"virtual_ranks": 2, "precision": ("fp32", "bf16", "fp16"), "markdown": True}
    report = run(2, backend="reference", **options)
    check(report, 2, ["NumPy's products"], options["precision"])
    printed = capsys.readouterr().out
    assert [f"step by part in {precision}," in printed for precision in options["precision"]] == [True] * 3
    assert all(row.passes for row in report.conformance)
    moved = {(row.precision, row.scheme): row.received_bytes for row in report.schemes}
    for precision in ("bf16", "fp16"):
        assert report.facts[f"backend for {precision}"].endswith("float16)")
        assert moved[precision, "dp"] < 0.6 * moved["fp32", "dp"]  # sums of scores stay as they are
    least = {row.precision: row.least_bytes for row in report.steps}
    assert least["fp16"] == least["bf16"] < least["fp32"]


def test_all_precisions_on_the_gpu_backend():
    with cuda_backend():
        report = run(2, gpu=True, virtual_ranks=2, precision=("tf32", "fp32", "bf16", "fp16"))
        assert RACES == []
    check(report, 2, ["im2col + cuBLAS"], ("tf32", "fp32", "bf16", "fp16"))
    assert all(row.passes for row in report.conformance)


def test_products_are_made_in_what_is_measured(monkeypatch):
    made_in = []
    with cuda_backend() as backend:
        monkeypatch.setattr(bench, "compare", lambda *_: made_in.append(dict(COMPUTE_TYPES)) or [])
        run(2, gpu=True, virtual_ranks=2, precision=("fp32", "tf32"), measure=("conformance",))
        run(gpu=True, precision=("tf32", "fp32"), measure=("conformance",))
        assert backend.tf32 is False
    assert [each["float32"] for each in made_in] == ["default", "tf32", "tf32", "default"]


def test_schemes_on_some_of_the_ranks_say_why_one_is_not_possible():
    report = run(3, measure=("schemes",), ranks=(2, 3), backend="reference")
    assert [row.ranks for row in report.schemes] == [2] * 5 + [3] * 5
    assert [row.scheme for row in report.schemes if row.why_not] == ["a", "b", "c", "d"]  # 8 classes on 3 ranks
    assert not report.conformance
    (table,) = report.tables()
    assert len(table.lines) == 6
    assert len(table.notes) == 4


def test_one_rank_has_no_schemes_and_is_told_how_to_get_more(capsys):
    report = run_bench(BenchOptions(**TINY, measure=("schemes",), markdown=True), SerialCommunicator(), 1, "none")
    assert not report.tables()
    printed = capsys.readouterr().out
    assert printed.startswith(f"## {report.facts['device']}\n\n- device: ")
    assert "- schemes: one rank was started; mpirun -n K or --virtual-ranks K has more" in printed


def test_an_operation_that_does_not_conform_ends_with_an_error(monkeypatch, capsys):
    class Wrong(BackendWrapper):
        def relu(self, x, drop=None):
            return super().relu(x) + np.float32(0.1)

    monkeypatch.setattr(bench, "select_backend", lambda *_: (Wrong(ReferenceBackend()), "wrong"))
    with pytest.raises(CollectiveExit, match="relu, relu_grad in fp32: not what the reference computes") as caught:
        run(measure=("conformance",))
    assert caught.value.code == 1
    assert " NO\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "--batch is 0, but must be at least 1"),
        ({"virtual_ranks": -1}, "--virtual-ranks is -1, but must be at least 0"),
        ({"gpu": True, "backend": "onednn"}, "--gpu and --backend onednn contradict one another"),
        ({"ranks": (1, 2)}, "a scheme needs 2 ranks or more"),
        ({"precision": ()}, "--precision is empty; give some of fp32, tf32, bf16, fp16"),
        ({"precision": ("bf16", "bf16")}, "--precision is bf16 bf16; give some of"),
        ({"measure": ()}, "--measure names nothing; give some of conformance, convolutions"),
        ({"cudnn_autotune": True, "deterministic": True}, "exclude one another"),
        ({"workspace_mib": -1.0}, "--workspace-mib is -1.0, but must be"),
        ({"json": "/no/such/folder/file"}, "there is no folder /no/such/folder"),
    ],
)
def test_options_that_are_wrong_by_themselves_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BenchOptions(**options).check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": True}, "backend 'cuda' cannot be had: CuPy is not installed; get it with"),
        ({"backend": "reference", "transport": "nccl"}, "--transport nccl moves arrays of a GPU"),
        ({"precision": ("fp32", "tf32")}, "--precision tf32 needs a GPU"),
        ({"ranks": (4,)}, r"--ranks are \(4,\), but 1 were started; start mpirun -n 4"),
    ],
)
def test_what_cannot_be_had_ends_with_an_error_before_anything_is_measured(monkeypatch, options, message):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(CollectiveExit, match=message) as caught:
        run(**options)
    assert caught.value.code == 2
