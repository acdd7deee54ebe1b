"""What is oneDNN's own: threads that share a backend, thread counts that change, errors, LRNs it must not compute."""

import threading

import numpy as np
import pytest

from owt_mpi.backends import onednn_builders as builders
from owt_mpi.backends.onednn_builders import Conv
from tests.backends.conformance import (
    CONV_CASES,
    LRN_CASES,
    POOL_CASES,
    LrnCase,
    check_conv2d,
    check_conv2d_grad_w,
    check_conv2d_grad_x,
    check_lrn,
    check_max_pool2d,
)

WORK = [
    *((check, case) for check in (check_conv2d, check_conv2d_grad_x, check_conv2d_grad_w) for case in CONV_CASES[:5]),
    *((check_max_pool2d, case) for case in POOL_CASES[:3]),
    (check_lrn, LRN_CASES[0]),
]


def run_in_threads(num_threads, work):
    """Run work(index) in that many threads at once; raise what one of them raised."""
    start, errors = threading.Barrier(num_threads), []

    def target(index):
        start.wait()
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, args=(index,)) for index in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_products_over_nothing_are_zeros(onednn, rows, inputs, outputs):
    x, w, gy = (np.ones(shape, np.float32) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs)))
    for product in (onednn.linear(x, w, None), onednn.linear_grad_x(gy, w), onednn.linear_grad_w(gy, x)):
        assert not product.any()
    bias = np.arange(outputs, dtype=np.float32)
    np.testing.assert_array_equal(onednn.linear(x, w, bias), np.broadcast_to(bias, (rows, outputs)))


def test_a_fully_connected_layer_hides_no_nan(onednn):
    x, w = np.full((2, 3), np.nan, np.float32), np.ones((4, 3), np.float32)
    assert np.isnan(onednn.linear(x, w, None, relu=True)).all()


def test_threads_share_a_backend(onednn):
    """Each thread takes the table from another place on, so that equal and different geometries meet."""

    def work(index):
        for check, case in WORK[index * 3 :] + WORK[: index * 3]:
            check(onednn, case, np.float32)

    run_in_threads(4, work)


def test_threads_at_once_get_the_bits_that_one_gets(onednn):
    rng = np.random.default_rng(5)
    inputs = [rng.normal(size=(8, 14, 15, 32)).astype(np.float32) for _ in range(4)]
    w = rng.normal(size=(48, 3, 3, 32)).astype(np.float32)
    b = rng.normal(size=48).astype(np.float32)
    alone = [onednn.conv2d(x, w, b, (1, 1), (1, 1)) for x in inputs]

    def work(index):
        for _ in range(20):
            y = onednn.conv2d(inputs[index], w, b, (1, 1), (1, 1))
            np.testing.assert_array_equal(y, alone[index])

    run_in_threads(4, work)


@pytest.mark.usefixtures("restored_num_threads")
def test_the_number_of_threads_may_change_between_forward_and_backward(onednn):
    for num_threads in (1, 3, 2):
        onednn.set_num_threads(num_threads)
        for check, case in WORK:
            check(onednn, case, np.float32)
    x = np.arange(2 * 9 * 7 * 16, dtype=np.float32).reshape(2, 9, 7, 16) % 5
    where = ((3, 3), (2, 2), (1, 1))
    onednn.set_num_threads(1)
    y, workspace = onednn.max_pool2d(x, *where)
    expected = onednn.max_pool2d_grad(y, workspace, *where, x.shape)
    onednn.set_num_threads(3)
    np.testing.assert_array_equal(onednn.max_pool2d_grad(y, workspace, *where, x.shape), expected)


@pytest.mark.usefixtures("restored_num_threads")
def test_primitives_are_built_once_for_a_geometry_and_number_of_threads(onednn, monkeypatch):
    built = []
    original = builders.conv2d
    counting = lambda context, geometry: built.append(geometry.x[0]) or original(context, geometry)  # noqa: E731
    monkeypatch.setattr(builders, "conv2d", counting)
    onednn.set_num_threads(1)
    for batch in (2, 2, 3, 2):
        x = np.ones((batch, 4, 5, 3), np.float32)
        onednn.conv2d(x, x[:1], None, (1, 1), (0, 0))
    assert built == [2, 3]
    onednn.set_num_threads(2)  # a primitive divides its work when it is built
    onednn.conv2d(x, x[:1], None, (1, 1), (0, 0))
    assert built == [2, 3, 2]


def test_an_error_of_the_library_names_operation_shapes_and_status(onednn):
    geometry = Conv(x=(2, 5, 6, 3), w=(4, 3, 3, 3), y=(2, 9, 9, 4), stride=(1, 1), pad=(0, 0), bias=False)
    with pytest.raises(
        RuntimeError, match=r"conv2d failed: dnnl_convolution_forward.* invalid arguments \(2\), .*x=\(2, 5, 6, 3\)"
    ):
        onednn._run(builders.conv2d, geometry, {})


@pytest.mark.parametrize("num_channels", [3, 16, 17, 100])
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("beta", [0.75, 1.0, 0.6])
def test_lrn_is_right_where_the_library_is_not(onednn, num_channels, size, beta):
    case = LrnCase("", x=(2, 5, 4, num_channels), size=size, alpha=0.9, beta=beta, k=1.5)
    check_lrn(onednn, case, np.float32)


def test_float64_is_refused(onednn):
    x = np.ones((2, 5, 6, 3))
    with pytest.raises(TypeError, match="x is float64, but this backend computes in float32"):
        onednn.conv2d(x, x, None, (1, 1), (0, 0))


def test_numpy_scalars_do_not_carry_the_update_through_float64(onednn):
    w, v, g = np.random.default_rng(3).normal(size=(3, 1001)).astype(np.float32)
    expected_w, expected_v = w.copy(), v.copy()
    onednn.momentum_sgd(expected_w, expected_v, g, 0.3, 0.9, 0.2)
    onednn.momentum_sgd(w, v, g, np.float64(0.3), np.float64(0.9), np.float64(0.2))
    np.testing.assert_array_equal(w, expected_w)
    np.testing.assert_array_equal(v, expected_v)
