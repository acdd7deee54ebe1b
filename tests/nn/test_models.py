"""The shipped models are the published ones, and a user's mistakes are named."""

from dataclasses import replace
from math import prod

import pytest

from owt_mpi.autograd import symbolic
from owt_mpi.nn.layers import LRN, Conv2d, Dropout, Flatten, Linear, ReLU
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.models import MODELS, find_builder
from owt_mpi.nn.module import Module, Sequential, symbolic_context

IMAGENET = InputSpec(crop=224, channels=3, num_classes=1000)
CIFAR = InputSpec(crop=32, channels=3, num_classes=10)

# torchvision's counts; alexnet-owt is the paper's
PUBLISHED_PARAMETERS = {
    "alexnet-owt": 61_100_840,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED_PARAMETERS.items())
def test_models_have_the_published_number_of_parameters(name, count):
    assert sum(p.size for p in MODELS[name](IMAGENET).parameters()) == count


def test_the_trunk_of_alexnet_owt_holds_four_percent_of_the_parameters():
    model = MODELS["alexnet-owt"](IMAGENET)
    assert sum(p.size for p in model.trunk.parameters()) == 2_469_696
    assert model.num_features == 9216


def test_384_filters_in_conv4_add_1_21_percent():
    larger = sum(p.size for p in MODELS["alexnet-owt-384"](IMAGENET).parameters())
    assert larger == 61_100_840 + 128 * (384 * 9 + 1) + 256 * 128 * 9


def test_alexnet_owt_has_the_quirks_of_the_released_configuration():
    model = MODELS["alexnet-owt"](IMAGENET)
    assert model.loss == "logistic"
    assert list(model.trunk.layers)[:4] == ["conv1", "lrn1", "pool1", "relu1"]
    lrn = model.trunk.layers["lrn1"]
    assert (lrn.size, lrn.alpha, lrn.beta, lrn.k) == (5, 2e-5, 0.75, 2.0)
    stds = {n: layer.weight.init.std for n, layer in model.trunk.layers.items() if isinstance(layer, Conv2d)}
    assert stds == {"conv1": 0.01, "conv2": 0.01, "conv3": 0.03, "conv4": 0.03, "conv5": 0.03}
    layers = [layer for part in (model.trunk, model.head) for layer in part.layers.values()]
    biases = [layer.bias.init.value for layer in layers if isinstance(layer, Conv2d | Linear)]
    assert biases == [0, 1, 0, 1, 1, 1, 1, -7]


def test_the_filters_are_those_of_the_paper():
    trunk = MODELS["alexnet-owt"](IMAGENET).trunk
    shapes = [layer.weight.shape for layer in trunk.layers.values() if isinstance(layer, Conv2d)]
    assert shapes == [(64, 11, 11, 3), (192, 5, 5, 64), (384, 3, 3, 192), (256, 3, 3, 384), (256, 3, 3, 256)]
    assert sum(isinstance(layer, LRN) for layer in trunk.layers.values()) == 2


@pytest.mark.parametrize("name", MODELS)
def test_every_model_works_out_its_shapes_at_a_small_size(name):
    spec = InputSpec(crop=67, channels=1, num_classes=12)
    model = MODELS[name](spec)
    acts = model.trunk(symbolic((2, 67, 67, 1)), symbolic_context(2))
    assert model.head(acts, symbolic_context(2)).shape == (2, 12)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_have_unique_names(name):
    names = [p.name for p in MODELS[name](InputSpec(67, 3, 10)).parameters()]
    assert len(set(names)) == len(names)
    assert all(n.startswith(("trunk.", "head.")) for n in names)


def test_images_too_small_for_a_network_are_named():
    with pytest.raises(ValueError, match="3x3 window does not fit into a 1x1 image"):
        MODELS["alexnet"](CIFAR)


def tiny(trunk=None, head=None, loss="softmax"):
    trunk = trunk or Sequential({"conv": Conv2d(3, 2, 3), "flatten": Flatten()})
    features = prod((30, 30, 2))
    return Model("tiny", CIFAR, trunk, head or Sequential({"fc": Linear(features, 10)}), loss)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny(trunk=Sequential({"conv": Conv2d(3, 2, 3)})), r"must be \(n, features\); end it with Flatten"),
        (lambda: tiny(head=Sequential({"fc": Linear(7, 10)})), "head.fc takes 7 features, but gets 1800"),
        (lambda: tiny(head=Sequential({"fc": Linear(1800, 11)})), "ends in 11 outputs, but the data has 10 classes"),
        (lambda: tiny(head=Sequential({"relu": ReLU()})), "needs at least one Linear"),
        (
            lambda: tiny(head=Sequential({"flatten": Flatten(), "fc": Linear(1800, 10)})),
            "head.flatten is a Flatten, but the head can only hold Linear",
        ),
        (lambda: tiny(loss="hinge"), "loss is 'hinge', but must be"),
        (lambda: tiny(trunk=Sequential({"c": Conv2d(4, 2, 3), "f": Flatten()})), "has 3 channels, but w .* takes 4"),
    ],
)
def test_parts_that_do_not_fit_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class Listed(Module):
    """Two convolutions in a list, as people write it."""

    def __init__(self):
        self.convs, self.named, self.flatten = [Conv2d(3, 2, 3), Conv2d(2, 2, 3)], {"last": Conv2d(2, 2, 1)}, Flatten()

    def forward(self, x, ctx):
        for conv in (*self.convs, self.named["last"]):
            x = conv(x, ctx)
        return self.flatten(x, ctx)


def test_modules_in_lists_and_dicts_are_found_and_named():
    trunk = Listed()
    model = tiny(trunk, Sequential({"fc": Linear(num_features(trunk, CIFAR), 10)}))
    names = [p.name for p in model.trunk.parameters() if p.name.endswith("weight")]
    assert names == ["trunk.convs.0.weight", "trunk.convs.1.weight", "trunk.named.last.weight"]


def test_one_object_in_two_places_is_refused():
    shared = Dropout(0.5)
    head = Sequential({"d1": shared, "fc": Linear(1800, 10), "d2": shared})
    with pytest.raises(ValueError, match=r"head.d1 and head.d2 are one Dropout object; make two"):
        tiny(head=head)


def test_parameters_that_the_output_does_not_depend_on_are_named():
    class Unused(Listed):
        def __init__(self):
            super().__init__()
            self.spare = Conv2d(1, 1, 1)

    trunk = Unused()
    with pytest.raises(ValueError, match=r"does not depend on trunk.spare.weight, trunk.spare.bias; remove it"):
        tiny(trunk, Sequential({"fc": Linear(num_features(trunk, CIFAR), 10)}))


def test_a_layer_of_ones_own_in_the_head_is_refused():
    class Wide(Linear):
        pass

    with pytest.raises(ValueError, match=r"head.fc is a Wide, but the head can only hold Linear"):
        tiny(head=Sequential({"fc": Wide(1800, 10)}))


def test_a_users_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "widths.py").write_text("WIDTH = 7\n")
    (tmp_path / "nets.py").write_text("from widths import WIDTH\ndef net(spec):\n    return WIDTH\n")
    assert find_builder(f"{tmp_path}/nets.py:net")(CIFAR) == 7


@pytest.mark.parametrize("text", ["def net(spec:\n", "import no_such_module\n"])
def test_a_users_file_that_cannot_be_imported_is_named(tmp_path, text):
    (tmp_path / "nets.py").write_text(text)
    with pytest.raises(ValueError, match=r"nets.py cannot be imported: "):
        find_builder(f"{tmp_path}/nets.py:net")


def test_a_users_model_is_found_in_his_file(tmp_path):
    file = tmp_path / "my_nets.py"
    file.write_text(
        "from owt_mpi.nn.layers import Flatten, Linear\n"
        "from owt_mpi.nn.model import Model\n"
        "from owt_mpi.nn.module import Sequential\n"
        "def flat(spec):\n"
        "    head = Sequential({'fc': Linear(spec.crop**2 * spec.channels, spec.num_classes)})\n"
        "    return Model('flat', spec, Sequential({'flatten': Flatten()}), head, 'softmax')\n"
    )
    assert find_builder(f"{file}:flat")(CIFAR).name == "flat"
    with pytest.raises(ValueError, match="defines no function 'wide'"):
        find_builder(f"{file}:wide")


@pytest.mark.parametrize(
    ("name", "message"),
    [("alexnot", "no model 'alexnot'; choose one of alexnet-owt"), ("nowhere.py:net", "no file nowhere.py")],
)
def test_a_model_that_is_not_there_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        find_builder(name)


def test_dropout_does_nothing_outside_training():
    x = symbolic((2, 3))
    assert Dropout(0.5)(x, replace(symbolic_context(2), training=False)) is x
    assert Dropout(0.5)(x, symbolic_context(2)) is not x


def test_num_features_is_the_size_of_the_boundary():
    assert num_features(Sequential({"conv": Conv2d(3, 2, 3), "flatten": Flatten()}), CIFAR) == 1800
