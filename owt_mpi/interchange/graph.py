"""A model's operations as it scores images, without what acts in training alone, found by running it on shapes."""

from dataclasses import dataclass

import numpy as np

from owt_mpi.autograd import Tensor, tensors_from_leaves
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context


@dataclass(frozen=True)
class ScoringGraph:
    """The symbolic `images` (1, crop, crop, channels), the `logits` (1, classes), and all that operations make between.

    `made` is in an order in which it can be computed. `names` tells by the id of a tensor what it is: the output of a
    layer by the layer's name, what it is made from on the way with the operation behind it, as in trunk.block2/AddOp.
    """

    images: Tensor
    logits: Tensor
    made: tuple[Tensor, ...]
    names: dict[int, str]


def scoring_graph(model: Model) -> ScoringGraph:
    """Return the graph of `model`. Parameters are inputs of its operations, under their names."""
    names: dict[int, str] = {}
    seen: list[Tensor] = []  # so that no other gets the id of one that leads nowhere

    def watch(layer: str, y: Tensor) -> None:
        seen.append(y)
        on_the_way = [y]
        while on_the_way:
            x = on_the_way.pop()
            if x.creator is not None and id(x) not in names:  # else made by a layer inside, or one before
                names[id(x)] = layer if x is y else f"{layer}/{type(x.creator).__name__}"
                on_the_way.extend(x.creator.inputs)

    ctx = Context(training=False, rows=np.arange(1), watch=watch)
    spec = model.spec
    # with a gradient, so that what depends on the images alone is found too
    images = Tensor(None, None, (1, spec.crop, spec.crop, spec.channels), np.float32, requires_grad=True)
    logits = model.head(model.trunk(images, ctx), ctx)
    made = tuple(y for y in tensors_from_leaves(logits) if y.creator is not None)
    return ScoringGraph(images, logits, made, names)
