"""Torchvision's names, shapes and logits; files that do not fit a model are refused in one line that says it all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from owt_mpi.autograd import no_tape, tensor
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.select import select_backend
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.network_file import layout_of, names_in, weights_in, write_network
from owt_mpi.interchange.order import orders_of, whole
from owt_mpi.interchange.tensor_file import InterchangeError, TensorFile
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context, load_weights
from owt_mpi.nn.restricted import restricted
from tests.interchange.torchvision_case import (
    CROP,
    NUM_CLASSES,
    images,
    record,
    recorded_shapes,
    tensors,
    with_classes,
)

BACKEND = ReferenceBackend()
SMALL = InputSpec(12, 3, 10)


def small_model(spec: InputSpec = SMALL) -> Model:
    return MODELS["small"](spec)


def random_weights(model: Model, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {p.name: rng.standard_normal(p.global_shape).astype(dtype) for p in model.parameters()}


def write_small(path: Path, **changes) -> dict[str, np.ndarray]:
    """Write the small network and return its weights; `changes` are of its facts."""
    model = small_model()
    weights = random_weights(model)
    write_network(path, model, names_in("owt_mpi", model, "small"), weights, NetworkFacts(**changes))
    return weights


@pytest.mark.parametrize("network", ["alexnet", "vgg11", "vgg13", "vgg16", "vgg19"])
def test_names_and_shapes_are_torchvisions(network: str):
    model = MODELS[network](InputSpec(CROP, 3, 1000))
    names, orders = names_in("torchvision", model, network), orders_of(model)
    ours = {names[p.name]: list(orders[p.name].file_shape(p.global_shape)) for p in model.parameters()}
    assert ours == recorded_shapes(network)


def test_a_file_of_torchvisions_alexnet_gives_the_logits_that_torchvision_gave(tmp_path: Path):
    shapes = with_classes(recorded_shapes("alexnet"), NUM_CLASSES)
    save_file(tensors(shapes), tmp_path / "alexnet.safetensors")
    model, float32 = MODELS["alexnet"](InputSpec(CROP, 3, NUM_CLASSES)), np.dtype(np.float32)
    backend, _ = select_backend("auto", float32)
    with TensorFile(tmp_path / "alexnet.safetensors") as file:
        assert layout_of(file) == "torchvision"
        load_weights(model.parameters(), weights_in(file, model, "alexnet", ""), backend, float32)
    shown = tensor(backend.from_host(np.ascontiguousarray(images().transpose(0, 2, 3, 1))), backend)
    ctx = Context(False, np.arange(shown.shape[0]))
    with no_tape():
        logits = backend.to_host(model.head(model.trunk(shown, ctx), ctx).data)
    expected = np.array(record()["alexnet_logits"])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: (MODELS["alexnet-owt"](InputSpec(224, 3, 10)), "alexnet-owt"), "torchvision has no alexnet-owt"),
        (lambda: (MODELS["alexnet"](InputSpec(95, 3, 10)), "alexnet"), "at --crop 95 its convolutions end in 2x2"),
        (lambda: (MODELS["vgg11"](InputSpec(224, 1, 10)), "vgg11"), "this one takes 1 channels"),
        (lambda: (restricted(MODELS["alexnet"](InputSpec(224, 3, 8)), 0.5, 4), "alexnet"), "restricted connectivity"),
    ],
)
def test_networks_that_torchvision_has_not_are_told_why(build: Callable[[], tuple[Model, str]], words: str):
    with pytest.raises(ValueError, match=words):
        names_in("torchvision", *build())


def test_a_file_of_ours_is_read_again_to_the_bit(tmp_path: Path):
    weights = write_small(tmp_path / "net.safetensors")
    stored = load_file(tmp_path / "net.safetensors")
    assert stored["trunk.conv2.weight"].shape == (64, 32, 3, 3)
    np.testing.assert_array_equal(stored["trunk.conv2.weight"], weights["trunk.conv2.weight"].transpose(0, 3, 1, 2))
    with TensorFile(tmp_path / "net.safetensors") as file:
        read = weights_in(file, small_model(), "small", "")
        assert read.keys() == weights.keys()
        for name, values in weights.items():
            np.testing.assert_array_equal(whole(read[name]), values)
    assert [each.name for each in tmp_path.iterdir()] == ["net.safetensors"], "no temporary file is left"


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floating_point_types_are_read(tmp_path: Path, dtype: str):
    import ml_dtypes  # noqa: F401 - teaches NumPy bfloat16

    weights = {name: values.astype(dtype) for name, values in random_weights(small_model()).items()}
    model = small_model()
    write_network(tmp_path / "net.safetensors", model, names_in("owt_mpi", model, "small"), weights, NetworkFacts())
    with TensorFile(tmp_path / "net.safetensors") as file:
        load_weights(model.parameters(), weights_in(file, model, "small", ""), BACKEND, np.dtype(np.float32))
    for parameter in model.parameters():
        np.testing.assert_array_equal(parameter.data, weights[parameter.name].astype(np.float32))


def refusal(path: Path, model: Model, shipped_as: str = "small", drawn: tuple[str, ...] = ()) -> str:
    with pytest.raises(InterchangeError) as refused, TensorFile(path) as file:
        weights_in(file, model, shipped_as, "DO THIS", drawn)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_all_that_does_not_fit_is_in_one_line(tmp_path: Path):
    write_small(tmp_path / "net.safetensors")
    changed = load_file(tmp_path / "net.safetensors")
    changed["trunk.conv9.bias\n\x1b[31m"] = changed.pop("trunk.conv1.bias")
    changed["trunk.conv2.bias"] = np.zeros(64, np.int32)
    changed["trunk.conv2.weight"] = np.zeros((64, 32, 3, 4), np.float32)
    save_file(changed, tmp_path / "other.safetensors")
    said = refusal(tmp_path / "other.safetensors", small_model())
    assert "it has no trunk.conv1.bias;" in said
    assert "the model has no 'trunk.conv9.bias ?[31m'" in said
    assert "trunk.conv2.bias is of type I32, not F64, F32, F16, BF16" in said
    assert "trunk.conv2.weight is 64x32x3x4, not 64x32x3x3" in said


def test_many_problems_are_counted(tmp_path: Path):
    save_file({f"x{i}": np.zeros(1, np.float32) for i in range(50)}, tmp_path / "other.safetensors")
    said = refusal(tmp_path / "other.safetensors", MODELS["alexnet"](InputSpec(224, 3, 10)), "alexnet")
    assert "; and 54 more;" in said  # 16 that it has not and 50 that it has, without 12
    assert len(said) < 1000


def test_another_number_of_classes_has_its_own_way_out(tmp_path: Path):
    write_small(tmp_path / "net.safetensors")
    other = small_model(InputSpec(12, 3, 7))
    said = refusal(tmp_path / "net.safetensors", other)
    assert said.endswith("tells 10 classes apart, the data has 7; DO THIS")
    with TensorFile(tmp_path / "net.safetensors") as file:
        kept = weights_in(file, other, "small", "", ("head.fc4.weight", "head.fc4.bias"))
    assert len(kept) == 6


def test_more_than_the_classes_is_no_matter_of_classes(tmp_path: Path):
    write_small(tmp_path / "net.safetensors")
    said = refusal(tmp_path / "net.safetensors", small_model(InputSpec(16, 3, 7)))
    assert "head.fc4.bias is 10, not 7" in said
    assert "head.fc3.weight is 256x576, not 256x1024" in said


def test_torchvisions_names_for_a_network_that_it_has_not(tmp_path: Path):
    save_file({"features.0.weight": np.zeros((1, 1, 1, 1), np.float32)}, tmp_path / "other.safetensors")
    said = refusal(tmp_path / "other.safetensors", small_model())
    assert "has torchvision's names, but torchvision has no small" in said
