"""Whether a training can be spread over a job's ranks: what else would end it at its start, after its queue."""

from pathlib import Path

from owt_mpi.config import Config
from owt_mpi.data.manifest import MANIFEST_NAME, Manifest
from owt_mpi.parallel.layout import images_per_rank
from owt_mpi.training.setup import build_model, make_plan


def check_training(config: Config, num_ranks: int) -> str | None:
    """Raise ValueError if `num_ranks` ranks cannot train as `config` says; return what could not be looked at, if any.

    The data may lie where only the job sees it; then classes are left out.
    """
    per_rank = config.batch.images_per_rank or images_per_rank(config.batch.global_batch, num_ranks)
    plan = make_plan(config, num_ranks)
    channels, num_classes, left_out = 3, 2520 * num_ranks, None  # so many classes suit every split
    if config.data.data == "synthetic":
        num_classes = config.data.synthetic_classes
    elif (Path(config.data.data) / MANIFEST_NAME).exists():
        manifest = Manifest.read(Path(config.data.data))
        channels, num_classes = manifest.image_shape[2], len(manifest.class_names)
    else:
        left_out = f"{config.data.data} is not to be seen from here: the number of its classes was not looked at"
    plan.check(build_model(config, channels, num_classes, config.parallel.backend), per_rank)
    return left_out
