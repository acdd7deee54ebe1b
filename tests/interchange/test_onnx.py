"""ONNX files give in onnxruntime what the networks give here, shipped ones and others; the rest is refused by name."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from owt_mpi.autograd import Op, Parameter, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.interchange import onnx_file
from owt_mpi.interchange.onnx_ops import EXPORTERS, Nodes
from owt_mpi.interchange.tensor_file import InterchangeError
from owt_mpi.nn.init import Constant
from owt_mpi.nn.layers import LRN, AvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context, Module, Sequential
from owt_mpi.nn.restricted import restricted
from owt_mpi.ops.add import add
from owt_mpi.ops.add_bias import add_bias
from owt_mpi.ops.relu import relu
from tests.interchange.scoring import logits_in_onnxruntime, logits_of, onnx_of, random_images, random_weights
from tests.small_disk import small_disk
from tests.tiny import tiny_model

# as small as the networks take them, but for one, whose last image is not a single pixel
CROPS = {"alexnet-owt": 95, "alexnet-owt-384": 63, "alexnet": 63, "cifar-quick": 32, "small": 28}


def check_equal(model: Model, folder: Path, count: int = 3) -> None:
    """Check that onnxruntime's logits for the model's file are ours."""
    weights, images = random_weights(model), random_images(model, count)
    ours = logits_of(model, weights, images)
    theirs = logits_in_onnxruntime(onnx_of(model, weights, folder / "net.onnx"), images)
    assert ours.std(axis=1).min() > 0.01, "nothing to tell apart"
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-5 * np.abs(ours).max())


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_network_has_equal_outputs(tmp_path: Path, name: str):
    check_equal(MODELS[name](InputSpec(CROPS.get(name, 32), 3, 16)), tmp_path)


@pytest.mark.parametrize("count", [1, 5])
def test_any_number_of_images_goes(tmp_path: Path, count: int):
    check_equal(tiny_model(), tmp_path, count)


@pytest.mark.parametrize("crosstalk", [0.0, 0.25, 1.0])
def test_restricted_connectivity_has_equal_outputs(tmp_path: Path, crosstalk: float):
    check_equal(restricted(MODELS["small"](InputSpec(12, 3, 8)), crosstalk, 4), tmp_path)


class ScaleOp(Op):
    """A user's operation: each channel times a number."""

    def out_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        return xs[0] * xs[1]


class Branches(Module):
    """relu(pool(x) + scaled branch(x)), where the branch's convolution is used twice and rectifies by itself."""

    def __init__(self, channels: int) -> None:
        self.conv, self.pool, self.norm = Conv2d(channels, channels, 3, 1, 1), AvgPool2d(3, 1, 1), LRN(3, 0.5)
        self.scale = Parameter((channels,), Constant(0.5))
        self.shift = Parameter((8,), Constant(0.5))
        self.flatten, self.max, self.fc = Flatten(), MaxPool2d((2, 3), (2, 3)), Linear(5 * 2 * channels, 8)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        branch = ScaleOp()(self.norm(self.conv(relu(self.conv(x, ctx)), ctx), ctx), self.scale)
        rows = self.flatten(self.max(relu(add(self.pool(x, ctx), branch)), ctx), ctx)
        return add_bias(self.fc(rows, ctx), self.shift, relu=True)


def branches_model() -> Model:
    spec = InputSpec(13, 2, 5)
    trunk = Sequential({"conv1": Conv2d(2, 6, (3, 5), (1, 2), (0, 2)), "relu1": ReLU(), "branches2": Branches(6)})
    head = Sequential({"dropout3": Dropout(0.3), "fc3": Linear(num_features(trunk, spec), 5)})
    return Model("branches", spec, trunk, head, "softmax")


def export_scale(to: Nodes, op: ScaleOp) -> str:
    """Images are (n, c, h, w) in ONNX."""
    x, scale = op.inputs
    shape = to.constant(np.array([-1, 1, 1]))
    return to.node("Mul", to.value(x), to.node("Reshape", to.value(scale), shape))


def test_branches_and_a_users_operation_have_equal_outputs(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(EXPORTERS, ScaleOp, export_scale)
    check_equal(branches_model(), tmp_path)


def test_an_unknown_operation_is_refused_by_name_with_the_way_out(tmp_path: Path):
    model = branches_model()
    words = r"to trunk.branches2\S* is a ScaleOp, whose counterpart in ONNX is not known; .*EXPORTERS.* to safetensors"
    with pytest.raises(InterchangeError, match=words):
        onnx_of(model, random_weights(model), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_pixels_are_normalised_in_the_network(tmp_path: Path):
    model = tiny_model()
    weights = random_weights(model)
    mean, std = (10.0, 100.0, 200.0), (30.0, 50.0, 70.0)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 9, 9, 3)).astype(np.float32)
    path = onnx_of(model, weights, tmp_path / "net.onnx", takes_pixels=True, mean=mean, std=std)
    ours = logits_of(model, weights, ((pixels - mean) / std).astype(np.float32))
    np.testing.assert_allclose(logits_in_onnxruntime(path, pixels), ours, rtol=0, atol=2e-5 * np.abs(ours).max())


def test_the_file_is_for_old_runtimes_and_says_what_it_is(tmp_path: Path):
    model = tiny_model()
    content = onnx.load(onnx_of(model, random_weights(model), tmp_path / "net.onnx", loss="logistic", num_classes=8))
    assert ([(each.domain, each.version) for each in content.opset_import], content.ir_version) == ([("", 13)], 7)
    said = {each.key: each.value for each in content.metadata_props}
    assert (said["loss"], said["input"]) == ("logistic", "normalised")
    (given,), (made,) = content.graph.input, content.graph.output
    shapes = [[d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in (given, made)]
    assert (given.name, made.name, shapes) == ("images", "logits", [["n", 3, 9, 9], ["n", 8]])
    assert {each.name for each in content.graph.initializer} == {p.name for p in model.parameters()}
    assert "Dropout" not in {node.op_type for node in content.graph.node}
    assert "trunk.lrn1" in {node.name for node in content.graph.node}


def test_more_weights_than_a_file_holds_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_LARGEST", 100)
    model = tiny_model()
    with pytest.raises(InterchangeError, match="an ONNX file holds 2; export to safetensors"):
        onnx_of(model, random_weights(model), tmp_path / "net.onnx")


def test_what_onnx_refuses_is_told_and_leaves_no_file(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(EXPORTERS, ScaleOp, lambda to, op: to.node("NoSuchOperator", to.value(op.inputs[0])))
    model = branches_model()
    with pytest.raises(InterchangeError, match=r"ONNX's checker refuses the network \(.*NoSuchOperator"):
        onnx_of(model, random_weights(model), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path):
    model = tiny_model()
    with small_disk(tmp_path / "disk", 4096):
        with pytest.raises(InterchangeError, match=r"net.onnx cannot be written \(.*No space left on device"):
            onnx_of(model, random_weights(model), tmp_path / "disk" / "net.onnx")
        assert list((tmp_path / "disk").iterdir()) == []
