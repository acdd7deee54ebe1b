"""Which rank is slow: the times of all ranks side by side, and the rank that the others waited for."""

from collections.abc import Sequence

from owt_mpi.accounts import Times

SIGNIFICANT_SHARE = 0.1
MOST_RANKS_SHOWN = 16


def awaited_rank(ranks: Sequence[Times]) -> int | None:
    """Return the rank that the others waited for: the one that waited least for exchanges itself.

    None where the others waited, in the mean, longer than it by less than SIGNIFICANT_SHARE of the time of the steps.
    """
    if len(ranks) < 2:
        return None
    awaited = _by_wait(ranks)[0]
    if _excess(ranks, awaited) < SIGNIFICANT_SHARE * _mean([each.steps for each in ranks]):
        return None
    return awaited


def rank_lines(ranks: Sequence[Times], num_steps: int) -> list[str]:
    """Return a table of the ranks' times a step and a sentence on the one awaited; no lines for one rank alone."""
    if len(ranks) < 2:
        return []
    shown = shown_ranks(ranks)
    which = "ranks" if len(shown) == len(ranks) else f"the {len(shown)} of {len(ranks)} ranks that waited least"
    lines = [f"{which}, ms a step:", f"  {'rank':>4}{'step':>10}{'exchange wait':>15}{'data wait':>11}"]
    for rank in shown:
        step, exchange, data = (
            seconds / num_steps * 1e3
            for seconds in (ranks[rank].steps, ranks[rank].exchange_wait, ranks[rank].data_wait)
        )
        lines.append(f"  {rank:>4}{step:>10.2f}{exchange:>15.2f}{data:>11.2f}")
    return [*lines, verdict(ranks)]


def shown_ranks(ranks: Sequence[Times]) -> list[int]:
    """Return the ranks to be shown, in their order: all, or of many those that waited least."""
    return sorted(_by_wait(ranks)[:MOST_RANKS_SHOWN])


def verdict(ranks: Sequence[Times]) -> str:
    """Return in one sentence which of two or more ranks the others waited for, and why."""
    least = _by_wait(ranks)[0]
    share = _excess(ranks, least) / _mean([each.steps for each in ranks])
    if awaited_rank(ranks) is None:
        return (
            f"no rank held up the others: they waited for exchanges {share:.1%} of the time longer than rank {least}, "
            f"which waited least; {SIGNIFICANT_SHARE:.0%} would count"
        )
    data_excess = ranks[least].data_wait - _mean([each.data_wait for each in _others(ranks, least)])
    why = "it waited for data" if data_excess > 0.5 * _excess(ranks, least) else "it took longer to compute"
    return (
        f"the others waited for rank {least}: for exchanges {share:.1%} of the time longer than it did itself; "
        f"{why} meanwhile"
    )


def _by_wait(ranks: Sequence[Times]) -> list[int]:
    """Return the ranks, those first that waited least for exchanges."""
    return sorted(range(len(ranks)), key=lambda rank: ranks[rank].exchange_wait)


def _excess(ranks: Sequence[Times], rank: int) -> float:
    """Return how much longer the others waited for exchanges than `rank`, in the mean, in seconds."""
    return _mean([each.exchange_wait for each in _others(ranks, rank)]) - ranks[rank].exchange_wait


def _others(ranks: Sequence[Times], rank: int) -> list[Times]:
    return [each for other, each in enumerate(ranks) if other != rank]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
