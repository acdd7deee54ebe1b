"""The check of an operation, once in NumPy and once on the GPU backend."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests import op_check
from tests.cuda_backend import cuda_backend


@pytest.fixture(params=["reference", "cuda"])
def check_op(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """op_check.check_op, or op_check.check_op_on the GPU backend over the stand-in for CuPy."""
    if request.param == "reference":
        yield op_check.check_op
    else:
        with cuda_backend() as backend:
            yield partial(op_check.check_op_on, backend)
