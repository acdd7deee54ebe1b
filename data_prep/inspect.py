"""Show what a data set holds: `python -m data_prep.inspect --help`.

Exit status: 0 shown, 2 wrong options, 3 no data set that can be read.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from data_prep.contact_sheet import contact_sheet, write_png
from owt_mpi.data.manifest import FATES, DataError, Manifest
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.input_file import one_line, printable


@dataclass(frozen=True)
class Options:
    """Show what a data set holds, without reading its images but those of the contact sheet."""

    folder: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder of shards."""
    contact_sheet: Path | None = None
    """Write a picture (PNG) of samples with their class names to this file."""
    samples: int = 64
    """Number of samples on it, of as many classes as there can be."""
    split: str = "train"
    """The split that they are of."""
    seed: int = 0
    """Decides which they are."""
    json: Path | None = None
    """Write the table to this file."""


def describe(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what there is to know of a data set: plain values for JSON."""
    splits = {}
    for name, split in manifest.splits.items():
        classes = sorted(count for count in split.class_histogram if count)
        splits[name] = {
            "images": split.count,
            "shards": len(split.shards),
            "bytes": sum((folder / shard.file).stat().st_size for shard in split.shards),
            "classes": len(classes),
            "images_a_class": [classes[0], classes[len(classes) // 2], classes[-1]],
            "odd_files": {fate: sum(odd.fate == fate for odd in split.odd_files) for fate in FATES},
        }
    return {
        "folder": str(folder),
        "storage": manifest.storage,
        "image_shape": manifest.image_shape,
        "classes": len(manifest.class_names),
        "mean": manifest.statistics.mean,
        "std": manifest.statistics.std,
        "pca_eigenvalues": manifest.statistics.pca_eigenvalues,
        "mean_image": manifest.mean_image,
        "duplicates": len(manifest.duplicates),
        "source_notes": manifest.source_notes,
        "splits": splits,
        "seed": manifest.seed,
        "options": manifest.options,
    }


def print_description(description: dict[str, Any], console: Console) -> None:
    """Print what `describe` returned: a table of the splits, then the rest, one fact a line."""
    table = Table(title=description["folder"])
    for column in ("split", "images", "classes", "a class has", "shards", "GB", "odd files"):
        table.add_column(column, justify="left" if column == "split" else "right", no_wrap=True)
    for name, split in description["splits"].items():
        least, middle, most = split["images_a_class"]
        a_class_has = str(most) if least == most else f"{least}-{most}, median {middle}"
        odd = ", ".join(f"{count} {fate}" for fate, count in split["odd_files"].items() if count) or "none"
        cells = (split["images"], split["classes"], a_class_has, split["shards"], f"{split['bytes'] / 1e9:.3f}", odd)
        table.add_row(name, *map(str, cells))
    console.print(table)
    height, width, channels = description["image_shape"]
    facts = {
        "images": f"{f'{height}x{width}' if height else 'many sizes'}, {channels} channels, {description['storage']}",
        "mean, standard deviation": f"{_numbers(description['mean'])}, {_numbers(description['std'])}",
        "PCA eigenvalues": _numbers(description["pca_eigenvalues"]),
        "mean image": description["mean_image"] or "none, since sizes differ",
        "files with equal content": str(description["duplicates"]),
        "seed": str(description["seed"]),
        **{f"option {name}": str(value) for name, value in description["options"].items()},
    }
    facts |= {f"note {number}": note for number, note in enumerate(description["source_notes"], 1)}
    for name, fact in facts.items():
        console.print(printable(f"{name}: {fact}"), markup=False, highlight=False, soft_wrap=True)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; wrong syntax exits with 2."""
    options = tyro.cli(
        Options,
        prog="python -m data_prep.inspect",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
    )
    if options.samples < 1:
        print(f"inspect: --samples is {options.samples}; choose 1 or more", file=sys.stderr)
        return 2
    console = Console()
    try:
        description = describe(options.folder, Manifest.read(options.folder))
        print_description(description, console)
        if options.contact_sheet is not None:
            shards = ShardReader(options.folder, options.split)
            write_png(contact_sheet(shards, options.samples, options.seed), options.contact_sheet)
            shards.close()
        if options.json is not None:
            options.json.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    except (DataError, OSError) as error:
        print(f"inspect: {one_line(error)}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
