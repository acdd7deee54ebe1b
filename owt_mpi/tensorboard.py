"""The records of a run as TensorBoard's events, written by tensorboardX (the extra `tensorboard`)."""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

_FLUSH_SECONDS = 10.0  # each flush waits for the disk
_TAGS = {
    "trunk_lr": "learning rate/trunk",
    "head_lr": "learning rate/head",
    "images_per_second": "time/images per second",
    "loss_scale": "loss scale",
}


def check_installed() -> None:
    """Raise ValueError, with the way out, where tensorboardX is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX: pip install 'owt_mpi[tensorboard]', or leave it out")


class EventFile:
    """An event file of its own in `folder`. What earlier ones say of steps after `first_step` holds no more.

    `write` and `close` raise OSError where the disk fails.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._writer, self._event, self._flushed = EventsWriter(str(folder / "events")), Event, 0.0
        # TensorBoard drops what it has of this step and later ones
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=first_step + 1, session_log=start))

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Write the numbers of a record of metrics.jsonl."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars_of(kind, record).items()]
        if values:
            event = self._event(wall_time=time.time(), step=record["step"], summary=Summary(value=values))
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Bring all to the disk."""
        self._writer.close()


def scalars_of(kind: str, record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record of that kind by their tags in TensorBoard, none where it has none to show."""
    if kind in ("train", "validation"):
        score = {f"{name}/{kind}": record[name] for name in ("loss", "top1", "top5")}
        found = {**score, **{tag: record[name] for name, tag in _TAGS.items() if name in record}}
    elif kind == "layers":
        outputs = record["outputs"].items()
        found = {
            f"outputs, {which}/{name}": each[which] for which in ("mean", "std", "zeros") for name, each in outputs
        }
        found |= {f"update to weight/{name}": ratio for name, ratio in record["updates"].items()}
    elif kind == "ranks":
        found = _times_of(record["ranks"], record["steps"])
    else:
        return {}
    return {tag: number for tag, number in found.items() if number is not None and isfinite(number)}


def _times_of(ranks: Sequence[Mapping[str, float]], num_steps: int) -> dict[str, float]:
    """Return the parts of a step, in milliseconds, in the mean over ranks."""
    share = 1e3 / (len(ranks) * num_steps)
    whole, exchange, data = (sum(r[name] for r in ranks) * share for name in ("steps", "exchange_wait", "data_wait"))
    return {
        "time/ms a step": whole,
        "time/ms a step, computing": whole - exchange - data,
        "time/ms a step, waiting for exchanges": exchange,
        "time/ms a step, waiting for data": data,
    }
