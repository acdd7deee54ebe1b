"""What an evaluation is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from owt_mpi.evaluation.network import NetworkOptions, RankOptions
from owt_mpi.evaluation.trained import FileOptions


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated, on what, and what is told of it."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")] = ""
    """A checkpoint (step-...), or a run's folder, of which the newest is taken; best and latest lead to one, too. Also
    a .safetensors file, or a run's weights.h5."""
    data: str = ""
    """Folder of shards; by default the one that the network was trained on."""
    split: str = "val"
    """Which of its images."""
    views: Literal[0, 1, 10] = 0
    """What of an image is seen: its centre (1), or corners, centre and their mirror images, the scores of which are
    averaged (10); 0: as in the validation of the training."""
    classes: int = 10
    """How many classes to print, those with the lowest top-1 first; all are in the JSON."""
    confused: int = 10
    """How many pairs of classes to print, one taken for the other most often first; all are in the JSON."""
    worst: int = 10
    """How many images to print and to put into the JSON, those of the highest loss first."""
    json: str = ""
    """Also write all of it to this file, with every class, and the confusion matrix as [label, predicted, images]."""
    npz: str = ""
    """Also write the confusion matrix (label, predicted), and what came of every image, to this file, as NumPy's."""
    features: str = ""
    """Write what this layer makes of every image, such as fc6 or trunk.pool5; a wrong name lists those there are."""
    features_out: str = ""
    """The HDF5 file for that: features, labels and names in the order of the samples."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    ranks: RankOptions = field(default_factory=RankOptions)
    file: FileOptions = field(default_factory=FileOptions)

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.checkpoint:
            raise ValueError(
                "CHECKPOINT is missing: give a checkpoint (step-...) or a run's folder; --help has examples"
            )
        for name in ("classes", "confused", "worst"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, but must be at least 0")
        if bool(self.features) != bool(self.features_out):
            raise ValueError("--features names a layer and --features-out the file for it; give both, or none")
        for name in ("json", "npz", "features_out"):
            path = getattr(self, name)
            if path and not Path(path).resolve().parent.is_dir():
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {path}: there is no folder {Path(path).resolve().parent}")
        self.network.check()
        self.ranks.check()
        self.file.check(self.checkpoint)
