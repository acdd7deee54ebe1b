"""What PyTorch computes for a case of tests/golden/case.py, from the same weights, images, labels and masks."""

import functools

import numpy as np
import torch
from torch import nn

from owt_mpi.autograd import tensor
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.nn.layers import Dropout
from owt_mpi.nn.model import Model
from tests.golden.case import Case, Outcome, initial_values
from tests.peer.pytorch_nets import NETS, final_shape, from_torch, to_torch


class Mask(nn.Module):
    """A multiplication with a constant, in place of a dropout layer."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def build(case: Case, dtype: np.dtype) -> nn.Module:
    """Return the network in PyTorch with our initial values; our dropout masks act where the case trains."""
    make, _ = NETS[case.model]
    net = make(case.crop, case.num_classes).to(torch.from_numpy(np.empty(0, dtype)).dtype)
    values = initial_values(case, dtype)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(to_torch(name, values[name]))
    model = case.build()
    masked = {"dropout6": model.num_features, "dropout7": 4096}
    for name, width in masked.items():
        setattr(net.head, name, Mask(_mask(case, model, name, width, dtype)))
    return net


def compute(case: Case, net: nn.Module, dtype: np.dtype) -> Outcome:
    """Return what `net` gives on the case's batch. Its gradients are set, for an update to follow."""
    _, loss_of = NETS[case.model]
    net.zero_grad()
    logits = net(torch.from_numpy(case.images(dtype).transpose(0, 3, 1, 2).copy()))
    loss = loss_of(logits, torch.from_numpy(case.labels()))
    loss.backward()
    grads = {name: from_torch(name, parameter.grad) for name, parameter in net.named_parameters()}
    return Outcome(logits.detach().numpy(), loss.item(), grads)


@functools.cache
def outcome(case: Case, dtype: np.dtype) -> Outcome:
    """Return PyTorch's outcome for a case, computed once."""
    return compute(case, build(case, dtype), dtype)


def _mask(case: Case, model: Model, name: str, width: int, dtype: np.dtype) -> torch.Tensor:
    """Return what our dropout layer `name` multiplies its input with, (n, width), features in PyTorch's order."""
    layer = model.head.layers[name]
    assert isinstance(layer, Dropout)
    backend = ReferenceBackend()
    mask = layer(tensor(np.ones((case.batch, width), dtype), backend), case.context()).data
    if name == "dropout6":
        mask = mask.reshape(case.batch, *final_shape(width)).transpose(0, 3, 1, 2).reshape(mask.shape)
    return torch.from_numpy(mask.copy())
