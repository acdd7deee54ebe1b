"""Checkpoints damaged, and forged: changed with all checksums made right again; weights.h5."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from owt_mpi.checkpoint.__main__ import main as checkpoint_command
from owt_mpi.checkpoint.format import MANIFEST_NAME, CheckpointError, CheckpointManifest, finished_entry
from owt_mpi.checkpoint.reader import Checkpoint, verify
from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.evaluation.answers import PredictOptions, run_prediction
from owt_mpi.evaluation.network import NetworkOptions
from owt_mpi.training.run import run_training
from tests.hostile.byte_mutations import mutate_bytes, odd_file
from tests.hostile.hdf5_mutations import CANARY, mutate_hdf5
from tests.hostile.kinds import Kind, Use
from tests.hostile.sound import STEPS, config_for, write_run
from tests.hostile.text_mutations import mutate_json
from tests.hostile.verdicts import Failure

NAME = f"step-{STEPS:09d}"


def _checkpoint(folder: Path) -> Path:
    return folder / "run" / "checkpoints" / NAME


def _damaged(rng: Random, copy: Path, canary: Path) -> str:
    """Change any file of the checkpoint; its checksums stay."""
    path = rng.choice(sorted(_checkpoint(copy).iterdir()))
    if rng.random() < 0.1:
        return odd_file(rng, path)
    if path.suffix == ".h5" and rng.random() < 0.3:
        return mutate_hdf5(rng, path, canary)
    return mutate_bytes(rng, path)


def _forged_part(rng: Random, copy: Path, canary: Path) -> str:
    path = rng.choice(sorted(_checkpoint(copy).glob("part-*")))
    done = mutate_hdf5(rng, path, canary) if rng.random() < 0.5 else mutate_bytes(rng, path)
    manifest = CheckpointManifest.read(path.parent)
    replace(manifest, files={**manifest.files, path.name: finished_entry(path)}).write(path.parent)
    return f"forged: {done}"


def _forged_manifest(rng: Random, copy: Path, canary: Path) -> str:
    path = _checkpoint(copy) / MANIFEST_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]
    text, done = mutate_json(rng, content)
    try:
        changed: Any = json.loads(text)
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        text = json.dumps({**changed, "sha256": digest})
    except (ValueError, RecursionError, TypeError):  # what cannot be read cannot be forged either
        pass
    path.write_text(text, encoding="utf-8")
    return f"forged: {done}"


def _uses(copy: Path, sound: Path) -> Iterator[Use]:
    folder = _checkpoint(copy)
    yield Use("checkpoint show", lambda: checkpoint_command(["show", str(folder)]))
    yield Use("checkpoint verify", lambda: _verify(copy / "run"))
    yield Use("checkpoint diff", lambda: _diff(folder, _checkpoint(sound)))
    yield Use("predict", lambda: _predict(copy, folder), (3, 2, 1))
    yield Use("train --resume", lambda: _resume(copy, folder), (3, 2, 1))


def _uses_of_damaged(copy: Path, sound: Path) -> Iterator[Use]:
    yield from _uses(copy, sound)
    yield Use("equal to the sound one", lambda: _check_equal(copy, sound))


def _uses_of_forged_parts(copy: Path, sound: Path) -> Iterator[Use]:
    yield from _uses(copy, sound)
    yield Use("of the sound one's shapes", lambda: _check_shapes(copy, sound))


def _verify(run: Path) -> None:
    """Verify all checkpoints of a run, which tells on stdout what it finds, a line for each damaged one."""
    if checkpoint_command(["verify", str(run)]):
        raise CheckpointError("it is damaged")


def _diff(folder: Path, sound: Path) -> int:
    """Compare with the sound one, from which it may differ."""
    code = checkpoint_command(["diff", str(folder), str(sound)])
    return 0 if code == 1 else code


def _predict(copy: Path, folder: Path) -> None:
    options = PredictOptions(
        str(folder), (str(copy / "image.png"),), network=NetworkOptions(backend="reference", threads=1)
    )
    with np.errstate(all="ignore"):
        run_prediction(options)


def _resume(copy: Path, folder: Path) -> None:
    """Go on for one step, or none where the checkpoint is said to be at the end."""
    config = config_for(copy / "shards", copy / "again")
    run = replace(config.run, resume=str(folder), checkpoint_every="none", check_weights=0)
    batch = replace(config.batch, max_steps=STEPS + 1)
    with np.errstate(all="ignore"):
        run_training(replace(config, run=run, batch=batch), SerialCommunicator(), 1)


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    with Checkpoint(folder) as checkpoint:
        kinds = {"weights": checkpoint.weights, "momentum": checkpoint.momentum}
        return {f"{kind}/{name}": array[...] for kind, arrays in kinds.items() for name, array in arrays.items()}


def _check_equal(copy: Path, sound: Path) -> None:
    if verify(_checkpoint(copy)) != verify(_checkpoint(sound)):
        raise Failure("another manifest is accepted")
    found, expected = _arrays(_checkpoint(copy)), _arrays(_checkpoint(sound))
    if found.keys() != expected.keys() or any(not np.array_equal(found[name], expected[name]) for name in expected):
        raise Failure("other arrays are accepted")


def _check_shapes(copy: Path, sound: Path) -> None:
    """What a forger says of an array's elements is anybody's guess, but not what other files hold."""
    verify(_checkpoint(copy))
    for name, values in _arrays(_checkpoint(copy)).items():
        if values.dtype.kind != "f" or values.nbytes > 1 << 26 or (values == CANARY).any():
            raise Failure(f"{name} of {values.dtype} {values.shape} is accepted, or is what another file holds")


def _weights(rng: Random, copy: Path, canary: Path) -> str:
    path = copy / "run" / "weights.h5"
    if rng.random() < 0.05:
        return odd_file(rng, path)
    return mutate_hdf5(rng, path, canary) if rng.random() < 0.5 else mutate_bytes(rng, path)


def _read_weights(copy: Path, sound: Path) -> None:
    expected = read_weights(sound / "run" / "weights.h5")
    found = read_weights(copy / "run" / "weights.h5")
    if found.keys() != expected.keys() or any(not np.array_equal(found[name], expected[name]) for name in expected):
        raise Failure("other weights are accepted")


def _uses_of_weights(copy: Path, sound: Path) -> Iterator[Use]:
    yield Use("read_weights", lambda: _read_weights(copy, sound))


KINDS = (
    Kind("checkpoint", write_run, _damaged, _uses_of_damaged),
    Kind("checkpoint, forged part", write_run, _forged_part, _uses_of_forged_parts),
    Kind("checkpoint, forged manifest", write_run, _forged_manifest, _uses),
    Kind("weights.h5", write_run, _weights, _uses_of_weights),
)
