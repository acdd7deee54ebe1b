"""Folders of runs as training leaves them, made in no time: their numbers are formulas that tests know."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from owt_mpi.accounts import Times
from owt_mpi.autograd import Parameter
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.checkpoint.weights import save_weights
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.config import Config, DataOptions
from owt_mpi.metrics import Reporter
from owt_mpi.nn.init import Constant
from owt_mpi.preset_files import to_toml
from owt_mpi.training.samples import _data_url

LOG_EVERY, LAYERS_EVERY, BATCH = 10, 50, 64
LAYERS = ("trunk.conv1", "trunk.relu1", "trunk.pool1", "head.fc2", "head.fc3")
WEIGHTS = ("trunk.conv1.weight", "trunk.conv1.bias", "head.fc2.weight", "head.fc3.weight")
CLASSES = ("ant", "bee", "cat", "dog", "eel")


def loss_at(step: int) -> float:
    return 2.3 * 0.995**step + 0.1


def flows_of(steps: int, rank: int = 0) -> list[dict]:
    return [
        {"label": "boundary", "collective": "all_gather", "payload": "activations", "calls": 2 * steps,
         "sent_bytes": 500_000 * steps, "received_bytes": 1_000_000 * steps, "seconds": 0.002 * steps,
         "exposed_seconds": 0.0005 * steps},
        {"label": "trunk", "collective": "all_reduce", "payload": f"bucket {rank}", "calls": steps,
         "sent_bytes": 3_000_000 * steps, "received_bytes": 3_000_000 * steps, "seconds": 0.004 * steps,
         "exposed_seconds": 0.001 * steps},
    ]  # fmt: skip


def times_of(steps: int, num_ranks: int) -> list[Times]:
    """Return times in which the last rank computes longer and is waited for."""
    waits = [0.02] * (num_ranks - 1) + [0.0]
    return [Times(0.1 * steps, wait * steps, 0.001 * steps) for wait in waits]


def record_steps(reporter: Reporter, first: int, last: int, num_ranks: int, epoch: int = 100, validates: bool = True):
    """Record what training records between two steps."""
    for step in range(first + LOG_EVERY, last + 1, LOG_EVERY):
        reporter.advance(step)
        reporter.record(
            "train", epoch=(step - 1) // epoch + 1, step=step, trunk_lr=0.01, head_lr=0.02, loss=loss_at(step),
            top1=1 - loss_at(step) / 2.5, top5=1 - loss_at(step) / 5, images_per_second=500.0 + step % 7,
            data_wait=0.01, exchange_wait=0.2,
        )  # fmt: skip
        reporter.record("wire", step=step, steps=LOG_EVERY, flows=flows_of(LOG_EVERY))
        times = times_of(LOG_EVERY, num_ranks)
        reporter.record("ranks", step=step, steps=LOG_EVERY, ranks=[asdict(each) for each in times])
        if step % LAYERS_EVERY == 0:
            outputs = {
                name: {"mean": 0.1 * place, "std": 1.0 + place, "zeros": 0.4 if "relu" in name else 0.0}
                for place, name in enumerate(LAYERS)
            }
            reporter.record("layers", step=step, outputs=outputs, updates=dict.fromkeys(WEIGHTS, 0.5 / step))
        if validates and step % epoch == 0:
            reporter.record(
                "validation", epoch=step // epoch, step=step, loss=loss_at(step) + 0.05, top1=1 - loss_at(step) / 2.4,
                top5=1 - loss_at(step) / 4.8, images=1000,
            )  # fmt: skip


def write_files(folder: Path, classes: Sequence[str] = CLASSES, lr: float = 0.01, scheme: str = "c") -> None:
    """Write all files of a run but metrics.jsonl, wire.json and weights."""
    config = Config(data=DataOptions(data="shards"))
    config = replace(config, optimizer=replace(config.optimizer, lr=lr))
    config = replace(config, parallel=replace(config.parallel, scheme=scheme))
    (folder / "config.toml").write_text(to_toml(config))
    environment = {
        "owt_mpi": "0.1.0",
        "command": ["train.py", "--data", "shards"],
        "host": "node1",
        "backend": "onednn",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    images = [
        {"name": f"{classes[k]}/{k}.jpg", "title": classes[k], "picture": _data_url(pixels[k]),
         "classes": [{"title": title, "score": 0.5 / (place + 1)} for place, title in enumerate(classes)]}
        for k in range(3)
    ]  # fmt: skip
    (folder / "samples.json").write_text(json.dumps({"epoch": 3, "step": 300, "images": images}))


def filters() -> np.ndarray:
    """Return weights (7, 3, 5, 3) of a first convolution."""
    return np.random.default_rng(2).standard_normal((7, 3, 5, 3))


def write_weights(folder: Path) -> None:
    parameters = []
    for name, values in (("trunk.conv2.weight", np.zeros((4, 3, 3, 7))), ("trunk.conv1.weight", filters())):
        parameter = Parameter(values.shape, Constant(0.0))
        parameter.name = name
        parameter.set_data(values, ReferenceBackend())
        parameters.append(parameter)
    save_weights(folder / "weights.h5", parameters, SerialCommunicator(), is_writer=True)


def write_run(folder: Path, last: int = 300, num_ranks: int = 2, batch: int = BATCH, **files) -> Path:
    """Write a run of `last` steps that was trained to its end, and return its folder."""
    folder.mkdir(parents=True)
    with Reporter(active=True, metrics_file=folder / "metrics.jsonl", num_steps=last) as reporter:
        reporter.begin_at(0, ranks=num_ranks, global_batch=batch)
        record_steps(reporter, 0, last, num_ranks)
    write_files(folder, **files)
    ranks = [flows_of(last, rank) for rank in range(num_ranks)] if num_ranks > 1 else [[]]
    (folder / "wire.json").write_text(json.dumps({"steps": last, "ranks": ranks}))
    write_weights(folder)
    return folder
