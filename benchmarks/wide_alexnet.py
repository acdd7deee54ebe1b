"""alexnet in other widths: all filters and hidden units times a factor."""

from owt_mpi.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.module import Module, Sequential

CONVOLUTIONS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))  # filters, kernel, ...
POOLED = (1, 2, 5)
HIDDEN_UNITS = 4096


def wide_alexnet(spec: InputSpec, width: float) -> Model:
    """Return alexnet with `width` times its filters and hidden units, each rounded; classes stay."""
    layers: dict[str, Module] = {}
    channels = spec.channels
    for number, (usual, kernel, stride, pad) in enumerate(CONVOLUTIONS, start=1):
        filters = round(usual * width)
        layers |= {f"conv{number}": Conv2d(channels, filters, kernel, stride, pad), f"relu{number}": ReLU()}
        if number in POOLED:
            layers[f"pool{number}"] = MaxPool2d(3, 2)
        channels = filters
    trunk = Sequential({**layers, "flatten": Flatten()})
    hidden = round(HIDDEN_UNITS * width)
    head = Sequential(
        {
            "dropout6": Dropout(0.5),
            "fc6": Linear(num_features(trunk, spec), hidden),
            "relu6": ReLU(),
            "dropout7": Dropout(0.5),
            "fc7": Linear(hidden, hidden),
            "relu7": ReLU(),
            "fc8": Linear(hidden, spec.num_classes),
        }
    )
    return Model(f"alexnet x {width:g}", spec, trunk, head, "softmax")
