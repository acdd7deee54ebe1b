"""The stand-in's current stream is CuPy's, in what CuPy does that one does not expect too."""

import numpy as np
import pytest

from tests.fake_cupy import stand_in


@pytest.fixture
def cupy():
    with stand_in() as module:
        yield module


def test_a_with_block_ends_on_the_stream_of_the_block_around_it_whatever_was_used(cupy):
    """As in CuPy 14.2 (cupy/cuda/stream.pyx): use() leaves no trace on the stack that `with` goes back on."""
    used, outer, inner = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))
    null = cupy.cuda.get_current_stream()
    used.use()
    with outer:
        used.use()
        with inner:
            assert cupy.cuda.get_current_stream() is inner
        assert cupy.cuda.get_current_stream() is outer
    assert cupy.cuda.get_current_stream() is null


def test_a_copy_of_what_is_not_contiguous_ends_on_the_null_stream(cupy):
    """CuPy makes it contiguous in a with-block (cupy/_core/core.pyx)."""
    null, used = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    used.use()
    x = cupy.asarray(np.arange(6.0).reshape(2, 3))
    x.get()
    assert cupy.cuda.get_current_stream() is used
    x.T.get()
    assert cupy.cuda.get_current_stream() is null


def test_a_stream_is_of_one_device(cupy):
    stream = cupy.cuda.Stream()
    with cupy.cuda.Device(1):
        for call in (stream.use, stream.__enter__):
            with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="stream of device 0"):
                call()
