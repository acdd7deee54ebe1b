"""What a run that begins with the weights in a file takes from there, and what it says of that."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from owt_mpi.config import Config
from owt_mpi.interchange.facts import TORCHVISION, NetworkFacts
from owt_mpi.interchange.network_file import layout_of, weights_in
from owt_mpi.interchange.tensor_file import TensorFile
from owt_mpi.nn.model import Model

_FACTOR = 2.0  # between the ranges of pixels that a network was trained on and is shown: more is a mistake


class FirstWeights(NamedTuple):
    """Global arrays by name that read when they are sliced, the parameters that are `drawn` instead; for people."""

    values: Mapping[str, Any]
    drawn: frozenset[str]
    said: list[str]


@contextmanager
def first_weights(config: Config, model: Model, scale: np.ndarray) -> Iterator[FirstWeights]:
    """Give what --init-from and --init-except say, for pixels that are multiplied by `scale`.

    ValueError, naming all that is wrong, if the file does not fit the model.
    """
    path, given = Path(config.run.init_from), config.run.init_except
    drawn = drawn_parameters(config, model)
    last = model.head.parameters()[-1].name.split(".")[1]
    way_out = f"give --init-except {last} to begin that layer anew, or the --data of the file's classes"
    with TensorFile(path) as file:
        values = weights_in(file, model, config.model.model, way_out, drawn)
        anew = f", {given} anew" if given else ""
        said = [f"first weights: {len(values)} arrays of {path}{anew}"]
        yield FirstWeights(values, drawn, said + _warnings(file, scale))


def drawn_parameters(config: Config, model: Model) -> frozenset[str]:
    """Return the names of the parameters in the layers of --init-except. ValueError if there is no such layer."""
    given = config.run.init_except
    return frozenset(name for layer in given.split(",") if given for name in _parameters_of(model, layer.strip()))


def _parameters_of(model: Model, layer: str) -> list[str]:
    """Return the names of a layer's parameters; the layer's own is from the root (head.fc8) or its end (fc8)."""
    modules = [module for root in (model.trunk, model.head) for module in root.modules() if module.parameters()]
    found = [module for module in modules if f".{module.name}".endswith(f".{layer}")]
    if len(found) != 1:
        names = ", ".join(module.name for module in modules if list(module.own_parameters()))
        raise ValueError(f"--init-except {layer}: the network has no such layer with weights; it has {names}")
    return [parameter.name for parameter in found[0].parameters()]


def _warnings(file: TensorFile, scale: np.ndarray) -> list[str]:
    """Return what to say where the network in the file was trained on pixels of another range."""
    says = NetworkFacts.from_metadata(file.metadata, str(file.path))
    std = says.std or (TORCHVISION.std if layout_of(file) == "torchvision" else ())
    if len(std) != len(scale) or np.all(np.abs(np.log(scale * np.array(std))) < np.log(_FACTOR)):
        return []
    return [
        f"WARNING: the network in {file.path} was trained on pixels divided by {_numbers(std)}, and this run divides "
        f"them by {_numbers(1.0 / scale)}; --normalise mean-std divides by the data's standard deviation"
    ]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
