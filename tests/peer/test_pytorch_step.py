"""PyTorch's step beside ours in the benchmark: the same network, in a process of its own."""

import pytest

from owt_mpi.measure import pytorch_step
from owt_mpi.measure.pytorch_step import PyTorchStep, why_not
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from tests.tiny import tiny_model


@pytest.mark.peer
@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("fp32", "float32"),
        ("tf32", "float32 in TF32"),
        ("bf16", "autocast to bfloat16"),
        ("fp16", "autocast to float16"),
    ],
)
def test_pytorchs_process_makes_steps_and_ends(precision, said):
    pytest.importorskip("torch")
    spec = InputSpec(64, 3, 8)
    with PyTorchStep("alexnet-owt", spec, images=2, device="cpu", threads=1, precision=precision) as other:
        assert other.what.startswith("PyTorch ")
        assert f", {said}, channels-last" in other.what
        assert all(other.step() > 0 for _ in range(2))


@pytest.mark.peer
@pytest.mark.parametrize("name", ["tiny", "alexnet-owt", "vgg11"])
def test_the_counterpart_has_as_many_parameters_and_outputs(name):
    torch = pytest.importorskip("torch")
    model = tiny_model() if name == "tiny" else find_builder(name)(InputSpec(64, 3, 8))
    net = torch.nn.Sequential(*map(pytorch_step._counterpart, pytorch_step._layers(model)))
    assert sum(p.numel() for p in net.parameters()) == sum(p.size for p in model.parameters())
    images = torch.zeros(2, 3, model.spec.crop, model.spec.crop)
    assert net(images).shape == (2, model.spec.num_classes)


def test_absent_pytorch_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(pytorch_step.importlib.util, "find_spec", lambda name: None)
    assert why_not(tiny_model()) == "PyTorch is not installed; get it with pip install 'owt_mpi[peers]'"


def test_a_layer_without_counterpart_is_named(monkeypatch):
    monkeypatch.setattr(pytorch_step.importlib.util, "find_spec", lambda name: object())
    model = tiny_model()
    assert why_not(model) is None
    monkeypatch.setattr(pytorch_step, "_KNOWN", ())
    assert why_not(model) == "trunk.conv1 has no counterpart there"
