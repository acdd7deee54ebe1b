"""What the results of the benchmark table1 say of the paper's claims, with the spread over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev, variance
from typing import Literal

from benchmarks.table1_cases import CHECKED_SCHEMES, RULE_NAMES, RULES, Rule
from benchmarks.table1_runs import Result

Verdict = Literal["shown", "not shown", "not told apart"]
EQUAL = 1e-9  # relative: float64 rounds at 1e-16, and a few steps add that up
# Student's t, 97.5 %, by degrees of freedom
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.13, 20: 2.09, 30: 2.04, 60: 2.00}


@dataclass(frozen=True)
class Row:
    """The seeds of one row: a number of ranks, batches and a rule."""

    ranks: int
    batch: int
    head_batch: int
    rule: Rule
    cross_entropy: tuple[float, ...]
    top1_error: tuple[float, ...]

    @property
    def passes(self) -> int:
        """The head passes between updates of the head."""
        return self.head_batch * self.ranks // self.batch


def rows_of(results: Iterable[Result]) -> list[Row]:
    """Return the rows that there are results of, by K, rule and falling batch of the head."""
    groups: dict[tuple[int, int, int, Rule], list[Result]] = {}
    for result in sorted(results, key=lambda each: each.case.seed):
        case = result.case
        if not case.is_check:
            groups.setdefault((case.ranks, case.batch, case.head_batch, case.rule), []).append(result)
    order = sorted(groups, key=lambda group: (group[0], RULES.index(group[3]), -group[2]))
    return [
        Row(*group, tuple(r.cross_entropy for r in groups[group]), tuple(r.top1_error for r in groups[group]))
        for group in order
    ]


@dataclass(frozen=True)
class Spread:
    """The standard deviation over seeds, pooled over all rows."""

    deviation: float
    freedom: int

    @classmethod
    def of(cls, samples: Iterable[Sequence[float]]) -> "Spread | None":
        """Return what the samples have in common; None where none has two values."""
        several = [sample for sample in samples if len(sample) > 1]
        freedom = sum(len(sample) - 1 for sample in several)
        if not freedom:
            return None
        squares = sum(variance(sample) * (len(sample) - 1) for sample in several)
        return cls(sqrt(squares / freedom), freedom)

    def margin(self, first: int, second: int) -> float:
        """Return what means of so many seeds must differ by, to be told apart: wrong in 1 of 20 where they are equal.

        It is Student's t for the pooled deviation.
        """
        t = _T[max(freedom for freedom in _T if freedom <= self.freedom)]
        return t * self.deviation * sqrt(1 / first + 1 / second)


def judge(better: Sequence[float], worse: Sequence[float], spread: Spread) -> Verdict:
    """Return whether the mean of `better` is below that of `worse`, as is claimed, above it, or neither for certain."""
    gain = fmean(worse) - fmean(better)
    if abs(gain) <= spread.margin(len(better), len(worse)):
        return "not told apart"
    return "shown" if gain > 0 else "not shown"


@dataclass(frozen=True)
class Claim:
    """A claim at one K, and what the two measures say of it."""

    claim: str
    where: str
    top1_error: Verdict
    cross_entropy: Verdict
    sentence: str


def claims_of(rows: Sequence[Row]) -> list[Claim]:
    """Return all comparisons that there are rows for."""
    found = {(row.ranks, row.passes, row.rule): row for row in rows}
    sizes = sorted({row.ranks for row in rows if row.ranks > 1})
    claims: list[Claim | None] = []
    for size in sizes:
        fixed, variable = found.get((size, size, "linear")), found.get((size, 1, "linear"))
        batch = "variable batch better than fixed"
        claims.append(_claim(batch, f"K = {size}, rule k", variable, fixed, rows))
    for size in sizes:
        for passes, name in ((size, "fixed batch"), (1, "variable batch")):
            linear, root = found.get((size, passes, "linear")), found.get((size, passes, "sqrt"))
            claims.append(_claim("rule k better than sqrt(k)", f"K = {size}, {name}", linear, root, rows))
    for size in sizes:
        alone, fixed = found.get((1, 1, "linear")), found.get((size, size, "linear"))
        claims.append(_claim("a larger fixed batch costs accuracy", f"K = {size}, rule k", alone, fixed, rows))
    return [claim for claim in claims if claim is not None]


def _claim(claim: str, where: str, better: Row | None, worse: Row | None, rows: Sequence[Row]) -> Claim | None:
    error_spread = Spread.of(row.top1_error for row in rows)
    entropy_spread = Spread.of(row.cross_entropy for row in rows)
    if better is None or worse is None or error_spread is None or entropy_spread is None:
        return None
    error = judge(better.top1_error, worse.top1_error, error_spread)
    entropy = judge(better.cross_entropy, worse.cross_entropy, entropy_spread)
    num_seeds = (len(better.top1_error), len(worse.top1_error))
    sentence = (
        f"{claim[0].upper()}{claim[1:]} ({where}): {_says(error)} by top-1 error "
        f"({fmean(better.top1_error):.2%} against {fmean(worse.top1_error):.2%}, told apart from "
        f"{100 * error_spread.margin(*num_seeds):.2f} points on), {_says(entropy)} by cross-entropy "
        f"({fmean(better.cross_entropy):.3f} against {fmean(worse.cross_entropy):.3f}, from "
        f"{entropy_spread.margin(*num_seeds):.3f} on)."
    )
    return Claim(claim, where, error, entropy, sentence)


def _says(verdict: Verdict) -> str:
    return {
        "shown": "shown",
        "not shown": "not shown, the opposite is seen,",
        "not told apart": "not told apart",
    }[verdict]


def scheme_sentence(results: Iterable[Result]) -> tuple[Verdict, str] | None:
    """Return whether the schemes lose nothing: shown where ranks and one rank are equal to rounding; None before."""
    checks = {(r.case.ranks, r.case.scheme): r for r in results if r.case.is_check}
    alone = next((r for (ranks, _), r in checks.items() if ranks == 1), None)
    spread = {
        scheme: abs(r.cross_entropy / alone.cross_entropy - 1) if r.top1_error == alone.top1_error else 1.0
        for (ranks, scheme), r in checks.items()
        if alone is not None and ranks > 1
    }
    if alone is None or set(spread) != set(CHECKED_SCHEMES):
        return None
    size, largest = max(ranks for ranks, _ in checks), max(spread.values())
    verdict: Verdict = "shown" if largest <= EQUAL else "not shown"
    names = ", ".join(f"{scheme} {difference:.0e}" for scheme, difference in sorted(spread.items()))
    return verdict, (
        f"No loss in accuracy from the scheme itself: {verdict}. One rank and {size} ranks with the same batch of "
        f"{alone.case.batch}, trained a few steps in float64: relative differences of cross-entropy {names}; equal "
        f"means within {EQUAL:.0e} and the same top-1 error."
    )


def mean_and_spread(values: Sequence[float], scale: float, digits: int) -> str:
    """Return a cell: the mean and, of several seeds, their standard deviation."""
    mean = f"{scale * fmean(values):.{digits}f}"
    return f"{mean} ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else mean


def rule_name(row: Row) -> str:
    return "" if row.ranks == 1 else RULE_NAMES[row.rule]
