"""The examples of docs/interchange.md run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.network_file import names_in, write_network
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from tests.interchange.scoring import logits_of, onnx_of, random_weights
from tests.mpi_run import REPO_ROOT
from tests.tiny import tiny_model

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def code_of(page: str) -> dict[str, str]:
    """Return the Python files of a page of docs/, by name."""
    text = (REPO_ROOT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^```python\n(?=# (\w+\.py)\n)(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def said_by(name: str, folder: Path) -> str:
    """Return what a file of the page prints in `folder`."""
    (folder / name).write_text(code_of("interchange.md")[name], encoding="utf-8")
    done = subprocess.run([sys.executable, name], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pixels(tmp_path: Path) -> np.ndarray:
    """The numbers of an image that is there as cat.jpg."""
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(tmp_path / "cat.jpg", quality=95)
    return np.asarray(Image.open(tmp_path / "cat.jpg"))


def test_the_example_for_onnxruntime_names_the_class(tmp_path: Path, pixels: np.ndarray):
    model = tiny_model()
    weights = random_weights(model)
    facts = {"mean": MEAN, "std": STD, "num_classes": 8, "class_names": CLASSES}
    onnx_of(model, weights, tmp_path / "best.onnx", takes_pixels=True, **facts)
    seen = np.asarray(Image.fromarray(pixels).resize((9, 9)), np.float32)
    best = logits_of(model, weights, ((seen[None] - MEAN) / STD).astype(np.float32)).argmax()
    assert said_by("in_onnxruntime.py", tmp_path) == f"{CLASSES[best]}\n"


@pytest.mark.peer
def test_the_example_for_torchvision_names_the_class(tmp_path: Path, pixels: np.ndarray):
    pytest.importorskip("torchvision")
    model = MODELS["alexnet"](InputSpec(224, 3, 8))
    weights = random_weights(model)
    facts = NetworkFacts(model="alexnet", crop=224, size=224, num_classes=8, mean=MEAN, std=STD, class_names=CLASSES)
    write_network(tmp_path / "first.safetensors", model, names_in("torchvision", model, "alexnet"), weights, facts)
    best = logits_of(model, weights, ((pixels[None] - MEAN) / STD).astype(np.float32)).argmax()
    assert said_by("in_torchvision.py", tmp_path) == f"{CLASSES[best]}\n"


def test_the_example_of_an_operation_of_ones_own_is_exported(tmp_path: Path):
    for page in ("extending.md", "interchange.md"):
        for name, code in code_of(page).items():
            (tmp_path / name).write_text(code, encoding="utf-8")
    program = (
        "import scale_onnx\n"
        "from my_nets import wide\n"
        "from pathlib import Path\n"
        "from owt_mpi.nn.model import InputSpec\n"
        "from tests.interchange.scoring import *\n"
        "model = wide(InputSpec(20, 3, 10))\n"
        "weights, images = random_weights(model), random_images(model)\n"
        "theirs = logits_in_onnxruntime(onnx_of(model, weights, Path('net.onnx')), images)\n"
        "np.testing.assert_allclose(theirs, logits_of(model, weights, images), atol=1e-4)\n"
    )
    command = [sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
