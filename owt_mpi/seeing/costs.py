"""What a step costs: computing, waiting for exchanges and for data; rank by rank; and what crosses the wire."""

from collections.abc import Sequence
from dataclasses import asdict
from xml.etree.ElementTree import Element

from owt_mpi.accounts import Times, total_flows
from owt_mpi.comm.ledger import Flow
from owt_mpi.seeing.chart import line_chart
from owt_mpi.seeing.curves import Part, grid, lines_of, steps_or_images
from owt_mpi.seeing.html import h, table
from owt_mpi.seeing.metrics_file import Point
from owt_mpi.seeing.palette import colour_class
from owt_mpi.seeing.run_folder import Run, Wire
from owt_mpi.seeing.scales import percent, written
from owt_mpi.seeing.section import Section, absent, named
from owt_mpi.stragglers import shown_ranks, verdict
from owt_mpi.tables import Table

PARTS = {"compute": "computing", "exchange": "waiting for exchanges", "data": "waiting for data"}


def step_time(runs: Sequence[Run]) -> Section:
    """Return the parts of a step: over the whole run, and as they went."""
    rows, content = [], []
    for run in runs:
        parts = parts_of(run.metrics.ranks, run.metrics.rank_steps)
        content.append({"run": run.name, "ms_a_step": parts})
        if parts is not None:
            rows.append((run.name, parts))
    x, x_label = steps_or_images(runs)
    shown = [Part(name, _times, part) for part, name in PARTS.items()]
    together = {"Time a step": shown} if len(runs) == 1 else {f"Time {part.name}": [part] for part in shown}
    charts = [
        line_chart(title, lines_of(runs, each, x), x_label, "ms a step", from_zero=True)
        for title, each in together.items()
    ]
    bars = [_key(), stacked_bars(rows)] if rows else []
    note = h("p", "Mean over ranks and steps, without validation and checkpoints.", class_="note")
    return Section("time", "Time a step", [*absent(runs, "metrics"), *bars, note, grid(charts)], content)


def ranks(runs: Sequence[Run]) -> Section:
    """Return the ranks of each run side by side, and who was waited for."""
    body, content = absent(runs, "metrics"), []
    if any(run.metrics.ranks for run in runs):
        body.append(_key())
    for number, run in enumerate(runs):
        times, num_steps = run.metrics.ranks, run.metrics.rank_steps
        said = verdict(times) if len(times) > 1 and sum(each.steps for each in times) > 0 else ""
        if times:
            shown = shown_ranks(times)
            left_out = f" The {len(shown)} of {len(times)} ranks that waited least." if len(shown) < len(times) else ""
            bars = [(f"rank {rank}", _parts([times[rank]], num_steps)) for rank in shown]
            sentence = f"{said[:1].upper()}{said[1:]}." if said else "One rank, which nobody waits for."
            name = named(runs, number)
            body.append(h("div", name, h("p", sentence + left_out), stacked_bars(bars), class_="run"))
        seconds = [asdict(each) for each in times]
        content.append({"run": run.name, "steps": num_steps, "ranks": seconds, "verdict": said})
    return Section("ranks", "Ranks side by side", body, content)


def wire(runs: Sequence[Run]) -> Section:
    """Return the ledger of each run: what each collective moved in a step, and how long that took."""
    body, content = absent(runs, "wire"), []
    for number, run in enumerate(runs):
        rows = wire_rows(run.wire) if run.wire is not None else []
        content.append({"run": run.name, "rows": rows})
        if run.wire is None and "wire" not in run.problems:
            body.append(h("p", f"{run.name}: nothing recorded yet", class_="absent"))
        if run.wire is not None:
            how_many = f"Mean of {len(run.wire.ranks)} ranks" if len(run.wire.ranks) > 1 else "Of rank 0"
            name = named(runs, number)
            shown = (
                table(_wire_table(rows), last_is_total=True) if rows else h("p", "Nothing crossed: there is one rank.")
            )
            note = h("p", f"{how_many}, over {run.wire.num_steps:,} steps.", class_="note")
            body.append(h("div", name, shown, note, class_="run"))
    return Section("wire", "On the wire", body, content)


def wire_rows(found: Wire) -> list[dict[str, float | str]]:
    """Return what a rank's collectives move in a step, in the mean: a row for each communicator and collective."""
    totals, share = total_flows(found.ranks), 1 / (len(found.ranks) * found.num_steps)
    if totals:
        totals["all", ""] = sum(totals.values(), Flow())
    return [
        {
            "communicator": label,
            "collective": collective,
            "calls": flow.calls * share,
            "received_bytes": flow.received_bytes * share,
            "sent_bytes": flow.sent_bytes * share,
            "seconds": flow.seconds * share,
            "exposed_seconds": flow.exposed_seconds * share,
        }
        for (label, collective), flow in totals.items()
    ]


def stacked_bars(rows: Sequence[tuple[str, dict[str, float]]]) -> Element:
    """Return a bar for each row, to one scale, cut into the parts of a step in milliseconds."""
    longest = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    bars: list[Element] = []
    for name, parts in rows:
        total = sum(parts.values())
        pieces = [
            h("span", class_=f"piece {colour_class(place)}", style=f"width: {100 * value / longest:.3f}%",
              title=f"{PARTS[part]}: {written(value)} ms, {percent(value / total) if total else ''}")
            for place, (part, value) in enumerate(parts.items())
        ]  # fmt: skip
        numbers = " + ".join(written(value) for value in parts.values())
        bars += [
            h("span", name, class_="name"),
            h("span", pieces, class_="bar"),
            h("span", f"{written(total)} ms", h("span", f" = {numbers}", class_="unit"), class_="sum"),
        ]
    return h("div", bars, class_="bars")


def parts_of(times: Sequence[Times], num_steps: int) -> dict[str, float] | None:
    """Return the parts of a step in milliseconds, in the mean over ranks; None where nothing is known."""
    return _parts(times, num_steps) if times and num_steps else None


def _parts(times: Sequence[Times], num_steps: int) -> dict[str, float]:
    total, share = sum(times, Times()), 1e3 / (len(times) * num_steps)
    computing = max(total.steps - total.exchange_wait - total.data_wait, 0.0)
    return {
        "compute": computing * share,
        "exchange": max(total.exchange_wait, 0.0) * share,
        "data": max(total.data_wait, 0.0) * share,
    }


def _times(run: Run) -> Sequence[Point]:
    return run.metrics.times


def _key() -> Element:
    entries = [h("li", h("span", class_=f"dot {colour_class(n)}"), name) for n, name in enumerate(PARTS.values())]
    return h("ul", entries, class_="legend")


def _wire_table(rows: Sequence[dict[str, float | str]]) -> Table:
    lines = []
    for row in rows:
        seconds, exposed = float(row["seconds"]), float(row["exposed_seconds"])
        lines.append(
            [
                f"{row['communicator']} {row['collective']}".strip(),
                f"{row['calls']:.1f}",
                f"{float(row['received_bytes']) / 1e6:,.3f}",
                f"{seconds * 1e3:,.2f}",
                f"{exposed * 1e3:,.2f}",
                percent(round(1 - exposed / seconds, 3)) if seconds else "",
            ]
        )
    return Table("", ("collective", "calls", "MB received", "ms on the wire", "ms waited for", "hidden"), lines)
