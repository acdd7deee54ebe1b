"""The AlexNet case whose values are recorded, and the form of the record."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.golden.case import Case, Outcome
from tests.golden.fingerprint import fingerprint

# At side 95 the last pool leaves 2 x 2 x 256: the order of the features matters, and NumPy needs a second only.
CASE = Case("alexnet", crop=95, num_classes=20, batch=3, training=True)
RECORD = Path(__file__).parent / "alexnet.json"


def describe(outcome: Outcome) -> dict[str, Any]:
    """Return the part of the record that is compared."""
    return {
        "case": asdict(CASE),
        "loss": outcome.loss,
        "logits": outcome.logits.tolist(),
        "grads": {name: fingerprint(name, grad) for name, grad in outcome.grads.items()},
    }
