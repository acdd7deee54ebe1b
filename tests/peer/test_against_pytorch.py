"""From the same weights, PyTorch gives the same logits, losses, gradients and updates."""

import numpy as np
import pytest

from owt_mpi.optim import MomentumSGD
from tests.backends.conftest import CONFIGURATIONS, onednn_backend
from tests.golden.case import Case, build_with_values, compute, initial_values, relative_error

torch = pytest.importorskip("torch")

from tests.peer import pytorch_case  # noqa: E402 - needs torch
from tests.peer.pytorch_nets import from_torch  # noqa: E402

pytestmark = pytest.mark.peer

# rounding alone: of float32 through eight layers, of float64
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}

# At side 95 the last pool leaves 2 x 2 x 256, vgg11's at side 64 2 x 2 x 512: the order of the features matters.
CASES = {
    "alexnet": Case("alexnet", crop=95, num_classes=20, batch=3, training=False),
    "alexnet with dropout": Case("alexnet", crop=95, num_classes=20, batch=3, training=True),
    # images this large make the LRN's sum of squares as large as its constant k
    "alexnet-owt": Case("alexnet-owt", crop=95, num_classes=20, batch=3, training=False, image_std=400.0),
    "vgg11": Case("vgg11", crop=64, num_classes=20, batch=2, training=False),
}
FULL_SIZE = Case("alexnet", crop=224, num_classes=1000, batch=2, training=False)


def check_agreement(case: Case, backend, dtype: np.dtype) -> None:
    ours = compute(case, build_with_values(case, backend, dtype), backend, dtype)
    theirs = pytorch_case.outcome(case, dtype)
    tolerance = TOLERANCE[dtype.name]
    assert ours.loss == pytest.approx(theirs.loss, rel=tolerance)
    assert relative_error(ours.logits, theirs.logits) < tolerance
    assert ours.grads.keys() == theirs.grads.keys()
    errors = {name: relative_error(ours.grads[name], grad) for name, grad in theirs.grads.items()}
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_loss_and_every_gradient_agree(case, configuration):
    open_backend, dtype = configuration
    with open_backend() as backend:
        check_agreement(case, backend, np.dtype(dtype))


def test_alexnet_at_full_size_agrees():
    check_agreement(FULL_SIZE, onednn_backend(), np.dtype(np.float32))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_three_steps_of_momentum_sgd_agree(configuration):
    """PyTorch has v := mu v + g, w := w - lr v: the same path as ours while the rate is constant."""
    case, num_steps = CASES["alexnet with dropout"], 3
    lr, momentum, weight_decay, bias_lr_multiplier = 0.05, 0.9, 0.02, 2.0
    open_backend, dtype = configuration[0], np.dtype(configuration[1])
    with open_backend() as backend:
        model = build_with_values(case, backend, dtype)
        ours = MomentumSGD(model.parameters(), backend, momentum, weight_decay, bias_lr_multiplier)
        net = pytorch_case.build(case, dtype)
        biases = [parameter for name, parameter in net.named_parameters() if name.endswith("bias")]
        weights = [parameter for name, parameter in net.named_parameters() if name.endswith("weight")]
        groups = [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "lr": bias_lr_multiplier * lr}]
        theirs = torch.optim.SGD(groups, lr=lr, momentum=momentum)
        for _ in range(num_steps):
            compute(case, model, backend, dtype)
            ours.step(lr)
            pytorch_case.compute(case, net, dtype)
            theirs.step()
        start = initial_values(case, dtype)
        moved = {p.name: backend.to_host(p.data) - start[p.name] for p in model.parameters()}
        expected = {name: from_torch(name, parameter) - start[name] for name, parameter in net.named_parameters()}
        errors = {name: relative_error(moved[name], expected[name]) for name in moved}
        assert max(errors.values()) < TOLERANCE[dtype.name], errors
