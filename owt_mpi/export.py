"""Write a trained network for other programs: `python -m owt_mpi.export RUN_OR_CHECKPOINT OUT.safetensors|OUT.onnx`."""

import sys

from owt_mpi.comm.guard import run_command
from owt_mpi.command_line import parse_options, refuse_ranks, usage_errors
from owt_mpi.evaluation.exporting import ExportOptions, run_export

DESCRIPTION = """Write a trained network for other programs, as safetensors or ONNX.

A safetensors file has PyTorch's order of numbers and, where torchvision has the network, its names: torchvision's
alexnet and vgg load it strictly. An ONNX file is the whole network, from images to logits. Both say what is done to
pixels and what the classes are.

Examples:
  python -m owt_mpi.export runs/first first.safetensors
  python -m owt_mpi.export runs/first/checkpoints/best best.onnx
  python -m owt_mpi.export alexnet.safetensors alexnet.onnx --model alexnet --pixels"""


def main() -> int:
    """Parse the command line, export, and return the exit code."""
    with usage_errors():
        options = parse_options(ExportOptions(), sys.argv[1:], "python -m owt_mpi.export", DESCRIPTION)
        options.check()
    refuse_ranks("export writes on one rank, and {size} were started; leave out mpirun")
    run_export(options)
    return 0


if __name__ == "__main__":
    run_command(main)
