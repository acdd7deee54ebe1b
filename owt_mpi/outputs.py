"""What the network makes of a rank's own images: logits of all classes, and the output of a layer, whole."""

from dataclasses import dataclass
from math import prod

import numpy as np

from owt_mpi.autograd import Tensor, symbolic
from owt_mpi.backends.base import Array
from owt_mpi.comm.place import enter
from owt_mpi.data.loader import Batch
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context, symbolic_context
from owt_mpi.spans import about
from owt_mpi.trainer import Trainer


@dataclass(frozen=True)
class Layer:
    """A layer by its name from the root, such as trunk.conv1, and the shape that it makes of one image."""

    name: str
    shape: tuple[int, ...]

    @property
    def is_in_head(self) -> bool:
        """Whether its outputs are split over ranks and passes."""
        return self.name.split(".")[0] == "head"


def layers_of(model: Model) -> dict[str, Layer]:
    """Return all layers whose outputs can be seen, by name, in the order in which they are computed."""
    layers: dict[str, Layer] = {}

    def watch(name: str, y: Tensor) -> None:
        layers[name] = Layer(name, tuple(y.shape[1:]))

    spec = model.spec
    ctx = symbolic_context(1, watch)
    model.head(model.trunk(symbolic((1, spec.crop, spec.crop, spec.channels)), ctx), ctx)
    return layers


def find_layer(model: Model, name: str) -> Layer:
    """Return the layer called `name`, from the root (trunk.conv1) or, where one alone ends so, from its end (conv1)."""
    layers = layers_of(model)
    if name in layers:
        return layers[name]
    found = [layer for layer in layers.values() if layer.name.endswith(f".{name}")]
    if len(found) != 1:
        raise ValueError(f"--features {name}: the network has no such layer; choose one of {', '.join(layers)}")
    return found[0]


def outputs_of(trainer: Trainer, batch: Batch, layer: Layer | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the logits (n, classes) of this rank's images, and what `layer` made of them (n, ...). All ranks call.

    Both are on the host, float64 where that is computed in, else float32. Of a layer that runs more than once the last
    output is returned.
    """
    enter("evaluation")
    seen: list[Array] = []

    def watch(name: str, y: Tensor) -> None:
        if layer is not None and name == layer.name:
            if not layer.is_in_head:
                seen.clear()
            seen.append(y.data)

    ctx = Context(False, batch.rows, trainer.seed, watch=None if layer is None else watch)
    passes = trainer.forward_only(batch, ctx)
    logits = _own_rows(trainer, [each.logits for each in passes], trainer.model.spec.num_classes)
    if layer is None:
        return logits, None
    if not layer.is_in_head:
        return logits, _on_host(trainer, seen[0])
    return logits, _own_rows(trainer, seen, prod(layer.shape))


def _own_rows(trainer: Trainer, outputs: list[Array], width: int) -> np.ndarray:
    """Return the whole rows (n, width) of this rank's images, given each pass's rows, or blocks of their columns."""
    layout, size = trainer.layout, trainer.layout.head.size
    joined = np.concatenate([_on_host(trainer, each) for each in outputs])
    num_rows = len(joined) // size
    in_order = np.empty_like(joined)
    in_order[np.concatenate([layout.scheme.group_rows(size, num_rows, p) for p in range(len(outputs))])] = joined
    if joined.shape[1] == width:
        return in_order[layout.head.rank * num_rows : (layout.head.rank + 1) * num_rows]
    with about("outputs"):
        return np.asarray(layout.head.start_all_to_all(in_order, split_axis=0, concat_axis=1).wait())


def _on_host(trainer: Trainer, array: Array) -> np.ndarray:
    return np.ascontiguousarray(trainer.backend.to_host(array).astype(trainer.exact_dtype, copy=False))
