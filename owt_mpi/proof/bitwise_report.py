"""The table of the bitwise proof, a line as soon as a plan is done, and the same as JSON."""

from typing import Any

from owt_mpi.proof.bitwise import BitwiseResult
from owt_mpi.proof.report import counts, line

HEADINGS = ("ranks", "scheme", "group", "other elements", "verdict")
WIDTHS = (5, 12, 5, 14, 12)


def heading() -> str:
    """Return the table's first lines."""
    return f"{line(WIDTHS, *HEADINGS)}\n{line(WIDTHS, *('-' * width for width in WIDTHS))}"


def row(result: BitwiseResult, verbose: bool) -> str:
    """Return the table's line for a result, and below it what is wrong; if `verbose`, a line a parameter."""
    plan = result.plan
    count = "" if result.obstacle else sum(result.other_bits.values())
    first = line(WIDTHS, plan.num_ranks, plan.scheme_words, plan.ranks_sharing_head, count, result.verdict)
    below = [f"not possible: {result.obstacle}"] if result.obstacle else []
    if result.first:
        below.append(f"first after step {result.first_step}, in {', '.join(result.first)}")
    if result.first or verbose:
        below += [f"{name:<32} {count} elements differ" for name, count in result.other_bits.items()]
    return "\n".join([first, *(f"    {each}" for each in below)])


def totals(results: list[BitwiseResult], digest: str) -> str:
    """Return how many plans came out how, and the digest of the parameters of those that passed."""
    return f"{counts([result.verdict for result in results])}; SHA-256 of one rank's parameters: {digest}"


def as_json(facts: dict[str, Any], results: list[BitwiseResult], digest: str) -> dict[str, Any]:
    """Return `facts` and the results as plain values."""
    return {
        **facts,
        "sha256": digest,
        "cases": [
            {
                "ranks": result.plan.num_ranks,
                "scheme": result.plan.scheme,
                "senders": result.plan.senders,
                "group_size": result.plan.ranks_sharing_head,
                "verdict": result.verdict,
                "obstacle": result.obstacle,
                "other_elements": result.other_bits,
                "first_step": result.first_step,
                "first_parameters": list(result.first),
            }
            for result in results
        ],
    }
