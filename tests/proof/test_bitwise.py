"""`prove --bitwise`: every plan trains the one rank's bits, and a sum in another order is noticed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owt_mpi.backends.base import Array
from owt_mpi.backends.onednn_api import find_library
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.comm.wrapper import CommunicatorWrapper
from owt_mpi.nn.layers import Dropout
from owt_mpi.proof.fixed_order import head
from owt_mpi.proof.fixed_order.communicator import FixedOrderCommunicator
from owt_mpi.prove import ProveOptions, run_proof

OPTIONS: dict[str, Any] = {
    "crop": 11, "classes": 8, "steps": 2, "bitwise": True, "pieces": 4, "backend": "reference"
}  # fmt: skip


def table(model: str, file: Path, **options: Any) -> dict[str, Any]:
    """Return what the command writes for four virtual ranks, and the exit code."""
    code = 0
    try:
        run_ranks(4, lambda comm: run_proof(ProveOptions(model, **OPTIONS | options, json=str(file)), comm, 4))
    except CollectiveExit as end:
        code = end.code
    return {**json.loads(file.read_text()), "code": code}


@pytest.mark.parametrize(
    ("backend", "dtype"), [("reference", "float32"), ("reference", "float64"), ("onednn", "float32")]
)
def test_every_plan_trains_the_bits_of_one_rank(backend: str, dtype: str, tiny: str, tmp_path: Path):
    if backend == "onednn":
        try:
            find_library()
        except OSError as reason:
            pytest.skip(f"oneDNN is not installed: {reason}")
    found = table(tiny, tmp_path / "table.json", backend=backend, dtype=dtype)
    plans = {(case["ranks"], case["scheme"], case["senders"], case["group_size"]) for case in found["cases"]}
    assert plans == {
        *((ranks, "dp", 0, 1) for ranks in (2, 4)),
        *((ranks, scheme, 0, group) for scheme in "abcd" for ranks, group in ((2, 2), (4, 4), (4, 2))),
        (4, "c", 2, 4),
    }
    for case in found["cases"]:
        assert case["verdict"] == "pass", case
        assert set(case["other_elements"].values()) == {0}, case
    assert found["code"] == 0
    assert len(found["sha256"]) == 64


def test_a_sum_in_the_transports_order_is_noticed(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FixedOrderCommunicator, "start_all_reduce", CommunicatorWrapper.start_all_reduce)
    found = table(tiny, tmp_path / "table.json")
    failing = {(case["ranks"], case["scheme"]) for case in found["cases"] if case["verdict"] == "FAIL"}
    assert failing == {(4, scheme) for scheme in ("dp", "a", "b", "c", "d")}  # two terms have one order only
    assert found["code"] == 1
    dp = next(case for case in found["cases"] if (case["ranks"], case["scheme"]) == (4, "dp"))
    assert 1 <= dp["first_step"] <= 2
    assert dp["first_parameters"]
    assert set(dp["first_parameters"]) <= set(dp["other_elements"])


def test_a_scale_on_the_parts_of_a_sum_is_noticed(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head, "ScaledTrunk", lambda trunk, scale: trunk)
    monkeypatch.setattr(head, "Dropout", _WithItsScale)
    found = table(tiny, tmp_path / "table.json")
    failing = {case["scheme"] for case in found["cases"] if case["verdict"] == "FAIL"}
    assert failing == {"a", "b", "c"}  # (d) splits inputs, and dp nothing: their gradients are whole


class _WithItsScale(Dropout):
    def __new__(cls, rate: float, scale: float) -> Dropout:  # type: ignore[misc]
        return Dropout(rate)


def test_an_unsteady_operation_ends_the_proof(tiny: str, monkeypatch: pytest.MonkeyPatch):
    plain = ReferenceBackend.conv2d_grad_w
    noise = iter(np.linspace(1, 2, 1000))

    def unsteady(self: ReferenceBackend, *arguments: Any) -> tuple[Array, Array | None]:
        gw, gb = plain(self, *arguments)
        return gw * gw.dtype.type(next(noise)), gb

    monkeypatch.setattr(ReferenceBackend, "conv2d_grad_w", unsteady)
    with pytest.raises(CollectiveExit, match="conv2d_grad_w of reference gives other bits when it is called again"):
        run_ranks(4, lambda comm: run_proof(ProveOptions(tiny, **OPTIONS), comm, 4))


def test_a_wrong_one_rank_is_not_taken_for_the_truth(tiny: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head, "ScaledTrunk", lambda trunk, scale: trunk)  # now the dropout's scale is missing
    with pytest.raises(CollectiveExit, match="from the plain serial program's, but may be 1e-05"):
        run_ranks(4, lambda comm: run_proof(ProveOptions(tiny, **OPTIONS), comm, 4))
