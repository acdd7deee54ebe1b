"""Show training runs on one page: `python -m owt_mpi.report RUN [RUN ...] --out page.html`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from owt_mpi.comm.guard import DATA_ERROR, CollectiveExit, run_command
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.input_file import one_line, printable
from owt_mpi.seeing.csv_file import write_csv
from owt_mpi.seeing.page import page, sections_of, tables
from owt_mpi.seeing.run_folder import read_runs

DESCRIPTION = """Show training runs on one page, to be opened in a browser without a network.

Curves, learning rates, filters, layers, what a step costs, ranks, what crosses the wire, predictions, options and
environment; several runs side by side, each in its colour. A run may still go on, or have been killed: the page shows
what there is and says what there is not.

Examples:
  python -m owt_mpi.report runs/first
  python -m owt_mpi.report runs/first runs/second --out both.html --csv both.csv"""


@dataclass(frozen=True)
class ReportOptions:
    """Which runs are shown, and where."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")] = ()
    """Folders of runs (--run-dir of the training)."""
    out: str = ""
    """The page; by default report.html in the folder of the run, of several runs here."""
    json: str = ""
    """Also write the page's tables to this file."""
    csv: str = ""
    """Also write all records of loss, accuracies, rates and speed to this file."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.runs:
            raise ValueError("RUN is missing: give the --run-dir of a training, or several; --help has examples")
        for name in ("out", "json", "csv"):
            path = getattr(self, name)
            if path and not Path(path).resolve().parent.is_dir():
                raise ValueError(f"--{name} {path}: there is no folder {Path(path).resolve().parent}")

    @property
    def page_file(self) -> Path:
        """Where the page goes."""
        if self.out:
            return Path(self.out)
        return Path(self.runs[0]) / "report.html" if len(self.runs) == 1 else Path("report.html")


def main() -> int:
    """Parse the command line, write the page, and return the exit code."""
    with usage_errors():
        options = parse_options(ReportOptions(), sys.argv[1:], "python -m owt_mpi.report", DESCRIPTION)
        options.check()
    try:
        runs = read_runs(options.runs)
        sections = sections_of(runs)
        written = {options.page_file: page(runs, sections)}
        if options.json:
            written[Path(options.json)] = json.dumps(tables(sections), indent=1) + "\n"
        for file, text in written.items():
            file.write_text(text, encoding="utf-8")
        if options.csv:
            write_csv(Path(options.csv), runs)
    except (ValueError, OSError) as error:
        raise CollectiveExit(DATA_ERROR, f"error: {one_line(error)}") from None
    for run in runs:
        print(printable(f"{run.name}: {run.state}"))
        for part, problem in run.problems.items():
            print(printable(f"  {part}: {problem}"))
    print(f"page in {options.page_file} ({options.page_file.stat().st_size / 1e3:,.0f} kB)")
    return 0


if __name__ == "__main__":
    run_command(main)
