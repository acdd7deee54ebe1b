"""Data sets: shards, their manifest, the mean image."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from data_prep import inspect, merge, reshard
from data_prep import verify as verify_data
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.data.manifest import MANIFEST_NAME, STATISTICS_NAME, DataError, Manifest
from owt_mpi.data.shard_format import read_mean_image
from owt_mpi.data.shard_record import read_record
from owt_mpi.training.run import run_training
from tests.hostile.byte_mutations import mutate_bytes, odd_file
from tests.hostile.hdf5_mutations import CANARY, mutate_hdf5
from tests.hostile.kinds import Kind, Use
from tests.hostile.sound import config_for, write_shards
from tests.hostile.text_mutations import mutate_json_file
from tests.hostile.verdicts import Failure

STORAGES = ("raw", "jpeg")


def _build(folder: Path) -> None:
    for storage in STORAGES:
        write_shards(folder / storage, storage)


def _shard(rng: Random, copy: Path, canary: Path) -> str:
    path = rng.choice(sorted(copy.glob("*/*-of-*.h5")))
    if rng.random() < 0.05:
        return f"{odd_file(rng, path)}, {path.parent.name}"
    done = mutate_hdf5(rng, path, canary) if rng.random() < 0.5 else mutate_bytes(rng, path)
    return f"{done}, {path.parent.name}"


def _manifest(rng: Random, copy: Path, canary: Path) -> str:
    path = copy / rng.choice(STORAGES) / MANIFEST_NAME
    if rng.random() < 0.05:
        return f"{odd_file(rng, path)}, {path.parent.name}"
    done = mutate_json_file(rng, path) if rng.random() < 0.8 else mutate_bytes(rng, path)
    return f"{done}, {path.parent.name}"


def _statistics(rng: Random, copy: Path, canary: Path) -> str:
    path = copy / "raw" / STATISTICS_NAME
    if rng.random() < 0.05:
        return odd_file(rng, path)
    return mutate_hdf5(rng, path, canary) if rng.random() < 0.6 else mutate_bytes(rng, path)


def _uses(copy: Path, sound: Path) -> Iterator[Use]:
    for storage in STORAGES:
        folder = copy / storage
        changed = _digest(folder) != _digest(sound / storage)
        if changed:
            yield Use("train", lambda folder=folder: _train(folder), (3, 2, 1))
            yield Use("verify", lambda folder=folder: _verify(folder, sound))
            yield Use(
                "inspect", lambda folder=folder: inspect.main([str(folder), "--contact-sheet", str(copy / "x.png")])
            )
            yield Use("reshard", lambda folder=folder: _reshard(copy, folder), (3, 2))
            yield Use("merge", lambda folder=folder: _merge(copy, folder, sound), (3, 2))
            yield Use("records", lambda folder=folder: _read_records(folder))


def _train(folder: Path) -> None:
    config = config_for(folder, folder.parent / "run")
    with np.errstate(all="ignore"):
        run_training(config, SerialCommunicator(), 1)


def _verify(folder: Path, sound: Path) -> None:
    """Verify, which must find every change of a shard, and tells on stdout what it finds, a line for each problem."""
    code = verify_data.main([str(folder), "--workers", "1"])
    shards = [path for path in sorted(folder.glob("*-of-*.h5")) if path.is_file() and path.stat().st_size < 1 << 30]
    there = [path.name for path in (sound / folder.name).glob("*-of-*.h5")]
    differ = len(shards) < len(there) or any(
        _sha256(path) != _sha256(sound / folder.name / path.name) for path in shards
    )
    if differ and code == 0:
        raise Failure("a data set with a changed shard is said to be sound")
    if code:
        raise DataError("it is not sound")


def _reshard(copy: Path, folder: Path) -> int:
    return reshard.main([str(folder), str(copy / "resharded"), "--shards", "3", "--workers", "1"])


def _merge(copy: Path, folder: Path, sound: Path) -> int:
    return merge.main([str(folder), str(sound / folder.name), str(copy / "merged"), "--workers", "1"])


def _read_records(folder: Path) -> None:
    """Read what a build that goes on reads, and the mean image."""
    for path in sorted(folder.glob("*-of-*.h5")):
        record = read_record(path)
        if CANARY in record.labels or len(record.class_names) > 1000:
            raise Failure(f"{path.name} is accepted with what another file holds")
    manifest = Manifest.read(folder)
    mean = read_mean_image(folder, manifest)
    if mean is not None and (mean.shape != manifest.image_shape or (mean == CANARY).any()):
        raise Failure("a mean image is accepted that is none")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.iterdir())
    return [(path.name, _sha256(path) if path.is_file() and path.stat().st_size < 1 << 30 else "odd") for path in files]


KINDS = (
    Kind("shard", _build, _shard, _uses),
    Kind("manifest of shards", _build, _manifest, _uses),
    Kind("mean image", _build, _statistics, _uses),
)
