"""A trained network, whatever it is kept in: a checkpoint, a run's weights.h5, or a safetensors file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from owt_mpi.checkpoint.format import CheckpointManifest
from owt_mpi.checkpoint.reader import Checkpoint
from owt_mpi.checkpoint.weights import opened_weights
from owt_mpi.comm.base import Communicator
from owt_mpi.config import Config, ModelOptions
from owt_mpi.data.facts import DataFacts
from owt_mpi.data.manifest import DataError, Manifest
from owt_mpi.data_options import DataOptions
from owt_mpi.input_file import printable
from owt_mpi.interchange.facts import TORCHVISION, NetworkFacts
from owt_mpi.interchange.network_file import layout_of, names_in, weights_in
from owt_mpi.interchange.tensor_file import SUFFIX, InterchangeError, TensorFile
from owt_mpi.nn.model import Model
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.preset_files import config_from, load_preset
from owt_mpi.training.checkpoints import named_checkpoint
from owt_mpi.training.setup import build_model

WEIGHTS_SUFFIX = ".h5"
_LONGEST_SAID = 200
_WAY_OUT = "give the --data of the classes that it was trained on"


@dataclass(frozen=True)
class FileOptions:
    """What a .safetensors file does not say; a checkpoint knows it."""

    crop: int = 0
    """Side of the square that the network in the file sees; by default as the file says, else 224."""
    size: int = 0
    """Short side that image files are brought to before that is cut out; by default as the file says, else 256."""
    mean: tuple[float, ...] = ()
    """What to take off each channel of its pixels (0..255); by default as the file says, else as torchvision's weights
    for ImageNet need it: 123.675 116.28 103.53."""
    std: tuple[float, ...] = ()
    """What to divide each channel by then; by default as the file says, else 58.395 57.12 57.375."""

    def check(self, named: str) -> None:
        """Raise ValueError if they are not for what was `named`, or cannot be."""
        given = [name for name in ("crop", "size", "mean", "std") if getattr(self, name)]
        if given and not named.endswith(SUFFIX):
            raise ValueError(f"--{given[0]} is for a {SUFFIX} file that does not say it; {named} does")
        for name in ("crop", "size"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, but must be at least 0")
        if any(each <= 0 for each in self.std) or len(self.mean) != len(self.std):
            raise ValueError(
                f"--mean is {self.mean} and --std {self.std}, but they go together, one number a channel, and those of "
                "--std must be above 0"
            )


@dataclass(frozen=True)
class Trained:
    """A trained network. `facts` are what is known of its images, None if nothing; `said` is for people.

    `open_weights(model)` gives the weights of `model`, global arrays by name that read when they are sliced.
    """

    path: Path
    said: str
    config: Config
    facts: DataFacts | None
    global_batch: int
    open_weights: Callable[[Model], AbstractContextManager[Mapping[str, Any]]]
    has_class_names: bool = True


def open_trained(named: str, model: str, file: FileOptions, world: Communicator) -> Trained:
    """Return the network in a .safetensors file, a run's weights.h5, a checkpoint, or a run's newest. All ranks call.

    `model` is the --model given, "" for none. ValueError, in one line, if it is damaged or does not tell enough.
    """
    path = Path(named)
    if path.suffix == SUFFIX:
        return _of_safetensors(path, model, file)
    if path.suffix == WEIGHTS_SUFFIX:
        return _of_weights(path)
    return _of_checkpoint(named_checkpoint(path, world))


def num_classes_of(trained: Trained) -> int:
    """Return how many classes the network tells apart, where nothing is known of its images."""
    model = _model_without_classes(trained.config, 3)
    with trained.open_weights(model) as weights:
        return _num_classes(model, {name: array.shape for name, array in weights.items()}, trained.path)


def facts_of_data(folder: str) -> DataFacts:
    """Return the facts of the shards in `folder`. DataError if there are none."""
    return DataFacts.of(Manifest.read(Path(folder)))


def _of_checkpoint(path: Path) -> Trained:
    manifest = CheckpointManifest.read(path)
    config = config_from(manifest.config, f"{path}: its configuration")
    _check(config, path)
    facts = DataFacts.from_json(manifest.data_set, str(path)) if manifest.data_set else None
    known = manifest.state.get("global_batch")
    batch = known if isinstance(known, int) else _batch_of(config)

    @contextmanager
    def weights(_: Model) -> Iterator[Mapping[str, Any]]:
        with Checkpoint(path) as checkpoint:
            yield checkpoint.weights

    return Trained(
        path, f"step {manifest.step}, {printable(manifest.program)[:_LONGEST_SAID]}", config, facts, batch, weights
    )


def _of_weights(path: Path) -> Trained:
    """Return the network of a run's weights file, beside which its configuration lies."""
    options = path.parent / "config.toml"
    if not options.is_file():
        raise ValueError(f"{path}: its run's config.toml is not beside it; name the file in the run's own folder")
    config = load_preset(str(options))
    _check(config, path)
    try:
        facts = facts_of_data(config.data.data)
    except DataError:
        facts = None
    return Trained(path, "a run's weights", config, facts, _batch_of(config), lambda _: opened_weights(path))


def _check(config: Config, path: Path) -> None:
    """Raise ValueError where options, which a file may say, cannot be."""
    try:
        config.check()
    except ValueError as error:
        raise ValueError(f"{path}: its configuration is unsound: {error}") from error


def _batch_of(config: Config) -> int:
    return config.batch.global_batch or config.batch.images_per_rank


def _of_safetensors(path: Path, model: str, given: FileOptions) -> Trained:
    with TensorFile(path) as file:
        says = NetworkFacts.from_metadata(file.metadata, str(path))
        facts = replace(
            says,
            model=model or says.model,
            crop=given.crop or says.crop or TORCHVISION.crop,
            mean=given.mean or says.mean or TORCHVISION.mean,
            std=given.std or says.std or TORCHVISION.std,
            size=given.size or (says.size if says.crop else max(TORCHVISION.size, given.crop)),
        )
        _check_model(path, model, says)
        config = Config(
            model=ModelOptions(facts.model, facts.crop, facts.fc_crosstalk, facts.fc_blocks or ModelOptions.fc_blocks),
            data=DataOptions(normalise="mean-std"),
            parallel=ParallelOptions(dtype="float64" if set(file.dtypes.values()) == {"F64"} else "float32"),
        )
        num_channels = len(facts.mean)
        probe = _model_without_classes(config, num_channels)
        names = names_in(layout_of(file), probe, facts.model)
        shapes = {own: file.shapes[name] for own, name in names.items() if name in file.shapes}
        num_classes = _num_classes(probe, shapes, path)
    class_names = says.class_names or tuple(map(str, range(num_classes)))
    images = DataFacts(class_names, says.class_titles, facts.mean, facts.std, facts.size or None, facts.square)
    said = printable(says.trained)[:_LONGEST_SAID] or "of another program"
    open_weights = partial(_weights_of_file, path, facts.model)
    return Trained(path, said, config, images, _batch_of(config), open_weights, bool(says.class_names))


@contextmanager
def _weights_of_file(path: Path, shipped_as: str, model: Model) -> Iterator[Mapping[str, Any]]:
    with TensorFile(path) as file:
        yield weights_in(file, model, shipped_as, _WAY_OUT)


def _check_model(path: Path, given: str, says: NetworkFacts) -> None:
    """Raise InterchangeError where the network is in no file that may be run, or is named nowhere."""
    if given or says.model in MODELS:
        return
    if not says.model:
        raise InterchangeError(f"{path} does not say what network it is of; give --model, such as --model alexnet")
    raise InterchangeError(
        f"{path} is of the network {says.model[:200]!r}, which does not come with owt_mpi; give --model "
        "FILE.py:FUNCTION, a file that you trust: it is run"
    )


def _model_without_classes(config: Config, num_channels: int) -> Model:
    """Return the network for a number of classes that any options go with: to see what its parameters are called."""
    return build_model(config, num_channels, config.model.fc_blocks, "reference")


def _num_classes(model: Model, shapes: Mapping[str, tuple[int, ...]], path: Path) -> int:
    """Return how many classes the last layer has by the `shapes` of parameters. ValueError if it is not there."""
    name = model.head.parameters()[-1].name
    if len(shapes.get(name, ())) != 1:
        raise ValueError(f"{path} has no biases of the last layer, {name} here; give the --model that it is of")
    return shapes[name][0]
