"""What the benchmark table1 says of made-up results: shown, not shown, not told apart."""

import pytest

from benchmarks.table1_cases import Case, all_cases, table_cases
from benchmarks.table1_claims import Claim, Spread, claims_of, judge, rows_of, scheme_sentence
from benchmarks.table1_runs import Result

RANKS = (1, 2, 4, 8)


def results(errors: dict[tuple[int, int, str], float], spread: float = 0.001, seeds: int = 3) -> list[Result]:
    """Return results whose errors, by (ranks, passes, rule), lie around the given ones, 0.3 where none is given."""
    made = []
    for seed in range(1, seeds + 1):
        for case in table_cases(RANKS, 64, seed):
            error = errors.get((case.ranks, case.passes, case.rule), 0.3) + spread * (seed - (seeds + 1) / 2)
            made.append(Result(case, 3 * error, error, 1000, 1.0))
    return made


def check(scheme: str, ranks: int, entropy: float, error: float = 0.5) -> Result:
    return Result(Case(ranks, 512, ranks, "linear", 1, scheme, True), entropy, error, 1000, 1.0)


def of(claims: list[Claim], start: str, where: str) -> Claim:
    (claim,) = [each for each in claims if each.claim.startswith(start) and each.where.startswith(where)]
    return claim


def test_cases_are_the_paper_s_rows_by_both_rules_and_the_dial():
    cases = [(case.ranks, case.batch, case.head_batch, case.rule) for case in table_cases(RANKS, 64, 1)]
    assert cases[0] == (1, 64, 64, "linear")
    assert len(cases) == len(set(cases)) == 15
    for size in (2, 4, 8):
        for rule in ("linear", "sqrt"):
            assert {(size, 64 * size, 64 * size, rule), (size, 64 * size, 64, rule)} <= set(cases)
    assert {head for ranks, _, head, rule in cases if ranks == 8 and rule == "linear"} == {64, 128, 256, 512}
    assert len(all_cases(RANKS, 64, 3)) == 3 * 15 + 4


@pytest.mark.parametrize(
    ("variable", "verdict"),
    [(0.29, "shown"), (0.31, "not shown"), (0.2995, "not told apart"), (0.3005, "not told apart")],
)
def test_variable_batch_is_judged_by_the_spread(variable: float, verdict: str):
    claims = claims_of(rows_of(results({(8, 1, "linear"): variable})))
    claim = of(claims, "variable batch", "K = 8")
    assert (claim.top1_error, claim.cross_entropy) == (verdict, verdict)
    assert verdict in claim.sentence
    assert f"{variable:.2%} against 30.00%, told apart from 0.17 points on" in claim.sentence
    assert of(claims, "variable batch", "K = 4").top1_error == "not told apart"


def test_rules_are_judged_for_each_batch_of_the_head():
    claims = claims_of(rows_of(results({(4, 4, "linear"): 0.28, (4, 1, "sqrt"): 0.28})))
    assert of(claims, "rule k", "K = 4, fixed").top1_error == "shown"
    assert of(claims, "rule k", "K = 4, variable").top1_error == "not shown"
    assert of(claims, "rule k", "K = 2, variable").top1_error == "not told apart"
    assert of(claims, "a larger fixed batch", "K = 4").top1_error == "not shown"


def test_a_wide_spread_tells_nothing_apart():
    claims = claims_of(rows_of(results({(8, 1, "linear"): 0.29}, spread=0.02)))
    assert {claim.top1_error for claim in claims} == {"not told apart"}


def test_measures_are_judged_apart():
    made = results({(8, 1, "linear"): 0.29})
    made = [Result(r.case, 0.9 + 0.001 * r.case.seed, r.top1_error, r.images, 1.0) for r in made]
    claim = of(claims_of(rows_of(made)), "variable batch", "K = 8")
    assert (claim.top1_error, claim.cross_entropy) == ("shown", "not told apart")
    assert "shown by top-1 error" in claim.sentence
    assert "not told apart by cross-entropy" in claim.sentence


def test_one_seed_says_nothing():
    assert claims_of(rows_of(results({}, seeds=1))) == []


def test_margin_is_that_of_students_t():
    spread = Spread.of([(1.0, 2.0, 3.0), (5.0,), (10.0, 12.0, 14.0)])
    assert spread is not None
    assert spread.freedom == 4
    assert spread.deviation == pytest.approx(2.5**0.5)
    assert spread.margin(3, 3) == pytest.approx(2.78 * 2.5**0.5 * (2 / 3) ** 0.5)
    assert judge((1.0,), (1.0 + spread.margin(1, 1) * 1.01,), spread) == "shown"
    assert judge((1.0,), (1.0 + spread.margin(1, 1) * 0.99,), spread) == "not told apart"


@pytest.mark.parametrize(
    ("entropy", "error", "verdict"),
    [(2.5 + 1e-12, 0.5, "shown"), (2.5 + 1e-6, 0.5, "not shown"), (2.5, 0.501, "not shown")],
)
def test_schemes_must_equal_one_rank_to_rounding(entropy: float, error: float, verdict: str):
    made = [check("c", 1, 2.5), check("dp", 8, 2.5), check("b", 8, entropy, error)]
    assert scheme_sentence(made) is None  # scheme c is missing
    judged = scheme_sentence([*made, check("c", 8, 2.5)])
    assert judged is not None
    assert judged[0] == verdict
    assert f"itself: {verdict}." in judged[1]


def test_checks_are_no_rows_of_the_table():
    assert rows_of([check("c", 1, 2.5), check("dp", 8, 2.5)]) == []
