"""The networks that come with owt_mpi; a user's own is a function like these in a file of his (`FILE.py:FUNCTION`)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from owt_mpi.autograd import Init
from owt_mpi.nn.init import Constant, FanInUniform, HeNormal, Normal
from owt_mpi.nn.layers import LRN, AvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import Builder, InputSpec, Model, num_features
from owt_mpi.nn.module import Module, Sequential


def alexnet_owt(spec: InputSpec, conv4_filters: int = 256, name: str = "alexnet-owt") -> Model:
    """Return the paper's network, as its author's released configuration has it.

    Logistic units; in block 1 LRN and pool come before ReLU; standard deviation 0.01 (conv1, conv2, FC) and 0.03
    (conv3-5); bias 1 in conv2, conv4, conv5 and the hidden FC layers, -7 in the last.
    """
    small, large, zero, one = Normal(0.01), Normal(0.03), Constant(0.0), Constant(1.0)
    trunk = Sequential(
        {
            "conv1": Conv2d(spec.channels, 64, 11, 4, 2, small, zero),
            "lrn1": LRN(),
            "pool1": MaxPool2d(3, 2),
            "relu1": ReLU(),
            "conv2": Conv2d(64, 192, 5, 1, 2, small, one),
            "relu2": ReLU(),
            "lrn2": LRN(),
            "pool2": MaxPool2d(3, 2),
            "conv3": Conv2d(192, 384, 3, 1, 1, large, zero),
            "relu3": ReLU(),
            "conv4": Conv2d(384, conv4_filters, 3, 1, 1, large, one),
            "relu4": ReLU(),
            "conv5": Conv2d(conv4_filters, 256, 3, 1, 1, large, one),
            "relu5": ReLU(),
            "pool5": MaxPool2d(3, 2),
            "flatten": Flatten(),
        }
    )
    head = _alexnet_head(num_features(trunk, spec), spec.num_classes, small, one, Constant(-7.0))
    return Model(name, spec, trunk, head, "logistic")


def alexnet_owt_384(spec: InputSpec) -> Model:
    """Return alexnet-owt with the 384 filters in conv4 that a footnote of the paper mentions."""
    return alexnet_owt(spec, conv4_filters=384, name="alexnet-owt-384")


def alexnet(spec: InputSpec) -> Model:
    """Return torchvision's alexnet: the same tower without LRN, softmax, PyTorch's initial values."""

    def conv(c_in: int, c_out: int, kernel: int, stride: int, pad: int) -> Conv2d:
        return Conv2d(c_in, c_out, kernel, stride, pad, FanInUniform(), FanInUniform(c_in * kernel * kernel))

    trunk = Sequential(
        {
            "conv1": conv(spec.channels, 64, 11, 4, 2),
            "relu1": ReLU(),
            "pool1": MaxPool2d(3, 2),
            "conv2": conv(64, 192, 5, 1, 2),
            "relu2": ReLU(),
            "pool2": MaxPool2d(3, 2),
            "conv3": conv(192, 384, 3, 1, 1),
            "relu3": ReLU(),
            "conv4": conv(384, 256, 3, 1, 1),
            "relu4": ReLU(),
            "conv5": conv(256, 256, 3, 1, 1),
            "relu5": ReLU(),
            "pool5": MaxPool2d(3, 2),
            "flatten": Flatten(),
        }
    )
    features = num_features(trunk, spec)
    head = Sequential(
        {
            "dropout6": Dropout(0.5),
            "fc6": Linear(features, 4096, FanInUniform(), FanInUniform(features)),
            "relu6": ReLU(),
            "dropout7": Dropout(0.5),
            "fc7": Linear(4096, 4096, FanInUniform(), FanInUniform(4096)),
            "relu7": ReLU(),
            "fc8": Linear(4096, spec.num_classes, FanInUniform(), FanInUniform(4096)),
        }
    )
    return Model("alexnet", spec, trunk, head, "softmax")


_VGG_BLOCKS = {  # Simonyan and Zisserman 2015, table 1, configurations A, B, D, E: convolutions in each block
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def _vgg(name: str) -> Builder:
    def build(spec: InputSpec) -> Model:
        layers: dict[str, Module] = {}
        channels = spec.channels
        for block, num_convs in enumerate(_VGG_BLOCKS[name], start=1):
            filters = min(512, 32 * 2**block)
            for i in range(1, num_convs + 1):
                layers[f"conv{block}_{i}"] = Conv2d(channels, filters, 3, 1, 1)
                layers[f"relu{block}_{i}"] = ReLU()
                channels = filters
            layers[f"pool{block}"] = MaxPool2d(2, 2)
        trunk = Sequential({**layers, "flatten": Flatten()})
        zero = Constant(0.0)
        head = _alexnet_head(num_features(trunk, spec), spec.num_classes, Normal(0.01), zero, zero)
        return Model(name, spec, trunk, head, "softmax")

    build.__doc__ = f"Return {name} (Simonyan and Zisserman 2015)."
    return build


def _alexnet_head(features: int, num_classes: int, weight: Init, hidden_bias: Init, last_bias: Init) -> Sequential:
    return Sequential(
        {
            "dropout6": Dropout(0.5),
            "fc6": Linear(features, 4096, weight, hidden_bias),
            "relu6": ReLU(),
            "dropout7": Dropout(0.5),
            "fc7": Linear(4096, 4096, weight, hidden_bias),
            "relu7": ReLU(),
            "fc8": Linear(4096, num_classes, weight, last_bias),
        }
    )


def cifar_quick(spec: InputSpec) -> Model:
    """Return Caffe's cifar10_quick (pad 1 in the pools where Caffe rounds their size up)."""
    trunk = Sequential(
        {
            "conv1": Conv2d(spec.channels, 32, 5, 1, 2, Normal(0.0001)),
            "pool1": MaxPool2d(3, 2, 1),
            "relu1": ReLU(),
            "conv2": Conv2d(32, 32, 5, 1, 2, Normal(0.01)),
            "relu2": ReLU(),
            "pool2": AvgPool2d(3, 2, 1),
            "conv3": Conv2d(32, 64, 5, 1, 2, Normal(0.01)),
            "relu3": ReLU(),
            "pool3": AvgPool2d(3, 2, 1),
            "flatten": Flatten(),
        }
    )
    head = Sequential(
        {
            "fc4": Linear(num_features(trunk, spec), 64, Normal(0.1)),
            "fc5": Linear(64, spec.num_classes, Normal(0.1)),
        }
    )
    return Model("cifar-quick", spec, trunk, head, "softmax")


def small(spec: InputSpec) -> Model:
    """Return a small network for small images: two convolutions and two fully connected layers (the demo's)."""
    trunk = Sequential(
        {
            "conv1": Conv2d(spec.channels, 32, 5, 1, 2, HeNormal()),
            "relu1": ReLU(),
            "pool1": MaxPool2d(2, 2),
            "conv2": Conv2d(32, 64, 3, 1, 1, HeNormal()),
            "relu2": ReLU(),
            "pool2": MaxPool2d(2, 2),
            "flatten": Flatten(),
        }
    )
    head = Sequential(
        {
            "dropout3": Dropout(0.25),
            "fc3": Linear(num_features(trunk, spec), 256, HeNormal()),
            "relu3": ReLU(),
            "dropout4": Dropout(0.5),
            "fc4": Linear(256, spec.num_classes, Normal(0.01)),
        }
    )
    return Model("small", spec, trunk, head, "softmax")


MODELS: dict[str, Builder] = {
    "alexnet-owt": alexnet_owt,
    "alexnet-owt-384": alexnet_owt_384,
    "alexnet": alexnet,
    **{name: _vgg(name) for name in _VGG_BLOCKS},
    "cifar-quick": cifar_quick,
    "small": small,
}


def find_builder(name: str) -> Builder:
    """Return the function that builds the model `name`: one of MODELS, or FILE.py:FUNCTION.

    ValueError if there is none, with the names there are.
    """
    if name in MODELS:
        return MODELS[name]
    path, _, function = name.rpartition(":")
    if not path:
        raise ValueError(
            f"there is no model {name!r}; choose one of {', '.join(MODELS)}, or FILE.py:FUNCTION for your own"
        )
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"--model {name}: there is no file {path}; the form is FILE.py:FUNCTION")
    builder = getattr(_import_file(file, name), function, None)
    if not callable(builder):
        raise ValueError(f"--model {name}: {path} defines no function {function!r}")
    found: Builder = builder
    return found


def _import_file(file: Path, name: str) -> ModuleType:
    """Return the module in a user's file, which may import others beside it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--model {name}: {file} is not a Python file; the form is FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"--model {name}: {file} cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module
