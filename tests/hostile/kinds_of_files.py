"""Single files: presets and images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from data_prep.images import Recipe, prepare
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.command_line import usage_errors
from owt_mpi.data.decode import BROKEN, ImageError, decode_window, silence_pillow
from owt_mpi.data.facts import DataFacts
from owt_mpi.evaluation.answers import read_image
from owt_mpi.preset_files import load_preset
from owt_mpi.training.run import run_training
from tests.hostile.byte_mutations import mutate_bytes, odd_file
from tests.hostile.kinds import Kind, Use
from tests.hostile.sound import CLASSES, write_images, write_preset
from tests.hostile.text_mutations import mutate_toml_file
from tests.hostile.verdicts import Failure

FACTS = DataFacts(CLASSES, (), (100.0,) * 3, (50.0,) * 3, 24, True)


def _preset(rng: Random, copy: Path, canary: Path) -> str:
    path = copy / "preset.toml"
    if rng.random() < 0.05:
        return odd_file(rng, path)
    return mutate_toml_file(rng, path) if rng.random() < 0.85 else mutate_bytes(rng, path)


def _dry_run(copy: Path) -> None:
    with usage_errors():
        config = load_preset(str(copy / "preset.toml"))
        config = replace(config, run=replace(config.run, dry_run=True, json=""))
        config.check()
    size = config.parallel.virtual_ranks
    if size:
        run_ranks(size, lambda world: run_training(config, world, size))
    else:
        run_training(config, SerialCommunicator(), 1)


def _uses_of_preset(copy: Path, sound: Path) -> Iterator[Use]:
    yield Use("train --dry-run", lambda: _dry_run(copy), (2, 3))


def _image(rng: Random, copy: Path, canary: Path) -> str:
    path = rng.choice(sorted(copy.iterdir()))
    for other in copy.iterdir():
        if other != path:
            other.unlink()
    return odd_file(rng, path) if rng.random() < 0.03 else mutate_bytes(rng, path)


def _uses_of_image(copy: Path, sound: Path) -> Iterator[Use]:
    for path in sorted(copy.iterdir()):  # one, but of the sound ones all
        yield Use("predict", lambda path=path: _read_for_prediction(path))
        if path.is_file() and path.stat().st_size < 1 << 20:
            yield Use("build_shards", lambda path=path: _prepare(path.name, path.read_bytes()))
            yield Use("training on encoded shards", lambda path=path: _decode(path.read_bytes()))


def _read_for_prediction(path: Path) -> None:
    pixels = read_image(path, FACTS, 24)
    if pixels.shape != (24, 24, 3) or pixels.dtype != np.uint8:
        raise Failure(f"pixels {pixels.shape} {pixels.dtype} are accepted")


def _prepare(name: str, content: bytes) -> None:
    for recipe in (Recipe("jpeg", 3, 24, False, 90), Recipe("jpeg", 1, None, False, 90)):
        prepared = prepare(content, name, recipe)
        if prepared.pixels.ndim != 3 or prepared.pixels.shape[2] != recipe.channels:
            raise Failure(f"pixels {prepared.pixels.shape} are accepted")


def _decode(content: bytes) -> None:
    """Decode a window as the training does, whose reader names shard and row of what is raised."""
    silence_pillow()
    for use_draft in (False, True):
        try:
            decode_window(content, (1, 2, 24, 24), np.empty((12, 12, 3), np.uint8), use_draft)
        except BROKEN as error:
            raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


KINDS = (
    Kind("preset (TOML)", write_preset, _preset, _uses_of_preset),
    Kind("image file", write_images, _image, _uses_of_image),
)
