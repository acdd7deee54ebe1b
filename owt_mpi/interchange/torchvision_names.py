"""What torchvision calls the parameters of the networks that it has too."""

from owt_mpi.interchange.order import ImageColumnsOrder, orders_of
from owt_mpi.nn.layers import Conv2d, Linear
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Sequential

# the places of the fully connected layers in `classifier`, and the side of the images that `avgpool` makes before them
_CLASSIFIERS = {
    "alexnet": ((1, 4, 6), 6),
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), ((0, 3, 6), 7)),
}


def torchvision_names(model: Model, shipped_as: str) -> dict[str, str]:
    """Return torchvision's name for every parameter of `model`, the shipped network of that name, by our name.

    ValueError, with the reason, if torchvision has no such network.
    """
    if shipped_as not in _CLASSIFIERS:
        raise ValueError(f"torchvision has no {shipped_as}; it has {', '.join(_CLASSIFIERS)}")
    places, side = _CLASSIFIERS[shipped_as]
    assert isinstance(model.trunk, Sequential)
    names: dict[str, str] = {}
    for place, layer in enumerate(model.trunk.layers.values()):  # ReLU and pools are counted there too
        if isinstance(layer, Conv2d):
            names |= {f"{layer.name}.{own}": f"features.{place}.{own}" for own in ("weight", "bias")}
    linears = [layer for layer in model.head.layers.values() if isinstance(layer, Linear)]
    if len(linears) != len(places):
        raise ValueError(f"torchvision's {shipped_as} has dense layers, this one is of restricted connectivity")
    for place, layer in zip(places, linears, strict=True):
        names |= {f"{layer.name}.{own}": f"classifier.{place}.{own}" for own in ("weight", "bias")}
    order = orders_of(model)[linears[0].weight.name]
    image = order.image if isinstance(order, ImageColumnsOrder) else ()
    if model.spec.channels != 3 or image[:2] != (side, side):
        raise ValueError(
            f"torchvision's {shipped_as} takes images of 3 channels and pools what its convolutions make of them to "
            f"{side}x{side}; this one takes {model.spec.channels} channels, and at --crop {model.spec.crop} its "
            f"convolutions end in {'x'.join(map(str, image[:2]))}"
        )
    return names
