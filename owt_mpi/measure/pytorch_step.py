"""The same network trained by PyTorch, in a process of its own: to have a step beside ours.

As a program it builds the network, and makes a step for each line that it reads, answering with the step's seconds.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from owt_mpi.backends.precision import Precision
from owt_mpi.loss_scale import FIRST
from owt_mpi.nn.layers import LRN, AvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.module import Module, Sequential

LR, MOMENTUM, WEIGHT_DECAY, BIAS_LR_MULTIPLIER = 0.01, 0.9, 0.0005, 2.0

_SAID: dict[Precision, str] = {
    "fp32": "float32",
    "tf32": "float32 in TF32",
    "bf16": "autocast to bfloat16",
    "fp16": "autocast to float16",
}


def why_not(model: Model) -> str | None:
    """Return why PyTorch cannot train `model` here, None if it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed; get it with pip install 'owt_mpi[peers]'"
    unknown = [layer.name for layer in _layers(model) if type(layer) not in _KNOWN]
    return f"{unknown[0]} has no counterpart there" if unknown else None


class PyTorchStep:
    """A process that trains `model` in channels-last order on `device`, cuda or cpu. Use as a context.

    Halves are by autocast, losses of float16 scaled; float32 is computed without TF32, or with, as `precision` says.
    """

    def __init__(
        self, model: str, spec: InputSpec, images: int, device: str, threads: int, precision: Precision = "fp32"
    ) -> None:
        """RuntimeError if the process does not start, with what it said on standard error above."""
        numbers = (spec.crop, spec.channels, spec.num_classes, images, threads)
        command = [sys.executable, "-m", "owt_mpi.measure.pytorch_step", model, device, precision, *map(str, numbers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.what: str = self._answer()["what"]
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "PyTorchStep":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def step(self) -> float:
        """Make a step and return its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("PyTorch's process ended early; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # which ends its loop
        self._process.stdout.close()
        self._process.wait()


def main() -> None:
    """Train until standard input ends."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("precision", choices=_SAID)
    for name in ("crop", "channels", "classes", "images", "threads"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    scaler = torch.amp.GradScaler(args.device, init_scale=FIRST, enabled=half == torch.float16)  # as ours begins
    model = find_builder(args.model)(InputSpec(args.crop, args.channels, args.classes))
    net = torch.nn.Sequential(*map(_counterpart, _layers(model))).to(args.device, memory_format=torch.channels_last)
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in net.named_parameters() if not name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "lr": BIAS_LR_MULTIPLIER * LR}]
    sgd = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    images = torch.randn(args.images, args.channels, args.crop, args.crop)
    images = images.contiguous(memory_format=torch.channels_last).to(args.device)
    labels = torch.randint(0, args.classes, (args.images,))

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast(args.device, half, enabled=half is not None):
            logits = net(images)
        loss = _loss(model, logits.float(), labels.to(args.device))
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        loss.item()  # waits for the device: a score is looked at, as in ours

    where = torch.cuda.get_device_name() if args.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    what = f"PyTorch {torch.__version__}, {_SAID[args.precision]}, channels-last, {where}"
    print(json.dumps({"what": what}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


def _layers(model: Model) -> list[Module]:
    """Return the layers in order; one that is no plain chain counts as one."""
    if not isinstance(model.trunk, Sequential):
        return [model.trunk, *model.head.layers.values()]
    return [*model.trunk.layers.values(), *model.head.layers.values()]


def _counterpart(layer: Any) -> Any:
    """Return PyTorch's layer."""
    from torch import nn

    make: dict[type[Module], Callable[[Any], Any]] = {
        Conv2d: lambda own: nn.Conv2d(
            own.weight.shape[3], own.weight.shape[0], tuple(own.weight.shape[1:3]), own.stride, own.pad
        ),
        LRN: lambda own: nn.LocalResponseNorm(own.size, own.alpha * own.size, own.beta, own.k),
        MaxPool2d: lambda own: nn.MaxPool2d(own.kernel, own.stride, own.pad),
        AvgPool2d: lambda own: nn.AvgPool2d(own.kernel, own.stride, own.pad, count_include_pad=False),
        ReLU: lambda own: nn.ReLU(inplace=True),
        Dropout: lambda own: nn.Dropout(own.rate),
        Linear: lambda own: nn.Linear(own.inputs, own.outputs),
        Flatten: lambda own: nn.Flatten(),
    }
    return make[type(layer)](layer)


_KNOWN = (Conv2d, LRN, MaxPool2d, AvgPool2d, ReLU, Dropout, Linear, Flatten)


def _loss(model: Model, logits: Any, labels: Any) -> Any:
    """Return the mean loss of an example."""
    from torch.nn import functional

    if model.loss == "softmax":
        return functional.cross_entropy(logits, labels)
    targets = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(labels)


if __name__ == "__main__":
    main()
