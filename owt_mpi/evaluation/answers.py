"""What a trained network says of image files, which are brought to it as the images of its validation were."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from owt_mpi.comm.guard import DATA_ERROR, USAGE_ERROR, CollectiveExit
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.config import Config
from owt_mpi.data.augment import CentreView, TenViews
from owt_mpi.data.decode import ImageError, in_mode
from owt_mpi.data.facts import DataFacts, mean_and_scale
from owt_mpi.data.image_file import fitted, opened_image
from owt_mpi.data.loader import Batch
from owt_mpi.data.manifest import DataError
from owt_mpi.data.windows import copy_window
from owt_mpi.evaluation.network import NetworkOptions, RankOptions, config_to_look, load_network
from owt_mpi.evaluation.outcomes import scores_of
from owt_mpi.evaluation.trained import FileOptions, Trained, facts_of_data, open_trained
from owt_mpi.input_file import one_line, printable
from owt_mpi.outputs import outputs_of
from owt_mpi.trainer import Trainer
from owt_mpi.training.setup import agreed, build_model, make_plan, open_backend

_ROWS = 32  # images that are in memory together
_LARGEST_FILE = 1 << 30


@dataclass(frozen=True)
class PredictOptions:
    """Which network is asked about what."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")] = ""
    """A checkpoint (step-...), a run's folder, of which the newest is taken, a run's weights.h5, or a .safetensors
    file."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")] = ()
    """Image files."""
    data: str = ""
    """Folder of shards that names the classes, where the checkpoint or file does not; by default the one that the
    network was trained on."""
    views: Literal[0, 1, 10] = 0
    """What of an image is seen: its centre (1), or corners, centre and their mirror images, the scores of which are
    averaged (10); 0: as in the validation of the training."""
    top: int = 5
    """How many classes to name, that of the highest score first."""
    json: str = ""
    """Also write the answers to this file."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    file: FileOptions = field(default_factory=FileOptions)

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.checkpoint or not self.images:
            raise ValueError(
                "give a checkpoint (step-...) or a run's folder, and then image files; --help has examples"
            )
        if self.top < 1:
            raise ValueError(f"--top is {self.top}, but must be at least 1")
        if self.json and not Path(self.json).resolve().parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {Path(self.json).resolve().parent}")
        self.network.check()
        self.file.check(self.checkpoint)


@dataclass(frozen=True)
class Answer:
    """The classes of the highest scores for one image, by number, and their scores."""

    image: str
    classes: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class _Asked:
    """A network, and how images are brought to it."""

    trainer: Trainer
    config: Config
    facts: DataFacts


def run_prediction(options: PredictOptions) -> None:
    """Print the classes that the network names for each image file.

    What is wrong with options, checkpoint or images ends it with a CollectiveExit.
    """
    asked = _set_up(options)
    titles = asked.facts.titles
    answers = []
    try:
        for answer in _answers(asked, options.images, options.top):
            answers.append(answer)
            print(answer.image)
            for number, score in zip(answer.classes, answer.scores, strict=True):
                print(f"  {score:8.4f}  {printable(titles[number])}", flush=True)
        if options.json:
            content = [_as_json(answer, asked.facts) for answer in answers]
            Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (DataError, OSError) as error:
        raise CollectiveExit(DATA_ERROR, f"error: {one_line(error)}") from None


def _set_up(options: PredictOptions) -> _Asked:
    """Return the network. CollectiveExit if something is wrong."""
    world = SerialCommunicator()
    with agreed(world, DATA_ERROR):
        trained = open_trained(options.checkpoint, options.network.model, options.file, world)
        facts = _named_facts(trained, options.data)
    with agreed(world, USAGE_ERROR):
        config = config_to_look(trained.config, options.network, RankOptions(scheme="dp"), options.views)
        backend, _, _ = open_backend(config, world, ranks_sharing_cores=1)
        model = build_model(config, facts.num_channels, len(facts.class_names), backend.name)
        plan = make_plan(config, 1)
    with agreed(world, DATA_ERROR):
        trainer = load_network(trained, config, model, plan, world, backend, min(len(options.images), _ROWS))
    return _Asked(trainer, config, facts)


def _named_facts(trained: Trained, data: str) -> DataFacts:
    """Return the facts of the network's images, with names of classes from the shards in `data` where it has none.

    DataError if nothing is known of them.
    """
    if trained.facts is not None and (trained.has_class_names or not data):
        return trained.facts
    folder = data or trained.config.data.data
    if folder == "synthetic":
        raise DataError(f"{trained.path} was trained on random images (synthetic), whose classes have no names")
    try:
        named = facts_of_data(folder)
    except DataError as error:
        raise DataError(
            f"{trained.path} does not name its classes; give --data the shards that it was trained on ({error})"
        ) from error
    if trained.facts is None:
        return named
    return replace(trained.facts, class_names=named.class_names, class_titles=named.class_titles)


def _answers(asked: _Asked, images: Sequence[str], top: int) -> Iterator[Answer]:
    """Yield what the network says of each image. DataError, naming the file, for one that cannot be used."""
    crop = (asked.config.model.crop, asked.config.model.crop)
    augmentation = TenViews(crop) if asked.config.data.validation_views == 10 else CentreView(crop)
    for start in range(0, len(images), _ROWS):
        names = images[start : start + _ROWS]
        pixels = [read_image(Path(name), asked.facts, crop[0]) for name in names]
        logits = [
            outputs_of(asked.trainer, _batch(asked, pixels, augmentation, view), None)[0]
            for view in range(augmentation.num_views)
        ]
        scores = scores_of(asked.trainer.model.loss, logits)
        for name, of_image in zip(names, scores, strict=True):
            if not np.isfinite(of_image).all():
                raise CollectiveExit(
                    1,
                    f"error: the network's outputs for {name} are no finite numbers; take an earlier checkpoint, or "
                    "--precision fp32",
                )
            best = np.argsort(-of_image, kind="stable")[:top]
            yield Answer(name, tuple(best.tolist()), tuple(of_image[best].tolist()))


def read_image(path: Path, facts: DataFacts, crop: int) -> np.ndarray:
    """Return the pixels (h, w, c) uint8 of an image file as the data set would have them.

    DataError, naming the file, if it is no sound image, or smaller than the `crop` that is cut out.
    """
    try:
        if not path.is_file():
            raise ImageError("there is no such file")
        if path.stat().st_size > _LARGEST_FILE:
            raise ImageError(f"it has more than {_LARGEST_FILE} bytes")
        with opened_image(path.read_bytes()) as opened:
            image = fitted(in_mode(opened, facts.num_channels), facts.size, facts.square)
            pixels = np.asarray(image).reshape(image.height, image.width, facts.num_channels)
        if min(pixels.shape[:2]) < crop:
            raise ImageError(f"it is {pixels.shape[0]}x{pixels.shape[1]}, and the network sees {crop}x{crop} of it")
    except (ImageError, OSError) as error:
        raise DataError(f"{path} cannot be used: {error}") from error
    return pixels


def _batch(asked: _Asked, images: Sequence[np.ndarray], augmentation: CentreView | TenViews, view: int) -> Batch:
    """Return one view of the images as the network takes it."""
    trainer, facts, rows = asked.trainer, asked.facts, np.arange(len(images))
    views = augmentation.views(0, rows, np.array([image.shape[:2] for image in images]), view)
    pixels = trainer.backend.host_empty((len(images), *augmentation.crop, facts.num_channels), np.uint8)
    for image, window, target in zip(images, views.windows.tolist(), pixels, strict=True):
        copy_window(image, window, target)
    mean, scale = mean_and_scale(facts.mean, facts.std, asked.config.data.normalise)
    shown = trainer.backend.start_normalise(pixels, views.flips, mean, scale, None, trainer.dtype)()
    return Batch(shown, np.full(len(images), -1), rows, rows, None)


def _as_json(answer: Answer, facts: DataFacts) -> dict[str, Any]:
    classes = zip(answer.classes, answer.scores, strict=True)
    return {
        "image": answer.image,
        "classes": [
            {"label": number, "name": facts.class_names[number], "title": facts.titles[number], "score": score}
            for number, score in classes
        ],
    }
