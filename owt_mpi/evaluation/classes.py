"""Whether a network's classes are those of the data that it is evaluated on."""

from owt_mpi.data.facts import DataFacts
from owt_mpi.data.manifest import DataError
from owt_mpi.evaluation.trained import Trained


def check_classes(network: Trained, data: DataFacts, folder: str) -> str:
    """Return what is to be said of the classes. DataError, naming the first difference, if they are others."""
    number, checkpoint, trained = f"{len(data.class_names)} classes", network.path, network.facts
    unnamed = f"{number}; {checkpoint} has no names of its own to compare with"
    if trained is None:
        return unnamed
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
    if not network.has_class_names:
        return unnamed
    for number_of, (ours, theirs) in enumerate(zip(trained.class_names, data.class_names, strict=True)):
        if ours != theirs:
            raise DataError(f"class {number_of} is {ours!r} in {checkpoint}, but {theirs!r} in {folder}; {way_out}")
    return f"{number}, of the same names in checkpoint and data"
