"""Record what PyTorch computes for AlexNet in float64: `python -m tests.golden.record_alexnet`, with the extra `peers`.

It is run again only when the case, our initial values or our random numbers change on purpose; nothing of our own
forward or backward goes into the file, but for the dropout masks. The network is torchvision's, written out in
tests/peer/pytorch_nets.py.
"""

import json
import platform

import numpy as np
import torch

from tests.golden.alexnet import CASE, RECORD, describe
from tests.peer.pytorch_case import build, compute


def main() -> None:
    dtype = np.dtype(np.float64)
    record = {
        "recorded_with": f"PyTorch {torch.__version__}, float64, {platform.machine()}",
        "recipe": "python -m tests.golden.record_alexnet",
        **describe(compute(CASE, build(CASE, dtype), dtype)),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{RECORD} written")


if __name__ == "__main__":
    main()
