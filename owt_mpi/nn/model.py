"""A model: a convolutional trunk, a fully connected head, and a loss."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from owt_mpi.autograd import Parameter, symbolic
from owt_mpi.nn.layers import BlockLinear, Dropout, Linear, ReLU
from owt_mpi.nn.module import Module, Sequential, assign_names, symbolic_context

Loss = Literal["logistic", "softmax"]


@dataclass(frozen=True)
class InputSpec:
    """What the network sees: square images of side `crop` with `channels`, and how many classes they fall into."""

    crop: int
    channels: int
    num_classes: int


class Model:
    """A network cut in two: the trunk runs data parallel, the head model parallel.

    The trunk is any module that maps (n, crop, crop, channels) to (n, features). The head is a Sequential of Linear,
    BlockLinear, ReLU and Dropout that maps these features to one logit a class: the layers that can be split over
    ranks.
    ValueError, in words for whoever wrote the model, if the parts do not fit together.
    """

    def __init__(self, name: str, spec: InputSpec, trunk: Module, head: Sequential, loss: Loss) -> None:
        self.name, self.spec, self.trunk, self.head, self.loss = name, spec, trunk, head, loss
        assign_names(trunk, "trunk")
        assign_names(head, "head")
        self._check()

    def parameters(self) -> list[Parameter]:
        """Return the parameters of trunk and head."""
        return self.trunk.parameters() + self.head.parameters()

    @property
    def num_features(self) -> int:
        """How many features an example has at the boundary of trunk and head."""
        return num_features(self.trunk, self.spec)

    def _check(self) -> None:
        if self.loss not in ("logistic", "softmax"):
            raise ValueError(f"model {self.name}: loss is {self.loss!r}, but must be 'logistic' or 'softmax'")
        self._check_listed_once()
        for layer in self.head.layers.values():
            if type(layer) not in (Linear, BlockLinear, ReLU, Dropout):
                raise ValueError(
                    f"model {self.name}: {layer.name} is a {type(layer).__name__}, but the head can only hold Linear, "
                    "BlockLinear, ReLU and Dropout layers; put it into the trunk"
                )
        linears = [layer for layer in self.head.layers.values() if isinstance(layer, Linear | BlockLinear)]
        if not linears:
            raise ValueError(f"model {self.name}: the head needs at least one Linear layer")
        features = self.num_features
        self._check_all_used()
        for layer in linears:
            if layer.inputs != features:  # `features` are those of the layer before
                raise ValueError(
                    f"model {self.name}: {layer.name} takes {layer.inputs} features, but gets {features} from what is "
                    "before it; nn.model.num_features(trunk, spec) tells the number at the end of a trunk"
                )
            features = layer.outputs
        if features != self.spec.num_classes:
            raise ValueError(
                f"model {self.name}: the head ends in {features} outputs, but the data has {self.spec.num_classes} "
                "classes; build the last layer with spec.num_classes"
            )

    def _check_listed_once(self) -> None:
        """Raise ValueError if a module has two names: masks, initial values and files go by the name."""
        names: dict[int, str] = {}
        for root, prefix in ((self.trunk, "trunk"), (self.head, "head")):
            for name, module in _walk(root, prefix):
                first = names.setdefault(id(module), name)
                if first != name:
                    raise ValueError(
                        f"model {self.name}: {first} and {name} are one {type(module).__name__} object; make two, or "
                        "call the one twice in a forward of your own"
                    )

    def _check_all_used(self) -> None:
        """Raise ValueError if the trunk has parameters that its output does not depend on."""
        x = symbolic((1, self.spec.crop, self.spec.crop, self.spec.channels))
        stack, seen = [self.trunk(x, symbolic_context())], set[int]()
        while stack:
            tensor = stack.pop()
            if id(tensor) not in seen:
                seen.add(id(tensor))
                stack.extend(tensor.creator.inputs if tensor.creator is not None else ())
        unused = [p.name for p in self.trunk.parameters() if id(p) not in seen]
        if unused:
            raise ValueError(f"model {self.name}: the trunk's output does not depend on {', '.join(unused)}; remove it")


def _walk(module: Module, name: str) -> Iterator[tuple[str, Module]]:
    yield name, module
    for own, child in module.children():
        yield from _walk(child, f"{name}.{own}")


Builder = Callable[[InputSpec], Model]


def num_features(trunk: Module, spec: InputSpec) -> int:
    """Return how many features `trunk` makes of an image. ValueError if its output is not (n, features)."""
    y = trunk(symbolic((1, spec.crop, spec.crop, spec.channels)), symbolic_context())
    if len(y.shape) != 2:
        raise ValueError(f"the trunk's output has shape {y.shape}, but must be (n, features); end it with Flatten()")
    return y.shape[1]
