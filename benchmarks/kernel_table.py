"""Bytes that our CUDA kernels move, and the registers and spills that NVRTC gives them on every GPU since Volta.

No GPU is needed: NVRTC comes with the package nvidia-cuda-nvrtc-cu12 and is reached by way of CuPy.
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from owt_mpi.backends.cuda_launch import kernel_source

ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)
# file: what its numbers' type and lanes are not enough for
FILES = {
    "pool": ("-DWINNER=unsigned char",),
    "lrn": ("-DWINDOW=5",),
    "im2col": (),
    "bias_grad": (),
    "activation": (),
    "losses": (),
    "sgd": ("-DCOPIED=float16",),
    "augment": (),
}
VARIANTS = (("float", 4), ("float16", 8), ("bfloat16", 8), ("float", 1))
CUPY_OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")  # what RawModule adds, CuPy 14.2
SGD_LANES = 4  # its weights are float whatever its gradients are


@dataclass(frozen=True)
class Traffic:
    """Bytes between memory and chip, each array passing once, for each number of `per`, which takes `s` bytes."""

    per: str
    moved: Callable[[int], float]
    least: Callable[[int], float]
    beyond: str = ""


TRAFFIC = {
    "max_pool2d": Traffic("x (3x3, 2 apart)", lambda s: s + (s + 1) / 4, lambda s: s + s / 4, "where a maximum was"),
    "max_pool2d_grad": Traffic("gx (3x3, 2 apart)", lambda s: s + (s + 1) / 4, lambda s: s + s / 4, "the same"),
    "avg_pool2d": Traffic("x (3x3, 2 apart)", lambda s: s + s / 4, lambda s: s + s / 4),
    "avg_pool2d_grad": Traffic("gx (3x3, 2 apart)", lambda s: s + s / 4, lambda s: s + s / 4),
    "lrn": Traffic("x", lambda s: 2 * s, lambda s: 2 * s),
    "lrn_grad": Traffic("x", lambda s: 3 * s, lambda s: 3 * s),
    "im2col": Traffic("x (3x3, 1 apart)", lambda s: 10 * s, lambda s: s, "columns: an implicit product has none"),
    "col2im": Traffic("gx (3x3, 1 apart)", lambda s: 10 * s, lambda s: s, "the same"),
    "bias_grad": Traffic("gy", lambda s: s + 4 / 32, lambda s: s, "a sum for 32 rows or more"),
    "bias_grad_finish": Traffic("gy", lambda s: 4 / 32, lambda s: 0, "the same"),
    "bias_relu": Traffic("x", lambda s: 2 * s, lambda s: 2 * s),
    "relu_grad": Traffic("gy", lambda s: 3 * s, lambda s: 3 * s),
    "dropout": Traffic("x", lambda s: 2 * s, lambda s: 2 * s),
    "relu_dropout": Traffic("x", lambda s: 2 * s, lambda s: 2 * s),
    "bias_relu_dropout": Traffic("x", lambda s: 2 * s, lambda s: 2 * s),
    "logistic_loss": Traffic("z", lambda s: 2 * s, lambda s: 2 * s),
    "softmax_max": Traffic("z", lambda s: s, lambda s: s),
    "softmax_sum": Traffic("z", lambda s: s, lambda s: 0, "ranks exchange maxima before it"),
    "softmax_loss": Traffic("z", lambda s: 2 * s, lambda s: s, "ranks exchange sums before it"),
    "sum_losses": Traffic("row", lambda s: 4, lambda s: 0, "a row's loss, to add in one order"),
    "momentum_sgd": Traffic("w", lambda s: 16 + s, lambda s: 16 + s),
    "momentum_sgd_copy": Traffic("w", lambda s: 18 + s, lambda s: 18 + s),
    "find_overflow": Traffic("g", lambda s: s, lambda s: s),
    "crop_normalise": Traffic("out", lambda s: 1 + s, lambda s: 1 + s),
    "crop_normalise_offset": Traffic("out", lambda s: 1 + s, lambda s: 1 + s),
}


@dataclass(frozen=True)
class Compiled:
    """What a thread of one kernel takes (shared memory: a block), compiled for `architecture`."""

    kernel: str
    architecture: str
    stored: str
    lanes: int
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int


LOG = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers[^\n]*?(?:, (?P<shared>\d+) bytes smem)?[,\n]",
    re.DOTALL,
)


def compile_file(file: str, architecture: int, stored: str, lanes: int) -> list[Compiled]:
    """Return a row for each kernel of kernels/`file`.cu. RuntimeError, with the compiler's words, if it is refused."""
    from cupy_backends.cuda.libs import nvrtc

    lanes = min(lanes, SGD_LANES) if file == "sgd" else lanes
    ours = (f"-DSTORED={stored}", f"-DLANES={lanes}", *FILES[file])
    options = (f"-arch=sm_{architecture}", "--ptxas-options=-v", *ours, *CUPY_OPTIONS)
    program = nvrtc.createProgram(kernel_source(file), f"{file}.cu", [], [])
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{file}.cu, {' '.join(options)}:\n{nvrtc.getProgramLog(program)}") from error
    log = nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)
    return [
        Compiled(
            kernel=found["kernel"],
            architecture=found["architecture"],
            stored=stored,
            lanes=lanes,
            registers=int(found["registers"]),
            stack_bytes=int(found["stack"]),
            spill_store_bytes=int(found["stores"]),
            spill_load_bytes=int(found["loads"]),
            shared_bytes=int(found["shared"] or 0),
        )
        for found in LOG.finditer(log)
    ]


def markdown(rows: list[Compiled]) -> str:
    """Return the table of docs/gpu.md: whole packs; registers as the range over architectures and 16-bit types."""
    lines = [
        "| kernel | per number of | moved, fp32 | least | moved, 16 bit | least | beyond the least | registers, fp32 "
        "| 16 bit | spilled |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kernel, traffic in TRAFFIC.items():
        compiled = [row for row in rows if row.kernel == kernel]
        registers = [
            [row.registers for row in compiled if (row.stored == "float") == is_float and row.lanes > 1]
            for is_float in (True, False)
        ]
        spilled = max((max(row.spill_store_bytes, row.stack_bytes) for row in compiled), default=0)
        cells = [kernel, traffic.per]
        cells += [f"{amount(s):g}" for s in (4, 2) for amount in (traffic.moved, traffic.least)]
        cells += [traffic.beyond, *(f"{min(each)}-{max(each)}" for each in registers), str(spilled)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="also write what each kernel takes on each GPU, and its traffic, to this file")
    args = parser.parse_args()
    rows = [
        row
        for architecture in ARCHITECTURES
        for file in FILES
        for stored, lanes in VARIANTS
        for row in compile_file(file, architecture, stored, lanes)
    ]
    print(markdown(rows))
    spills = [row for row in rows if row.spill_store_bytes]
    print(f"\n{len(rows)} kernels compiled; spills in {len(spills)}:")
    for row in spills:
        print(f"  {row}")
    if args.json:
        traffic = {
            kernel: {
                "per": each.per,
                "moved_bytes": [each.moved(4), each.moved(2)],
                "least_bytes": [each.least(4), each.least(2)],
            }
            for kernel, each in TRAFFIC.items()
        }
        content = {"compiled": [asdict(row) for row in rows], "traffic": traffic}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
