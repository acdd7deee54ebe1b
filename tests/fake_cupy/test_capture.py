"""Captures and graphs of the stand-in: nothing runs before a launch, each launch does it again; what CUDA refuses."""

import gc

import numpy as np
import pytest

from tests.fake_cupy import RACES, RaceError, stand_in

X = np.arange(6, dtype=np.float32)


@pytest.fixture
def cupy():
    with stand_in() as module:
        yield module


@pytest.fixture
def stream(cupy):
    with cupy.cuda.Stream(non_blocking=True) as stream:
        yield stream


@pytest.fixture
def pool(cupy):
    return cupy.cuda.MemoryPool()


def captured(cupy, stream, pool, work):
    """Return the graph of `work()`, and its result."""
    with cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        result = work()
        return stream.end_capture(), result


def test_a_graph_does_its_work_when_launched_and_each_time_on_the_same_addresses(cupy, stream, pool):
    x = cupy.asarray(X)
    graph, y = captured(cupy, stream, pool, lambda: x + 1)
    assert not stream.is_capturing()
    assert not np.array_equal(y.get(), X + 1)
    for factor in (1, 5):
        x[...] = cupy.asarray(factor * X)
        graph.launch()
        np.testing.assert_array_equal(y.get(), factor * X + 1)
    other = cupy.cuda.Stream(non_blocking=True)
    other.wait_event(stream.record())
    graph.launch(other)
    np.testing.assert_array_equal(y.get(stream=other), 5 * X + 1)


def test_memory_that_a_capture_takes_is_no_number_again_in_every_launch(cupy, stream, pool):
    graph, (fresh, counted) = captured(
        cupy, stream, pool, lambda: (cupy.empty(6, np.float32), cupy.zeros(6, np.float32))
    )
    for _ in range(2):
        graph.launch()
        assert np.isnan(fresh.get()).all()
        np.testing.assert_array_equal(counted.get(), np.zeros(6))
        fresh.fill(3)
        counted.fill(3)


def test_a_launch_is_held_to_the_order_of_streams_as_its_operations_are(cupy, stream, pool):
    x = cupy.asarray(X)
    graph, _ = captured(cupy, stream, pool, lambda: x.fill(0))
    assert RACES == []
    with pytest.raises(RaceError, match="a write on another may still run"):
        graph.launch(cupy.cuda.Stream(non_blocking=True))


def test_memory_that_went_back_to_the_driver_is_missed_by_a_launch(cupy, stream):
    for give_back in (lambda pool: pool.free_all_blocks(), lambda pool: None):
        pool = cupy.cuda.MemoryPool()
        graph, _ = captured(cupy, stream, pool, lambda: cupy.zeros(6, np.float32).fill(1))
        give_back(pool)
        del pool
        gc.collect()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="IllegalAddress"):
            graph.launch()


# what CUDA refuses while work is captured; and what the stand-in knows to go wrong later
REFUSED = {
    "synchronisation": (lambda cp, s, x, e: s.synchronize(), "StreamCaptureUnsupported"),
    "query": (lambda cp, s, x, e: s.done, "StreamCaptureUnsupported"),
    "copy_to_the_host": (lambda cp, s, x, e: x.get(), "StreamCaptureUnsupported"),
    "copy_from_pageable_memory": (lambda cp, s, x, e: x.set(X), "StreamCaptureUnsupported"),
    "another_capture": (lambda cp, s, x, e: s.begin_capture(), "StreamCaptureUnsupported"),
    "event_of_other_work": (lambda cp, s, x, e: s.wait_event(e), "StreamCaptureIsolation"),
    "memory_that_all_share": (lambda cp, s, x, e: x + 1, "of the pool that all arrays share"),
    "wait_of_the_host": (lambda cp, s, x, e: s.record().synchronize(), "CapturedEvent"),
    "wait_of_another_stream": (lambda cp, s, x, e: cp.cuda.Stream().wait_event(s.record()), "knows no captures of"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_in_a_capture(cupy, stream, call, message):
    x, event = cupy.asarray(X), stream.record()
    stream.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match=message):
        call(cupy, stream, x, event)


def test_what_was_refused_makes_the_capture_invalid(cupy, stream):
    stream.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        stream.synchronize()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CaptureInvalidated"):
        stream.end_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="not capturing"):
        stream.end_capture()


def test_the_default_stream_cannot_be_captured(cupy):
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.get_current_stream().begin_capture()


def test_other_streams_go_on_and_events_order_what_is_captured(cupy, stream, pool):
    x, other = cupy.asarray(X), cupy.cuda.Stream(non_blocking=True)
    other.wait_event(stream.record())

    def work():
        stream.wait_event(stream.record())
        host = x.get(stream=other)
        return x + 1, host

    graph, (y, host) = captured(cupy, stream, pool, work)
    np.testing.assert_array_equal(host, X)
    graph.launch()
    np.testing.assert_array_equal(y.get(), X + 1)
