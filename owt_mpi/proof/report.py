"""The proof's table, a line as soon as a case is done, and the same as JSON."""

from typing import Any

from owt_mpi.proof.compare import Result

HEADINGS = ("scheme", "group", "head update", "with", "difference", "tolerance", "largest in", "verdict")
WIDTHS = (12, 5, 15, 17, 10, 9, 24, 12)


def heading() -> str:
    """Return the table's first lines."""
    return f"{line(WIDTHS, *HEADINGS)}\n{line(WIDTHS, *('-' * width for width in WIDTHS))}"


def row(result: Result, verbose: bool) -> str:
    """Return the table's line for a result, and below it what is wrong; if `verbose`, always a line a parameter."""
    case = result.case
    name, difference, tolerance = "", "", ""
    if result.differences:
        name = result.worst
        difference, tolerance = f"{result.differences[name]:.1e}", f"{result.tolerances[name]:.1e}"
    what = (case.scheme, case.plan.ranks_sharing_head, case.update_words, case.extras)
    first = line(WIDTHS, *what, difference, tolerance, name, result.verdict)
    below = [f"not possible: {result.obstacle}"] if result.obstacle else []
    if result.error:
        below.append(f"the training ended: {result.error}")
    if result.differences and (verbose or not result.passed):
        below += [
            f"{each:<32} {result.differences[each]:.1e}  (tolerance {result.tolerances[each]:.1e}; training moves it "
            f"by {result.moved[each]:.1e})"
            for each in result.differences
        ]
    return "\n".join([first, *(f"    {line}" for line in below)])


def totals(results: list[Result]) -> str:
    """Return how many cases came out how, and by how much training moved the parameter that it moved least."""
    moves = [(moved, name) for result in results for name, moved in result.moved.items()]
    least = f"; training moves each parameter by {min(moves)[0]:.1e} or more ({min(moves)[1]})" if moves else ""
    return f"{counts([result.verdict for result in results])}{least}"


def counts(verdicts: list[str]) -> str:
    """Return how many cases came out how."""
    each = ", ".join(f"{verdicts.count(v)} {v}" for v in ("pass", "FAIL", "not possible") if v in verdicts)
    return f"{len(verdicts)} cases: {each}"


def as_json(facts: dict[str, Any], results: list[Result]) -> dict[str, Any]:
    """Return `facts` and the results as plain values; a difference that is no finite number as a string."""
    return {
        **facts,
        "cases": [
            {
                "scheme": result.case.plan.scheme,
                "senders": result.case.plan.senders,
                "group_size": result.case.plan.ranks_sharing_head,
                "head_update": result.case.update_words,
                "trunk_sync": result.case.trunk_sync,
                "wire_dtype": result.case.wire_dtype,
                "fc_crosstalk": result.case.fc_crosstalk,
                "verdict": result.verdict,
                "obstacle": result.obstacle,
                "error": result.error,
                "differences": {name: _plain(value) for name, value in result.differences.items()},
                "tolerances": result.tolerances,
                "moved": result.moved,
            }
            for result in results
        ],
    }


def line(widths: tuple[int, ...], *cells: object) -> str:
    """Return a table's line, each cell in its width."""
    return "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _plain(value: float) -> float | str:
    return value if value - value == 0 else str(value)
