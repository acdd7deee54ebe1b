"""What data sets are built from: archives, files of bare pixels, lists and tables."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from data_prep.images import Recipe, prepare
from data_prep.sources import open_source
from data_prep.sources.devkit import META_FILE, TRUTH_FILE
from owt_mpi.data.decode import ImageError
from tests.data_prep.ilsvrc import make_ilsvrc
from tests.data_prep.sources.test_kaggle_and_tiny import KAGGLE, TINY, as_folder
from tests.hostile.byte_mutations import mutate_bytes, odd_file
from tests.hostile.kinds import ELSEWHERE, Kind, Use
from tests.hostile.sound import write_archives, write_pixel_files
from tests.hostile.verdicts import Failure

RECIPE = Recipe("raw", 3, 8, True, 90)
MOST_READ = 50  # images of a source


def _archive(rng: Random, copy: Path, canary: Path) -> str:
    path = rng.choice(sorted(copy.iterdir()))
    _leave(copy, path)
    return odd_file(rng, path) if rng.random() < 0.03 else mutate_bytes(rng, path)


def _pixels(rng: Random, copy: Path, canary: Path) -> str:
    folder = rng.choice(sorted(copy.iterdir()))
    _leave(copy, folder)
    path = rng.choice(sorted(folder.iterdir()))
    return f"{odd_file(rng, path) if rng.random() < 0.05 else mutate_bytes(rng, path)} of {folder.name}"


def _list(rng: Random, copy: Path, canary: Path) -> str:
    folder = rng.choice(sorted(copy.iterdir()))
    _leave(copy, folder)
    lists = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".csv", ".mat")]
    chosen = [path for path in lists if path.name == META_FILE] if rng.random() < 0.3 else lists
    path = rng.choice(chosen or lists)
    return f"{odd_file(rng, path) if rng.random() < 0.05 else mutate_bytes(rng, path)} of {folder.name}"


def _leave(copy: Path, path: Path) -> None:
    """Remove all but `path`."""
    for other in copy.iterdir():
        if other != path:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def _uses(copy: Path, sound: Path) -> Iterator[Use]:
    for path in sorted(copy.iterdir()):  # one, but of the sound ones all
        yield Use("build_shards", lambda path=path: _read_source(path, copy.with_name(ELSEWHERE)), (3, 2))


def _read_source(path: Path, spool_folder: Path) -> None:
    with open_source(path, spool_folder=spool_folder) as listing:
        for images in listing.splits.values():
            for image in islice(images, MOST_READ):
                try:
                    prepared = prepare(listing.reader.read(image), image.name, RECIPE)
                except ImageError as error:
                    if len(str(error).splitlines()) != 1:
                        raise Failure(f"{error!r}") from error
                    continue
                if prepared.pixels.shape != (8, 8, 3) or prepared.pixels.dtype != np.uint8:
                    raise Failure(f"pixels {prepared.pixels.shape} are accepted")


def _write_lists(folder: Path) -> None:
    as_folder(KAGGLE, folder / "kaggle")
    as_folder(TINY, folder / "tiny")
    made = make_ilsvrc(folder / "ilsvrc", "folders")
    assert any(path.name == TRUTH_FILE for path in made.path.rglob("*"))


KINDS = (
    Kind("archive", write_archives, _archive, _uses),
    Kind("CIFAR and MNIST", write_pixel_files, _pixels, _uses),
    Kind("lists and labels", _write_lists, _list, _uses),
)
