"""A few mutated inputs of every kind, and faults that the fuzzer must notice. More: `python -m tests.hostile.fuzz`."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.data.manifest import DataError
from tests.hostile import planted
from tests.hostile.fuzz import Limits, fuzz
from tests.hostile.kinds import kinds_in
from tests.hostile.verdicts import Failure, refusal_of

INPUTS_A_KIND, SEED = 8, 3


def test_mutated_inputs_of_every_kind_are_harmless_or_refused(tmp_path: Path) -> None:
    kinds = [*kinds_in()]
    for tally in fuzz(kinds, INPUTS_A_KIND * len(kinds), SEED, Limits(), 2, tmp_path):
        assert tally.failures == [], tally.kind
        assert tally.inputs == INPUTS_A_KIND == tally.refused + tally.harmless


def test_crashes_hangs_and_memory_are_laid_to_the_input_that_made_them(tmp_path: Path) -> None:
    names = [*planted.FAILING, "refuses", "nothing"]
    tallies = fuzz(names, 2 * len(names), SEED, Limits(256, 5.0), 2, tmp_path, modules=["planted"])
    found = {tally.kind: [failure["why"] for failure in tally.failures] for tally in tallies}
    assert {kind: len(failures) for kind, failures in found.items()} == dict(zip(names, [2] * 6 + [0] * 2, strict=True))
    for kind, words in (
        ("crashes", "SIGSEGV"),
        ("hangs", "longer than 5.0 s"),
        ("exits", "exit code 3"),
        ("takes memory", "MemoryError"),
        ("raises", "KeyError"),
        ("refuses in two lines", "2 lines"),
    ):
        assert all(words in why for why in found[kind])
    counts = {tally.kind: (tally.refused, tally.harmless) for tally in tallies}
    assert (counts["refuses"], counts["nothing"]) == ((2, 0), (0, 2))
    assert (tmp_path / "crashes" / "failed-0" / "does").read_text() == "crashes"


def collectively(code: int, message: str, cause: Exception | None = None) -> None:
    raise CollectiveExit(code, message) from cause


def out_of_memory() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise DataError("it is damaged") from error


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (lambda: collectively(1, "error: a"), "exit code 1"),
        (lambda: collectively(3, "error: a", TypeError("b")), "TypeError: b"),
        (lambda: collectively(3, ""), "0 lines"),
        (lambda: collectively(3, "error: " + "a" * 3000), "3007 characters"),
        (lambda: int("x"), "ValueError: invalid literal"),
        (lambda: warnings.warn("odd", stacklevel=1), "a warning: UserWarning: odd"),
        (lambda: 3, "0 lines"),
        (out_of_memory, "no memory for it"),
    ],
)
def test_other_ends_are_failures(entry: Callable[[], int | None], words: str) -> None:
    with pytest.raises(Failure, match=words):
        refusal_of(entry, (3,))


def test_refusals_in_order_are_told(tmp_path: Path) -> None:
    assert refusal_of(lambda: None, (3,)) is None
    assert refusal_of(lambda: collectively(3, "error: a", DataError("a")), (3,)) == "error: a"
    assert refusal_of(lambda: print((tmp_path / "none").read_text()), (3,)) is not None
