"""A trunk in blocks that are computed again: the same training to the bit, less on the tape, and the best cuts."""

from itertools import combinations

import numpy as np
import pytest

from owt_mpi.autograd import symbolic, tensor
from owt_mpi.backends.base import Backend
from owt_mpi.backends.onednn import OneDnnBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.nn.init import initialise
from owt_mpi.nn.kept import backward_peak_bytes
from owt_mpi.nn.layers import Flatten
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.module import Context, Module, Sequential
from owt_mpi.nn.recompute import RecomputedSequential, backward_peak_of, blocks_of, kept_by, recompute_trunk
from owt_mpi.parallel.layout import Plan
from tests.tiny import SPEC, tiny_model, train_tiny_on

REFERENCE = ReferenceBackend()
CUTS = (2, 6)  # within the layers of block 1, and between a dropout and what is before it


@pytest.mark.parametrize(
    "plan", [Plan(1), Plan(2, "a"), Plan(4, "b"), Plan(4, "c"), Plan(2, "d"), Plan(4, "c", 2), Plan(2, "dp")]
)
@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
def test_training_is_the_same_to_the_bit(plan, trunk_sync):
    plain, losses = train_tiny_on(plan, num_steps=4, trunk_sync=trunk_sync)
    again, losses_again = train_tiny_on(plan, num_steps=4, trunk_sync=trunk_sync, cuts=CUTS)
    assert losses_again == losses
    assert again.keys() == plain.keys()
    for name, values in again.items():
        np.testing.assert_array_equal(values, plain[name], err_msg=name)


@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
def test_halves_are_the_same_to_the_bit_too(trunk_sync):
    options = {"num_steps": 3, "dtype": "float32", "precision": "fp16", "trunk_sync": trunk_sync}
    plain, losses = train_tiny_on(Plan(2, "c"), **options)
    again, losses_again = train_tiny_on(Plan(2, "c"), **options, cuts=CUTS)
    assert losses_again == losses
    for name, values in again.items():
        np.testing.assert_array_equal(values, plain[name], err_msg=name)


@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3, 4, 6, 7, 8)])
def test_training_is_the_same_wherever_the_cuts_are_and_on_onednn(cuts):
    options = {"num_steps": 3, "dtype": "float32", "backend": OneDnnBackend()}
    plain, losses = train_tiny_on(Plan(2), **options)
    again, losses_again = train_tiny_on(Plan(2), **options, cuts=cuts)
    assert losses_again == losses
    for name, values in again.items():
        np.testing.assert_array_equal(values, plain[name], err_msg=name)


def tiny_trunk(cuts: tuple[int, ...]) -> RecomputedSequential:
    trunk = tiny_model().trunk
    assert isinstance(trunk, Sequential)
    return RecomputedSequential(trunk, cuts)


def images(backend: Backend = REFERENCE):
    values = np.random.default_rng(2).standard_normal((3, SPEC.crop, SPEC.crop, SPEC.channels))
    return tensor(values, backend)


def test_names_and_the_order_of_parameters_stay():
    plain, again = tiny_model().trunk, tiny_trunk(CUTS)
    assert [p.name for p in again.parameters()] == [p.name for p in plain.parameters()]
    assert [m.name for m in again.modules()] == [m.name for m in plain.modules()]


def test_the_tape_holds_the_blocks_inputs_and_the_steps_of_the_last_block():
    trunk = tiny_trunk(CUTS)
    initialise(trunk.parameters(), REFERENCE, 1, np.dtype(np.float64))
    node, names = trunk(images(), Context(True, np.arange(3))), []
    while node.creator is not None:
        names.append(node.creator.name)
        node = node.creator.inputs[0]
    assert names == ["FlattenOp", "AvgPool2dOp", "DropoutOp", "_Recomputed", "_Recomputed"]


def test_somebody_who_watches_sees_every_layer_once():
    trunk, seen = tiny_trunk(CUTS), []
    initialise(trunk.parameters(), REFERENCE, 1, np.dtype(np.float64))
    y = trunk(images(), Context(True, np.arange(3), watch=lambda name, _: seen.append(name)))
    assert seen == [f"trunk.{layer}" for layer in trunk.layers] + ["trunk"]
    np.testing.assert_array_equal(y.data, trunk(images(), Context(True, np.arange(3))).data)


def blocks_with(model: Model, cuts: tuple[int, ...], backend: str):
    assert isinstance(model.trunk, Sequential)
    x = symbolic((1, model.spec.crop, model.spec.crop, 3))
    return blocks_of(RecomputedSequential(model.trunk, cuts), x, 4, backend)


@pytest.mark.parametrize("backend", ["onednn", "reference", "cuda"])
@pytest.mark.parametrize("name", ["vgg16", "alexnet-owt"])
def test_no_other_cuts_need_less(name, backend):
    crop = {"vgg16": 32, "alexnet-owt": 64}[name]
    model = find_builder(name)(InputSpec(crop, 3, 10))
    assert isinstance(model.trunk, Sequential)
    layers = list(model.trunk.layers.values())
    trunk = recompute_trunk(model, 4, backend).trunk
    assert isinstance(trunk, RecomputedSequential)
    assert not any(block[0].is_relu for block in trunk.blocks)
    possible = [i for i in range(1, len(layers)) if not layers[i].is_relu]
    x = symbolic((1, crop, crop, 3))
    chosen = backward_peak_of(blocks_of(trunk, x, 4, backend), weight_grads=0)
    least = min(
        backward_peak_of(blocks_with(model, cuts, backend), weight_grads=0)
        for number in range(3)
        for cuts in combinations(possible, number)
    )
    whole = blocks_with(model, (), backend)
    assert chosen <= least < backward_peak_of(whole, weight_grads=0)
    assert kept_by(blocks_of(trunk, x, 4, backend)) < kept_by(whole)


def test_what_blocks_need_is_the_sum_by_hand():
    def values(*shape: int) -> int:
        return 4 * int(np.prod(shape))

    model = tiny_model()
    x = symbolic((2, 9, 9, 3))
    conv1 = lrn1 = values(2, 9, 9, 4)
    pool1 = relu1 = values(2, 4, 4, 4)
    conv2, pool2 = values(2, 4, 4, 6), values(2, 2, 2, 6)
    dropout2, mask = conv2, conv2
    # float32 on the reference: denominators like x, winners of 8 bytes; relu2 joins conv2; flatten is a view
    first = conv1 + lrn1 + conv1 + pool1 + 2 * pool1
    second = relu1 + conv2 + dropout2 + mask + pool2
    (whole,) = blocks_of(model.trunk, x, 4, "reference")
    assert kept_by([whole]) == first + second
    one, two = blocks_of(tiny_trunk((3,)), x, 4, "reference")
    assert (one.input_bytes, two.input_bytes) == (0, pool1)
    assert kept_by([one, two]) == pool1 + second
    # the most is held when the pooling's gradient is made, or, of the first block, LRN's
    assert backward_peak_bytes(one.steps, 1) == max(first + pool1 + lrn1, first - 3 * pool1 + lrn1 + conv1)
    assert backward_peak_of([one, two], 1) == max(
        backward_peak_bytes(one.steps, 1), pool1 + backward_peak_bytes(two.steps, 1)
    )


def test_a_trunk_that_is_no_sequential_cannot_be_cut():
    class Own(Module):
        def __init__(self) -> None:
            self.flatten = Flatten()

        def forward(self, x, ctx):
            return self.flatten(x, ctx)

    model = tiny_model()
    model.trunk = Own()
    with pytest.raises(ValueError, match="the trunk of tiny is a Own; make it a Sequential of its parts, or"):
        recompute_trunk(model, 4, "onednn")
