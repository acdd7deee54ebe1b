"""Where parameters start in their flat buckets: off multiples of 16 bytes cuDNN has few plans (docs/gpu.md)."""

import numpy as np
import pytest

from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS, find_builder
from owt_mpi.parallel.grad_sync import group_parameters, starts_of

ALIGNED_BYTES = 16
BUCKET_BYTES = 4 << 20


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_convolutions_read_and_write_starts_at_multiples_of_16_bytes(name, dtype):
    """A bucket itself starts where its allocator says, at multiples of 256 bytes or more."""
    trunk = find_builder(name)(InputSpec(96, 3, 10)).trunk.parameters()
    groups = group_parameters(trunk, BUCKET_BYTES)
    assert sum(map(len, groups)) == len(trunk)
    for group in groups:
        for parameter, start in zip(group, starts_of(group), strict=True):
            assert start * np.dtype(dtype).itemsize % ALIGNED_BYTES == 0, (parameter.name, start)
