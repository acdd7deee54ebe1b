"""The weights of a model in a safetensors file, under torchvision's names or ours, always in PyTorch's order."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from owt_mpi.backends.base import Shape
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.order import FileArray, orders_of, whole
from owt_mpi.interchange.tensor_file import FLOATS, InterchangeError, TensorFile, one_line, write_tensors
from owt_mpi.interchange.torchvision_names import torchvision_names
from owt_mpi.nn.model import Model

Layout = Literal["torchvision", "owt_mpi"]
_MOST_PROBLEMS = 12


def names_in(layout: Layout, model: Model, shipped_as: str) -> dict[str, str]:
    """Return the name in a file for every parameter of `model`, by our name. ValueError if there are none.

    `shipped_as` is the name that --model has for it.
    """
    if layout == "torchvision":
        return torchvision_names(model, shipped_as)
    return {parameter.name: parameter.name for parameter in model.parameters()}


def layout_of(file: TensorFile) -> Layout:
    """Return whose names the tensors have; where the file does not say, ours begin with trunk and head."""
    said = NetworkFacts.from_metadata(file.metadata, str(file.path)).layout
    if said:
        return "torchvision" if said == "torchvision" else "owt_mpi"
    return "owt_mpi" if any(name.startswith(("trunk.", "head.")) for name in file.shapes) else "torchvision"


def write_network(
    path: Path, model: Model, names: Mapping[str, str], weights: Mapping[str, Any], facts: NetworkFacts
) -> None:
    """Write `weights`, global arrays by our name that read when they are sliced, under the `names` of `names_in`."""
    orders = orders_of(model)
    tensors = {names[name]: orders[name].to_file(whole(weights[name])) for name in names}
    write_tensors(path, tensors, facts.to_metadata())


def weights_in(
    file: TensorFile, model: Model, shipped_as: str, way_out: str, drawn: Collection[str] = ()
) -> dict[str, FileArray]:
    """Return the parameters of `model` in a file but those `drawn`, by our name, to be sliced.

    InterchangeError, with all that does not fit in one line, if names, shapes or types are others. Where that is the
    number of classes alone, `way_out` is what is said of it.
    """
    layout = layout_of(file)
    try:
        names = names_in(layout, model, shipped_as)
    except ValueError as error:
        raise InterchangeError(f"{file.path} has torchvision's names, but {error}") from error
    orders, known = orders_of(model), {name: each for name, each in names.items() if name not in drawn}
    parameters = {parameter.name: parameter for parameter in model.parameters()}
    shapes = {name: orders[name].file_shape(parameters[name].global_shape) for name in known}
    problems = [
        *(f"it has no {each}" for each in sorted(known.values() - file.shapes.keys())),
        *(f"the model has no {one_line(each)!r}" for each in sorted(file.shapes.keys() - names.values())),
    ]
    others = [own for own, name in known.items() if name in file.shapes and file.shapes[name] != shapes[own]]
    num_classes = _other_classes(model, {own: file.shapes[known[own]] for own in others}, shapes)
    if not problems and num_classes is not None:
        raise InterchangeError(
            f"the network in {file.path} tells {num_classes} classes apart, the data has {model.spec.num_classes}; "
            f"{way_out}"
        )
    problems += [f"{known[own]} is {_said(file.shapes[known[own]])}, not {_said(shapes[own])}" for own in others]
    problems += [
        f"{name} is of type {file.dtypes[name]}, not {', '.join(FLOATS)}"
        for name in known.values()
        if file.dtypes.get(name, FLOATS[0]) not in FLOATS
    ]
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise InterchangeError(
            f"{file.path} does not fit {model.name} at --crop {model.spec.crop} with {model.spec.channels} channels: "
            f"{'; '.join(problems[:_MOST_PROBLEMS])}{more}; give the --model and --crop that it is of"
        )
    return {own: FileArray(file.tensor(name), orders[own], parameters[own].global_shape) for own, name in known.items()}


def _other_classes(model: Model, others: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> int | None:
    """Return for how many classes the last layer is whose shapes, of `others`, should be `shapes`; None if for none."""
    weight, bias = (parameter.name for parameter in model.head.parameters()[-2:])
    if others.keys() != {weight, bias} or len(others[bias]) != 1:
        return None
    num_classes = others[bias][0]
    return num_classes if others[weight] == (num_classes, *shapes[weight][1:]) else None


def _said(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a number"
