"""The networks once more, written in PyTorch by hand, and the way there and back for arrays.

Layers have our names, so parameters correspond by name. PyTorch's convolution weights are (c_out, c_in, kh, kw) where
ours are (c_out, kh, kw, c_in), and its features are flattened as c, h, w where ours are as h, w, c.
"""

from collections import OrderedDict
from collections.abc import Callable
from math import isqrt

import numpy as np
import torch
from torch import nn

FIRST_FC = "head.fc6.weight"  # reads the flattened image of the trunk
FINAL_CHANNELS = (256, 512)  # of the alexnets, and of vgg11: no number of features fits both
TRUNK_STRIDE_AND_KERNEL = ((4, 11, 2), (2, 3, 0), (1, 5, 2), (2, 3, 0), (2, 3, 0))  # convolutions of pad 1 keep sizes


def alexnet(crop: int, num_classes: int) -> nn.Module:
    """Return torchvision's alexnet for images of side `crop`, without its pooling to 6 x 6 (which is there at 224)."""
    trunk = OrderedDict(
        conv1=nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(kernel_size=3, stride=2),
        conv2=nn.Conv2d(64, 192, kernel_size=5, padding=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(kernel_size=3, stride=2),
        conv3=nn.Conv2d(192, 384, kernel_size=3, padding=1),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(384, 256, kernel_size=3, padding=1),
        relu4=nn.ReLU(inplace=True),
        conv5=nn.Conv2d(256, 256, kernel_size=3, padding=1),
        relu5=nn.ReLU(inplace=True),
        pool5=nn.MaxPool2d(kernel_size=3, stride=2),
        flatten=nn.Flatten(),
    )
    return _net(trunk, _alexnet_features(crop), num_classes)


def alexnet_owt(crop: int, num_classes: int) -> nn.Module:
    """Return the paper's network for images of side `crop`. nn.LocalResponseNorm divides its alpha by the size."""
    trunk = OrderedDict(
        conv1=nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        lrn1=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
        pool1=nn.MaxPool2d(kernel_size=3, stride=2),
        relu1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(64, 192, kernel_size=5, padding=2),
        relu2=nn.ReLU(inplace=True),
        lrn2=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
        pool2=nn.MaxPool2d(kernel_size=3, stride=2),
        conv3=nn.Conv2d(192, 384, kernel_size=3, padding=1),
        relu3=nn.ReLU(inplace=True),
        conv4=nn.Conv2d(384, 256, kernel_size=3, padding=1),
        relu4=nn.ReLU(inplace=True),
        conv5=nn.Conv2d(256, 256, kernel_size=3, padding=1),
        relu5=nn.ReLU(inplace=True),
        pool5=nn.MaxPool2d(kernel_size=3, stride=2),
        flatten=nn.Flatten(),
    )
    return _net(trunk, _alexnet_features(crop), num_classes)


def vgg11(crop: int, num_classes: int) -> nn.Module:
    """Return torchvision's vgg11 for images of side `crop`, without its pooling to 7 x 7 (which is there at 224)."""
    trunk: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for block, filters in enumerate(((64,), (128,), (256, 256), (512, 512), (512, 512)), start=1):
        for i, width in enumerate(filters, start=1):
            trunk[f"conv{block}_{i}"] = nn.Conv2d(channels, width, kernel_size=3, padding=1)
            trunk[f"relu{block}_{i}"] = nn.ReLU(inplace=True)
            channels = width
        trunk[f"pool{block}"] = nn.MaxPool2d(kernel_size=2, stride=2)
    trunk["flatten"] = nn.Flatten()
    return _net(trunk, 512 * (crop // 32) ** 2, num_classes)


def softmax_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the softmax."""
    return nn.functional.cross_entropy(logits, labels)


def logistic_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logistic units, summed over classes, the mean over examples."""
    targets = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(labels)


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NETS: dict[str, tuple[Callable[[int, int], nn.Module], Loss]] = {
    "alexnet": (alexnet, softmax_loss),
    "alexnet-owt": (alexnet_owt, logistic_loss),
    "vgg11": (vgg11, softmax_loss),
}


def to_torch(name: str, values: np.ndarray) -> torch.Tensor:
    """Return a parameter of ours, or its gradient, in PyTorch's order; a copy."""
    if values.ndim == 4:
        values = values.transpose(0, 3, 1, 2)
    elif name == FIRST_FC:
        values = values.reshape(-1, *final_shape(values.shape[1])).transpose(0, 3, 1, 2).reshape(values.shape)
    return torch.from_numpy(values.copy())


def from_torch(name: str, values: torch.Tensor) -> np.ndarray:
    """Return a parameter of PyTorch's, or its gradient, in our order; a copy."""
    array = values.detach().numpy()
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    elif name == FIRST_FC:
        side, _, channels = final_shape(array.shape[1])
        array = array.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(array.shape)
    return np.array(array, order="C")


def final_shape(num_features: int) -> tuple[int, int, int]:
    """Return h, w, c of the image that is flattened to so many features."""
    for channels in FINAL_CHANNELS:
        side = isqrt(num_features // channels)
        if side * side * channels == num_features:
            return side, side, channels
    raise AssertionError(f"{num_features} features are of no square image of {FINAL_CHANNELS} channels")


def _net(trunk: OrderedDict[str, nn.Module], num_features: int, num_classes: int) -> nn.Module:
    head = OrderedDict(
        dropout6=nn.Dropout(0.5),
        fc6=nn.Linear(num_features, 4096),
        relu6=nn.ReLU(inplace=True),
        dropout7=nn.Dropout(0.5),
        fc7=nn.Linear(4096, 4096),
        relu7=nn.ReLU(inplace=True),
        fc8=nn.Linear(4096, num_classes),
    )
    return nn.Sequential(OrderedDict(trunk=nn.Sequential(trunk), head=nn.Sequential(head)))


def _alexnet_features(crop: int) -> int:
    side = crop
    for stride, kernel, pad in TRUNK_STRIDE_AND_KERNEL:
        side = (side + 2 * pad - kernel) // stride + 1
    return 256 * side * side
