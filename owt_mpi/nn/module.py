"""Modules: named parts of a network that own parameters and compose."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.autograd import Parameter, Tensor
from owt_mpi.backends.precision import exact_dtype

# sees every named module's output as it is made: (name of the module, output)
Watch = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Context:
    """What a forward pass depends on besides its input.

    `rows` are the places of the input's examples in the whole batch over all ranks, int64 (n,): together with the
    seed and the step they key what is random, so that it does not depend on the number of ranks.
    """

    training: bool
    rows: np.ndarray
    seed: int = 0
    step: int = 0
    watch: Watch | None = None


class Module:
    """A function of a tensor, with parameters. Attributes that are modules or parameters are found by themselves.

    A subclass defines `forward`. `name` is the dotted path from the root, set by `assign_names`.
    """

    name = ""
    is_relu = False

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        y = self.forward(x, ctx)
        if ctx.watch is not None:
            ctx.watch(self.name, y)
        return y

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Return the module's output for input x."""
        raise NotImplementedError

    def forward_with(self, following: Sequence["Module"], x: Tensor, ctx: Context) -> tuple[Tensor, int]:
        """Return the output, and how many of the modules that follow are in it: those done in the same go."""
        return self(x, ctx), 0

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield the direct sub-modules with their names, in the order of definition, those in lists and dicts too."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple | dict):
                members = value.items() if isinstance(value, dict) else enumerate(value)
                yield from ((f"{name}.{key}", member) for key, member in members if isinstance(member, Module))

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters of this module itself with their names, in the order of definition."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value

    def modules(self) -> Iterator["Module"]:
        """Yield this module and all below it, parents first."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def parameters(self) -> list[Parameter]:
        """Return all parameters of this module and those below it, in the order of definition, each once."""
        found: dict[int, Parameter] = {}
        for module in self.modules():
            for _, parameter in module.own_parameters():
                found.setdefault(id(parameter), parameter)
        return list(found.values())


class Sequential(Module):
    """Modules applied one after the other, each under its name.

    A module and a ReLU after it, and a Dropout or MaxPool2d after that, are one step where the module knows how, unless
    somebody watches, or there are no values: then every module's output is there to be seen.
    """

    def __init__(self, layers: Mapping[str, Module]) -> None:
        self.layers = dict(layers)

    def children(self) -> Iterator[tuple[str, Module]]:
        yield from self.layers.items()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return run_in_turn(self.layers.values(), x, ctx)


def run_in_turn(layers: Iterable[Module], x: Tensor, ctx: Context) -> Tensor:
    """Return what `layers` make of x, one after the other; see Sequential."""
    waiting = list(layers)
    in_one_go = ctx.watch is None and x.data is not None
    while waiting:
        layer = waiting.pop(0)
        x, num_joined = layer.forward_with(waiting, x, ctx) if in_one_go else (layer(x, ctx), 0)
        waiting = waiting[num_joined:]
    return x


def assign_names(root: Module, name: str) -> None:
    """Name `root` and all modules and parameters below it by their dotted paths, such as "trunk.conv1.weight"."""
    root.name = name
    for own, parameter in root.own_parameters():
        parameter.name = f"{name}.{own}"
    for own, child in root.children():
        assign_names(child, f"{name}.{own}")


def symbolic_context(num_rows: int = 1, watch: Watch | None = None) -> Context:
    """Return a context to work out shapes with: training mode, rows 0, 1, ..."""
    return Context(training=True, rows=np.arange(num_rows), watch=watch)


def own_values(parameter: Parameter, values: Any) -> np.ndarray:
    """Return a copy of what this rank holds of `values`, global and to be sliced. ValueError if the shapes differ."""
    _check_shape(parameter, values)
    where = [slice(None)] * len(values.shape)
    if parameter.shard is not None:
        shard, length = parameter.shard, parameter.shape[parameter.shard.axis]
        where[shard.axis] = slice(shard.index * length, (shard.index + 1) * length)
    own: np.ndarray = values[tuple(where)].astype(exact_dtype(parameter.dtype), order="C")  # always a copy
    return own


def load_values(parameter: Parameter, values: Any, backend: Any) -> None:
    """Give `parameter` a copy of global `values`, or of its shard of them. ValueError if the shapes differ."""
    parameter.set_values(backend.from_host(own_values(parameter, values)), backend, parameter.dtype)


def load_weights(parameters: list[Parameter], weights: Mapping[str, Any], backend: Any, dtype: np.dtype) -> None:
    """Give all `parameters` their values, to compute with as `dtype`. ValueError unless names and shapes fit."""
    check_weights(parameters, weights)
    for parameter in parameters:
        parameter.dtype = dtype
        load_values(parameter, weights[parameter.name], backend)


def check_weights(parameters: list[Parameter], weights: Mapping[str, Any]) -> None:
    """Raise ValueError unless names and shapes of global `weights` are those of the parameters."""
    names = {parameter.name for parameter in parameters}
    for whose, missing in (("weights given have no", names - weights.keys()), ("model has no", weights.keys() - names)):
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(f"the {whose} {min(missing)}{others}; give the --model that the weights are of")
    for parameter in parameters:
        _check_shape(parameter, weights[parameter.name])


def _check_shape(parameter: Parameter, values: Any) -> None:
    if tuple(values.shape) != parameter.global_shape:
        raise ValueError(
            f"{parameter.name} has shape {parameter.global_shape}, but the values given have {tuple(values.shape)}"
        )
