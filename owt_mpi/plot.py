"""Draw curves of training runs: `python -m owt_mpi.plot RUN [RUN ...] --out curve.png`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from owt_mpi.comm.guard import DATA_ERROR, CollectiveExit, run_command
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.input_file import one_line
from owt_mpi.seeing.plotting import check_installed, draw
from owt_mpi.seeing.run_folder import read_runs

DESCRIPTION = """Draw curves of training runs into a picture, PNG, SVG or PDF.

Examples:
  python -m owt_mpi.plot runs/first --out first.png
  python -m owt_mpi.plot runs/first runs/second --what top1 lr --over time --out both.svg"""

_ENDINGS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class PlotOptions:
    """What is drawn, and where."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")] = ()
    """Folders of runs (--run-dir of the training)."""
    out: str = "curve.png"
    """The picture; its ending, .png, .svg or .pdf, says the format."""
    what: tuple[Literal["loss", "top1", "top5", "lr", "speed"], ...] = ("loss", "top1")
    """What is drawn, one below the other: loss, top1 and top5 of training and validation, the parts' learning rates,
    images a second."""
    over: Literal["steps", "time"] = "steps"
    """What it is drawn over. Steps are images where a step of the runs has not as many; time is that of training."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.runs:
            raise ValueError("RUN is missing: give the --run-dir of a training, or several; --help has examples")
        if not self.what:
            raise ValueError("--what is empty; name one of loss, top1, top5, lr and speed, or several")
        if Path(self.out).suffix not in _ENDINGS:
            raise ValueError(f"--out {self.out} does not say a format; let it end in {', '.join(_ENDINGS)}")
        if not Path(self.out).resolve().parent.is_dir():
            raise ValueError(f"--out {self.out}: there is no folder {Path(self.out).resolve().parent}")


def main() -> int:
    """Parse the command line, draw, and return the exit code."""
    with usage_errors():
        options = parse_options(PlotOptions(), sys.argv[1:], "python -m owt_mpi.plot", DESCRIPTION)
        options.check()
        check_installed()
    try:
        draw(read_runs(options.runs), tuple(dict.fromkeys(options.what)), options.over == "time", Path(options.out))
    except (ValueError, OSError) as error:
        raise CollectiveExit(DATA_ERROR, f"error: {one_line(error)}") from None
    print(f"curves in {options.out}")
    return 0


if __name__ == "__main__":
    run_command(main)
