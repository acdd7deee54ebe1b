"""What every differentiable operation must pass: expected values, gradients along random directions, odd inputs."""

from collections.abc import Callable, Sequence

import numpy as np

from owt_mpi.autograd import Tensor, backward, tensor
from owt_mpi.backends.base import Backend
from owt_mpi.backends.reference import ReferenceBackend

REFERENCE = ReferenceBackend()
Function = Callable[..., Tensor]


def leaves(arrays: Sequence[np.ndarray]) -> list[Tensor]:
    return [tensor(array, REFERENCE, requires_grad=True) for array in arrays]


def apply(function: Function, arrays: Sequence[np.ndarray]) -> np.ndarray:
    data = function(*leaves(arrays)).data
    assert data is not None
    return np.asarray(data)


def check_op(function: Function, arrays: Sequence[np.ndarray], expected: np.ndarray) -> None:
    """Check `function` of float64 `arrays`: its values, its gradients, float32, and inputs that are not contiguous."""
    np.testing.assert_allclose(apply(function, arrays), expected, rtol=1e-12, atol=1e-12)
    check_gradients(function, arrays)
    single = apply(function, [a.astype(np.float32) for a in arrays])
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in arrays]
    np.testing.assert_allclose(apply(function, strided), expected, rtol=1e-12, atol=1e-12)


def check_op_on(backend: Backend, function: Function, arrays: Sequence[np.ndarray], expected: np.ndarray) -> None:
    """Check `function` of float32 `arrays` on `backend`, contiguous and not: its values, and the exact gradients."""
    exact = leaves(arrays)
    gy = np.random.default_rng(7).standard_normal(expected.shape).astype(np.float32)
    backward(function(*exact), gy.astype(np.float64))
    for step in (1, 2):
        there = [backend.from_host(np.repeat(a.astype(np.float32), step, axis=-1))[..., ::step] for a in arrays]
        inputs = [tensor(array, backend, requires_grad=True) for array in there]
        y = function(*inputs)
        assert y.dtype == np.float32
        np.testing.assert_allclose(backend.to_host(y.data), expected, rtol=1e-4, atol=1e-5)
        gy_there = backend.from_host(gy)
        backward(y, gy_there)
        np.testing.assert_array_equal(backend.to_host(gy_there), gy, err_msg="backward changed its argument")
        for i, (leaf, exact_leaf) in enumerate(zip(inputs, exact, strict=True)):
            np.testing.assert_allclose(
                backend.to_host(leaf.grad), exact_leaf.grad, rtol=1e-4, atol=1e-5, err_msg=f"gradient of input {i}"
            )


def check_gradients(function: Function, arrays: Sequence[np.ndarray], step: float = 1e-6) -> None:
    """Compare <gradient, d> with the central difference of <gy, function> along a random direction d of each input."""
    rng = np.random.default_rng(7)
    inputs = leaves(arrays)
    y = function(*inputs)
    gy = rng.standard_normal(y.shape)
    kept = gy.copy()
    backward(y, gy)
    np.testing.assert_array_equal(gy, kept, err_msg="backward changed its argument")
    for i, (array, leaf) in enumerate(zip(arrays, inputs, strict=True)):
        assert leaf.grad is not None, f"input {i} got no gradient"
        assert leaf.grad.shape == array.shape
        assert np.any(leaf.grad), f"the gradient of input {i} is all zero: the check would prove nothing"
        direction = rng.standard_normal(array.shape)

        def moved(sign: float, i: int = i, direction: np.ndarray = direction) -> float:
            changed = [a + sign * step * direction if j == i else a for j, a in enumerate(arrays)]
            return float(np.vdot(gy, apply(function, changed)))

        numeric = (moved(+1) - moved(-1)) / (2 * step)
        analytic = float(np.vdot(leaf.grad, direction))
        assert abs(numeric - analytic) <= 1e-6 * max(1.0, abs(numeric)), f"input {i}: {analytic} is not {numeric}"
