"""Every backend gives AlexNet the logits, loss and gradients that PyTorch gave (tests/golden/record_alexnet.py)."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from tests.backends.conftest import CONFIGURATIONS
from tests.golden.alexnet import CASE, RECORD
from tests.golden.case import build_with_values, compute, relative_error
from tests.golden.fingerprint import fingerprint, largest_error

TOLERANCE = {"float32": 1e-4, "float64": 1e-12}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_alexnet_gives_the_recorded_logits_loss_and_gradients(configuration):
    open_backend, dtype = configuration[0], np.dtype(configuration[1])
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert record["case"] == asdict(CASE), "record again: python -m tests.golden.record_alexnet"
    with open_backend() as backend:
        outcome = compute(CASE, build_with_values(CASE, backend, dtype), backend, dtype)
    tolerance = TOLERANCE[dtype.name]
    assert outcome.loss == pytest.approx(record["loss"], rel=tolerance)
    assert relative_error(outcome.logits, np.array(record["logits"])) < tolerance
    assert outcome.grads.keys() == record["grads"].keys()
    errors = {
        name: largest_error(fingerprint(name, grad), record["grads"][name]) for name, grad in outcome.grads.items()
    }
    assert max(errors.values()) < tolerance, errors


GRADIENT = np.random.default_rng(5).standard_normal((16, 5, 5, 12))
CHANGES = {
    "scaled": lambda g: 1.001 * g,
    "shifted": lambda g: np.roll(g, 1, axis=2),
    "transposed": lambda g: np.ascontiguousarray(g.swapaxes(1, 2)),
    "reshaped": lambda g: g.reshape(16, 300),
    "negated in one row": lambda g: np.concatenate([g[:3], -g[3:4], g[4:]]),
    "without its mean": lambda g: g - g.mean(),
    "with one element changed": lambda g: g + 0.1 * (np.arange(g.size) == 777).reshape(g.shape),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_comparison_sees_a_gradient_that_is(change):
    expected = fingerprint("w", GRADIENT)
    assert largest_error(fingerprint("w", GRADIENT.astype(np.float32)), expected) < 1e-6
    assert largest_error(fingerprint("w", change(GRADIENT)), expected) > 1e-4
