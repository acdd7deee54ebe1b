"""What a trace file must be like, whichever run wrote it."""

import json
from pathlib import Path

Rows = dict[str, list[dict]]  # name of a row: its complete events, in order of time


def read_trace(path: Path, num_ranks: int) -> list[Rows]:
    """Return each rank's rows, after a look that every event is well formed and lies in a row that has a name."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    assert processes == {rank + 1: f"rank {rank}" for rank in range(num_ranks)}, "a viewer takes 0 for the idle process"
    assert len({tid for _, tid in names}) == 3 * num_ranks, "Perfetto mixes up rows of equal ids"
    assert min(tid for _, tid in names) > 0
    ranks: list[Rows] = [{"compute": [], "wire": [], "waits": []} for _ in range(num_ranks)]
    for event in events:
        assert event["ph"] in ("X", "M")
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert event["args"]["step"] >= 0
            row = names[event["pid"], event["tid"]]
            assert event["cat"] == row
            ranks[event["pid"] - 1][row].append(event)
    for rows in ranks:
        for row in rows.values():
            row.sort(key=lambda e: (e["ts"], -e["dur"]))
    return ranks


def check_rows(rows: Rows) -> None:
    """Assert that of two spans in a row one holds the other, or they share no time."""
    for name, events in rows.items():
        open_ends: list[float] = []
        for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
            end = event["ts"] + event["dur"]
            while open_ends and open_ends[-1] <= event["ts"] + 0.002:  # half of the last digit each
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 0.002, f"{name}: {event['name']} overlaps another partly"
            open_ends.append(end)


def overlaps(events: list[dict], tolerance: float) -> bool:
    """Return whether there is a moment at which all of the events are under way, give or take `tolerance`."""
    return max(e["ts"] for e in events) <= min(e["ts"] + e["dur"] for e in events) + tolerance
