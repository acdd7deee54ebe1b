"""Whether a checkpoint's classes are those of the data that it is evaluated on."""

from pathlib import Path

from owt_mpi.data.facts import DataFacts
from owt_mpi.data.manifest import DataError


def check_classes(trained: DataFacts | None, data: DataFacts, checkpoint: Path, folder: str) -> str:
    """Return what is to be said of the classes. DataError, naming the first difference, if they are others.

    `trained` is what the checkpoint knows of its data set, None if nothing.
    """
    number = f"{len(data.class_names)} classes"
    if trained is None:
        return f"{number}; the checkpoint, an early one, has no names of its own to compare with"
    way_out = "give the --data of the classes that it was trained on"
    if trained.num_channels != data.num_channels:
        raise DataError(
            f"{checkpoint} is of images with {trained.num_channels} channels, those of {folder} have "
            f"{data.num_channels}; give --data with such images"
        )
    if len(trained.class_names) != len(data.class_names):
        raise DataError(
            f"{checkpoint} was trained on {len(trained.class_names)} classes, {folder} has {number}; {way_out}"
        )
    for number_of, (ours, theirs) in enumerate(zip(trained.class_names, data.class_names, strict=True)):
        if ours != theirs:
            raise DataError(f"class {number_of} is {ours!r} in {checkpoint}, but {theirs!r} in {folder}; {way_out}")
    return f"{number}, of the same names in checkpoint and data"
