"""Parameters in PyTorch's order: element by element, and part by part as ranks read them."""

import numpy as np
import pytest

from owt_mpi.autograd import Parameter, Shard, Tensor
from owt_mpi.interchange.order import FileArray, FilterOrder, ImageColumnsOrder, Order, orders_of, whole
from owt_mpi.nn.init import Constant
from owt_mpi.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model, num_features
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context, Module, Sequential, own_values
from owt_mpi.nn.restricted import restricted
from owt_mpi.ops.add import add

H, W, C = 2, 3, 4


class Recorder:
    """An array that notes which rows are read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.rows = array, []

    def __getitem__(self, where) -> np.ndarray:
        self.rows.append((where[0].start, where[0].stop))
        return self.array[where]


def test_filters_are_channels_first_in_files():
    ours = np.random.default_rng(1).standard_normal((5, 2, 3, 4))
    theirs = FilterOrder().to_file(ours)
    assert theirs.shape == FilterOrder().file_shape(ours.shape) == (5, 4, 2, 3)
    assert all(theirs[o, i, y, x] == ours[o, y, x, i] for o, y, x, i in np.ndindex(ours.shape))


def test_columns_of_an_image_are_channels_first_in_files():
    ours = np.random.default_rng(1).standard_normal((5, H * W * C))
    theirs = ImageColumnsOrder((H, W, C)).to_file(ours)
    for row, y, x, channel in np.ndindex(5, H, W, C):
        assert theirs[row, channel * H * W + y * W + x] == ours[row, (y * W + x) * C + channel]


@pytest.mark.parametrize("block_bytes", [1, 1 << 24])
@pytest.mark.parametrize("order", [Order(), ImageColumnsOrder((H, W, C))], ids=["plain", "image"])
@pytest.mark.parametrize("shard", [None, *(Shard(axis, 1, count) for axis in (0, 1) for count in (2, 4))])
def test_a_rank_reads_its_part_and_no_rows_of_others(monkeypatch, order: Order, shard: Shard | None, block_bytes: int):
    monkeypatch.setattr("owt_mpi.interchange.order._BLOCK_BYTES", block_bytes)
    ours = np.random.default_rng(1).standard_normal((8, H * W * C))
    parameter = Parameter(ours.shape, Constant(0.0), shard=shard)
    parameter.dtype = np.dtype(np.float64)
    file = Recorder(order.to_file(ours))
    read = own_values(parameter, FileArray(file, order, ours.shape))
    part = ours
    if shard is not None:
        part = np.split(ours, shard.count, axis=shard.axis)[shard.index]
    np.testing.assert_array_equal(read, part)
    if shard is not None and shard.axis == 0:
        first, stop = (8 // shard.count * i for i in (1, 2))
        assert all(first <= a and b <= stop for a, b in file.rows), file.rows


def test_what_is_written_is_read_again():
    model = MODELS["small"](InputSpec(20, 3, 10))
    orders, rng = orders_of(model), np.random.default_rng(1)
    for parameter in model.parameters():
        ours = rng.standard_normal(parameter.shape)
        order = orders[parameter.name]
        theirs = order.to_file(ours)
        assert theirs.shape == order.file_shape(ours.shape)
        np.testing.assert_array_equal(whole(FileArray(theirs, order, ours.shape)), ours)


def test_a_layer_behind_relu_and_dropout_has_the_columns_of_the_image():
    spec = InputSpec(9, 3, 4)
    layers = {"conv1": Conv2d(3, 5, 3), "pool1": MaxPool2d(2, 2), "flatten": Flatten(), "relu1": ReLU()}
    trunk = Sequential(layers)
    head = Sequential({"drop2": Dropout(), "fc2": Linear(num_features(trunk, spec), 6), "fc3": Linear(6, 4)})
    orders = orders_of(Model("net", spec, trunk, head, "softmax"))
    assert orders["head.fc2.weight"] == ImageColumnsOrder((3, 3, 5))
    assert orders["trunk.conv1.weight"] == FilterOrder()
    plain = {name for name, order in orders.items() if type(order) is Order}
    assert plain == {"trunk.conv1.bias", "head.fc2.bias", "head.fc3.weight", "head.fc3.bias"}


def test_layers_of_restricted_connectivity_keep_our_order():
    model = restricted(MODELS["small"](InputSpec(20, 3, 8)), 0.25, 4)
    assert all(type(order) is Order for name, order in orders_of(model).items() if name.startswith("head."))


class Both(Module):
    """A layer that reads an image 2 high and 4 wide, and one 4 high and 2 wide."""

    def __init__(self) -> None:
        self.fc, self.flatten = Linear(24, 8), Flatten()
        self.wide, self.tall = MaxPool2d((4, 2), (4, 2)), MaxPool2d((2, 4), (2, 4))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return add(*(self.fc(self.flatten(pool(x, ctx), ctx), ctx) for pool in (self.wide, self.tall)))


def test_weights_that_read_images_of_two_shapes_are_refused():
    model = Model("both", InputSpec(8, 3, 4), Both(), Sequential({"fc2": Linear(8, 4)}), "softmax")
    with pytest.raises(ValueError, match=r"trunk.fc.weight reads images of different shapes"):
        orders_of(model)
