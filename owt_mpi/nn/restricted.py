"""Restricted connectivity: a model whose fully connected layers are block diagonal, with a little cross-talk.

The paper names it as future work: less has to cross between the ranks that share a layer.
"""

from dataclasses import replace
from math import gcd

from owt_mpi.autograd import Init
from owt_mpi.nn.init import FanInUniform
from owt_mpi.nn.layers import BlockLinear, Linear
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Module, Sequential


def restricted(model: Model, crosstalk: float, blocks: int) -> Model:
    """Return `model` with every Linear layer of its head a BlockLinear; as it is where `crosstalk` is 1.

    Names, trunk and other layers are the model's own. Initial values follow the fan-in that is left where the layer's
    do. ValueError, with the numbers that work, if a layer cannot be cut into `blocks`.
    """
    if crosstalk == 1.0:
        return model
    linears = [layer for layer in model.head.layers.values() if isinstance(layer, Linear)]
    common = gcd(*(size for layer in linears for size in (layer.inputs, layer.outputs)))
    for layer in linears:
        if layer.inputs % blocks or layer.outputs % blocks:
            possible = " or ".join(str(b) for b in range(2, common + 1) if common % b == 0)
            raise ValueError(
                f"--fc-blocks {blocks} does not divide the {layer.inputs} inputs and {layer.outputs} units of "
                f"{layer.name}; use {possible or 'another model: no number divides all FC layers of this one'}"
            )
    layers: dict[str, Module] = {
        name: _in_blocks(layer, crosstalk, blocks) if isinstance(layer, Linear) else layer
        for name, layer in model.head.layers.items()
    }
    name = f"{model.name} with FC layers in {blocks} blocks, cross-talk {crosstalk:g}"
    return Model(name, model.spec, model.trunk, Sequential(layers), model.loss)


def _in_blocks(layer: Linear, crosstalk: float, blocks: int) -> BlockLinear:
    in_blocks = BlockLinear(layer.inputs, layer.outputs, blocks, crosstalk, layer.weight.init)
    in_blocks.bias.init = _with_fan_in(layer.bias.init, in_blocks.weight.shape[1])
    return in_blocks


def _with_fan_in(init: Init, fan_in: int) -> Init:
    """Return a bias's `init` with another fan-in where it names one; a weight's shape tells its own."""
    return replace(init, fan_in=fan_in) if isinstance(init, FanInUniform) else init
