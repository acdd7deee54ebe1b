"""The conformance table fails for backends with one deliberate mistake each: mistakes that are easily made."""

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from tests.backends.conformance import TABLE


class FlippedKernel(ReferenceBackend):
    """Convolution instead of cross-correlation."""

    def conv2d(self, x, w, b, stride, pad):
        return super().conv2d(x, w[:, ::-1, ::-1], b, stride, pad)


class BiasForgotten(ReferenceBackend):
    def conv2d(self, x, w, b, stride, pad):
        return super().conv2d(x, w, None, stride, pad)


class PadSwappedInGradX(ReferenceBackend):
    def conv2d_grad_x(self, gy, w, stride, pad, x_shape):
        gx = super().conv2d_grad_x(gy, w, stride, pad, x_shape)
        return np.roll(gx, pad[0] - pad[1], axis=1)


class MeanInGradW(ReferenceBackend):
    def conv2d_grad_w(self, gy, x, stride, pad, w_shape, with_bias):
        gw, gb = super().conv2d_grad_w(gy, x, stride, pad, w_shape, with_bias)
        return gw / len(x), gb


class BiasGradientOfOneImage(ReferenceBackend):
    def conv2d_grad_w(self, gy, x, stride, pad, w_shape, with_bias):
        gw, gb = super().conv2d_grad_w(gy, x, stride, pad, w_shape, with_bias)
        return gw, gy[0].sum(axis=(0, 1)) if with_bias else gb


class PaddingWins(ReferenceBackend):
    """Maxima over zeros outside the image."""

    def max_pool2d(self, x, kernel, stride, pad):
        y, workspace = super().max_pool2d(x, kernel, stride, pad)
        return np.maximum(y, 0) if max(pad) else y, workspace


class LastMaximumWins(ReferenceBackend):
    def max_pool2d(self, x, kernel, stride, pad):
        y, _ = super().max_pool2d(x, kernel, stride, pad)
        tilted = x + 1e-5 * np.arange(x[0, ..., 0].size).reshape(1, *x.shape[1:3], 1)
        return y, super().max_pool2d(tilted.astype(x.dtype), kernel, stride, pad)[1]


class PaddingCounted(ReferenceBackend):
    def avg_pool2d(self, x, kernel, stride, pad):
        padded = np.pad(x, ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)))
        return super().avg_pool2d(padded, kernel, stride, (0, 0))


class AlphaDividedBySize(ReferenceBackend):
    def lrn(self, x, size, alpha, beta, k):
        return super().lrn(x, size, alpha / size, beta, k)


class GradientThroughDenominatorForgotten(ReferenceBackend):
    def lrn_grad(self, gy, x, workspace, size, alpha, beta, k):
        return gy * workspace**-beta


class DecayOfVelocity(ReferenceBackend):
    def momentum_sgd(self, w, v, g, lr, momentum, weight_decay, scale=1.0, copy=None, skip=None):
        super().momentum_sgd(w, v, g, lr, momentum * (1 - lr * weight_decay), 0.0, scale, copy, skip)


class ScaleForgotten(ReferenceBackend):
    def momentum_sgd(self, w, v, g, lr, momentum, weight_decay, scale=1.0, copy=None, skip=None):
        super().momentum_sgd(w, v, g, lr, momentum, weight_decay, 1.0, copy, skip)


class LastElementForgotten(ReferenceBackend):
    def momentum_sgd(self, w, v, g, lr, momentum, weight_decay, scale=1.0, copy=None, skip=None):
        even = w.size // 2 * 2
        flat = [array.reshape(-1)[:even] for array in (w, v, g)]
        super().momentum_sgd(*flat, lr, momentum, weight_decay, scale, copy, skip)


class SkipForgotten(ReferenceBackend):
    def momentum_sgd(self, w, v, g, lr, momentum, weight_decay, scale=1.0, copy=None, skip=None):
        super().momentum_sgd(w, v, g, lr, momentum, weight_decay, scale, copy)


class ResultsOfAnotherDtype(ReferenceBackend):
    def avg_pool2d_grad(self, gy, kernel, stride, pad, x_shape):
        return super().avg_pool2d_grad(gy, kernel, stride, pad, x_shape).astype(np.float32)


def checks_that_fail(backend) -> set[str]:
    failed = set()
    for check, cases in TABLE:
        for case in cases:
            try:
                check(backend, case, np.float64)
            except AssertionError:
                failed.add(check.__name__)
                break
    return failed


@pytest.mark.parametrize(
    ("broken", "noticed_by"),
    [
        (FlippedKernel, "check_conv2d"),
        (BiasForgotten, "check_conv2d"),
        (PadSwappedInGradX, "check_conv2d_grad_x"),
        (MeanInGradW, "check_conv2d_grad_w"),
        (BiasGradientOfOneImage, "check_conv2d_grad_w"),
        (PaddingWins, "check_max_pool2d"),
        (LastMaximumWins, "check_max_pool2d"),
        (PaddingCounted, "check_avg_pool2d"),
        (AlphaDividedBySize, "check_lrn"),
        (GradientThroughDenominatorForgotten, "check_lrn"),
        (DecayOfVelocity, "check_momentum_sgd"),
        (ScaleForgotten, "check_momentum_sgd"),
        (LastElementForgotten, "check_momentum_sgd"),
        (SkipForgotten, "check_skipped_momentum_sgd"),
        (ResultsOfAnotherDtype, "check_avg_pool2d"),
    ],
)
def test_a_mistake_fails_its_check_and_no_other(broken, noticed_by):
    assert checks_that_fail(broken()) == {noticed_by}


def test_the_unbroken_backend_passes():
    assert checks_that_fail(ReferenceBackend()) == set()
