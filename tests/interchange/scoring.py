"""What a network of ours and its ONNX file make of images."""

from pathlib import Path

import numpy as np

from owt_mpi.autograd import no_tape, tensor
from owt_mpi.backends.base import Backend
from owt_mpi.backends.select import select_backend
from owt_mpi.interchange.facts import NetworkFacts
from owt_mpi.interchange.onnx_file import write_onnx
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context, load_weights

FLOAT32 = np.dtype(np.float32)


def backend() -> Backend:
    """Return what computes fastest here, in float32."""
    return select_backend("auto", FLOAT32)[0]


def random_weights(model: Model) -> dict[str, np.ndarray]:
    """Return weights such that what goes through the network neither fades nor explodes, and biases that matter."""
    rng = np.random.default_rng(3)
    weights = {}
    for parameter in model.parameters():
        shape = parameter.global_shape
        scale = 0.1 if parameter.is_bias else (2.0 / np.prod(shape[1:])) ** 0.5
        weights[parameter.name] = rng.standard_normal(shape, np.float32) * np.float32(scale)
    return weights


def random_images(model: Model, count: int = 3) -> np.ndarray:
    """Return images (n, h, w, c) as `model` takes them."""
    spec = model.spec
    return 2 * np.random.default_rng(4).standard_normal((count, spec.crop, spec.crop, spec.channels), np.float32)


def logits_of(model: Model, weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Return our logits (n, classes)."""
    own = backend()
    load_weights(model.parameters(), weights, own, FLOAT32)
    ctx = Context(False, np.arange(len(images)))
    with no_tape():
        return own.to_host(model.head(model.trunk(tensor(own.from_host(images), own), ctx), ctx).data)


def onnx_of(model: Model, weights: dict[str, np.ndarray], path: Path, takes_pixels: bool = False, **facts) -> Path:
    """Return the path of the model's ONNX file."""
    write_onnx(path, model, weights, NetworkFacts(**facts), takes_pixels)
    return path


def logits_in_onnxruntime(path: Path, images: np.ndarray) -> np.ndarray:
    """Return what onnxruntime makes of images (n, h, w, c)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    return logits
