"""Initial values: every element is drawn by its global index, so a rank draws just the part it holds."""

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from owt_mpi import rng
from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Backend, Shape
from owt_mpi.backends.precision import exact_dtype

_BLOCK = 1 << 18  # elements drawn at a time: the float64 temporaries stay in cache


@dataclass(frozen=True)
class Constant:
    """Every element is `value`."""

    value: float

    def draw(self, key: int, indices: np.ndarray, shape: Shape) -> np.ndarray:
        return np.full(len(indices), self.value)


@dataclass(frozen=True)
class Normal:
    """Normal with mean 0 and standard deviation `std`."""

    std: float

    def draw(self, key: int, indices: np.ndarray, shape: Shape) -> np.ndarray:
        return self.std * rng.normal(key, indices)


@dataclass(frozen=True)
class HeNormal:
    """Normal with mean 0 and variance 2 / fan-in (He et al. 2015), fan-in = elements a unit reads."""

    def draw(self, key: int, indices: np.ndarray, shape: Shape) -> np.ndarray:
        return sqrt(2.0 / prod(shape[1:])) * rng.normal(key, indices)


@dataclass(frozen=True)
class FanInUniform:
    """Uniform in +-1/sqrt(fan_in): what PyTorch gives convolutions and linear layers. A bias names its layer's."""

    fan_in: int | None = None

    def draw(self, key: int, indices: np.ndarray, shape: Shape) -> np.ndarray:
        bound = 1.0 / sqrt(self.fan_in or prod(shape[1:]))
        return np.asarray(bound * (2.0 * rng.uniform(key, indices) - 1.0))


def initialise(parameters: list[Parameter], backend: Backend, seed: int, dtype: np.dtype) -> None:
    """Give every parameter its first values: functions of `seed`, its name and each element's global index.

    They are to be computed with as `dtype`.
    """
    for parameter in parameters:
        assert parameter.name, "assign_names comes first"
        values = np.empty(prod(parameter.shape), exact_dtype(dtype))
        key = rng.stream_key(seed, "init", parameter.name)
        for start in range(0, values.size, _BLOCK):
            stop = min(start + _BLOCK, values.size)
            indices = global_indices(parameter, start, stop)
            values[start:stop] = parameter.init.draw(key, indices, parameter.global_shape)
        parameter.set_values(backend.from_host(values.reshape(parameter.shape)), backend, dtype)


def global_indices(parameter: Parameter, start: int, stop: int) -> np.ndarray:
    """Return the flat indices in the whole parameter of the flat elements start..stop-1 of this rank's part."""
    local = np.arange(start, stop, dtype=np.int64)
    shard = parameter.shard
    if shard is None:
        return local
    inner = prod(parameter.shape[shard.axis :])
    outer, within = np.divmod(local, inner)
    return outer * (inner * shard.count) + shard.index * inner + within
