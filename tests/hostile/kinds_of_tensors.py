"""Exported networks (safetensors): damaged, and with headers that say something else."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.evaluation.answers import PredictOptions, run_prediction
from owt_mpi.evaluation.exporting import ExportOptions, run_export
from owt_mpi.evaluation.network import NetworkOptions
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.run import run_evaluation
from owt_mpi.interchange.tensor_file import TensorFile
from owt_mpi.training.run import run_training
from tests.hostile.byte_mutations import mutate_bytes, odd_file
from tests.hostile.kinds import Kind, Use
from tests.hostile.sound import config_for, write_run
from tests.hostile.text_mutations import mutate_json
from tests.hostile.verdicts import Failure

FILE = "network.safetensors"
NETWORK = NetworkOptions(backend="reference", threads=1)
_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "I8", "U8", "BOOL", "C64", "F4", "x", "")
_HUGE = (0, 1, -1, 2**31, 2**40, 2**63, 2**64)
_FLOATS = (
    [float("nan")] * 3,
    [0, 0, 0],
    [1e308] * 3,
    [1e-320] * 3,
    ["a"],
    [1],
    [[1], [1], [1]],
    {},
    True,
    "x",
    10**400,
)


def _build(folder: Path) -> None:
    write_run(folder)
    run_export(ExportOptions(str(folder / "run"), str(folder / FILE)))


def _mutate(rng: Random, copy: Path, canary: Path) -> str:
    path = copy / FILE
    chance = rng.random()
    if chance < 0.05:
        return odd_file(rng, path)
    if chance < 0.4:
        return mutate_bytes(rng, path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    text, done = rng.choice((_any_value, _of_a_tensor, _of_a_tensor, _fact, _fact, _numbers))(rng, header, data)
    encoded = text.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return f"{done} in the header"


def _any_value(rng: Random, header: Any, data: bytearray) -> tuple[str, str]:
    return mutate_json(rng, header)


def _of_a_tensor(rng: Random, header: Any, data: bytearray) -> tuple[str, str]:
    """Change what is said of a tensor: type, shape, place, name."""
    name = rng.choice([each for each in header if each != "__metadata__"])
    tensor, what = header[name], rng.choice(("dtype", "shape", "empty", "place", "name", "twice", "more"))
    if what == "dtype":
        tensor["dtype"] = rng.choice(_TYPES)
    elif what == "shape":
        shape = tensor["shape"]
        tensor["shape"] = rng.choice((shape[::-1], [*shape, 1], shape[1:], [rng.choice(_HUGE), *shape[1:]]))
    elif what == "empty":
        tensor["shape"], tensor["data_offsets"] = [0], [tensor["data_offsets"][0]] * 2
    elif what == "place":
        tensor["data_offsets"][rng.randrange(2)] = rng.choice((*_HUGE, len(data)))
    elif what == "name":
        header[rng.choice(("x", "", "a\nb", "\x1b[31m", "A" * 100_000, "trunk.x", "__metadata__"))] = header.pop(name)
    elif what == "twice":
        header[f"{name}x"] = tensor
    else:
        for number in range(rng.choice((10, 10_000))):
            header[f"x{number}"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
    return json.dumps(header), f"{what} of {name}"


def _fact(rng: Random, header: Any, data: bytearray) -> tuple[str, str]:
    """Change what the file says of its network, which is JSON within JSON."""
    facts = header["__metadata__"]
    name = rng.choice(sorted(facts))
    if rng.random() < 0.3 and name in ("mean", "std"):
        facts[name] = json.dumps(rng.choice(_FLOATS))
        return json.dumps(header), f"{name} {facts[name]:.40}"
    try:
        facts[name], done = mutate_json(rng, json.loads(facts[name]))
    except ValueError:  # a text
        facts[name] = done = rng.choice(
            ("", "x", "alexnet", "torchvision", "a\nb", "\x1b[31m", "A" * 100_000, "1", "/x.py:f")
        )
    return json.dumps(header), f"{name}: {done:.80}"


def _numbers(rng: Random, header: Any, data: bytearray) -> tuple[str, str]:
    """Put odd numbers among the weights."""
    values = np.frombuffer(bytes(data), np.float32).copy()
    odd = rng.choice((np.nan, np.inf, -np.inf, 1e38, 0.0))
    values[rng.randrange(len(values)) if rng.random() < 0.5 else slice(None)] = odd
    data[:] = values.tobytes()
    return json.dumps(header), f"numbers {odd}"


def _uses(copy: Path, sound: Path) -> Iterator[Use]:
    path = str(copy / FILE)
    yield Use("all tensors", lambda: _read(copy / FILE))
    yield Use("predict", lambda: _predict(path, str(copy / "image.png")), (3, 2, 1))
    yield Use("evaluate", lambda: _evaluate(path, str(copy / "shards")), (3, 2, 1))
    yield Use("export", lambda: run_export(ExportOptions(path, str(copy / "again.safetensors"))), (3, 2))
    yield Use("export to ONNX", lambda: run_export(ExportOptions(path, str(copy / "again.onnx"))), (3, 2))
    yield Use("train --init-from", lambda: _train(copy), (3, 2, 1))


def _read(path: Path) -> None:
    with TensorFile(path) as file:
        most = path.stat().st_size
        for name in file.shapes:
            if file.tensor(name)[...].nbytes > most:
                raise Failure(f"{name} is larger than the file")


def _predict(path: str, image: str) -> None:
    with np.errstate(all="ignore"):
        run_prediction(PredictOptions(path, (image,), network=NETWORK))


def _evaluate(path: str, shards: str) -> None:
    with np.errstate(all="ignore"):
        run_evaluation(EvaluateOptions(path, data=shards, network=NETWORK), SerialCommunicator(), 1)


def _train(copy: Path) -> None:
    config = config_for(copy / "shards", copy / "again")
    run = replace(config.run, init_from=str(copy / FILE), checkpoint_every="none", check_weights=0)
    with np.errstate(all="ignore"):
        run_training(replace(config, run=run, batch=replace(config.batch, max_steps=1)), SerialCommunicator(), 1)


KINDS = (Kind("safetensors", _build, _mutate, _uses),)
