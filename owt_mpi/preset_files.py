"""Presets: configurations in TOML, read, checked for their form, and written."""

import json
import sys
from collections.abc import Container, Mapping
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from owt_mpi.config import BatchOptions, Config
from owt_mpi.input_file import number, printable, read_text, short

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable

    import tomllib
else:
    from importlib.abc import Traversable

    import tomli as tomllib

_PRESETS = resources.files("owt_mpi").joinpath("presets")
_LARGEST_FILE = 1 << 16  # bytes
_MOST_DOTS = 100  # tomllib's time grows with the square of the parts of a name


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return shipped_names(_PRESETS)


def load_preset(name: str) -> Config:
    """Return the configuration of a shipped preset or a TOML file. ValueError if it is missing or not understood."""
    return config_from(load_toml("preset", name, _PRESETS), f"--preset {name}")


def shipped_names(folder: Traversable) -> list[str]:
    """Return the names of the TOML files that the package has in `folder`, without their endings."""
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_toml(kind: str, name: str, folder: Traversable) -> dict[str, Any]:
    """Return what the package's file `name` in `folder` says, or a user's FILE.toml; `kind` is the option's name.

    ValueError, in one line, if it is missing or no TOML.
    """
    shipped = folder.joinpath(f"{name}.toml")
    if "/" not in name and shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    elif name.endswith(".toml"):
        try:
            text = read_text(Path(name), _LARGEST_FILE)
        except (OSError, ValueError) as error:
            raise ValueError(f"--{kind} {name}: the file cannot be read ({error})") from None
    else:
        names = ", ".join(shipped_names(folder))
        raise ValueError(f"there is no {kind} {name!r}; choose one of {names}, or a FILE.toml")
    return parse_toml(text, f"--{kind} {name}")


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Return what TOML says. ValueError, which begins with `source`, if it is none."""
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise ValueError(f"{source}: it has a line with more than {_MOST_DOTS} dots")
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{source}: it has lists in lists without end") from None
    except ValueError as error:  # of TOML, and of numbers with too many digits
        raise ValueError(f"{source}: not valid TOML ({printable(error):.200})") from None
    return table


def with_one_batch(batch: BatchOptions, given: Container[str]) -> BatchOptions:
    """Return `batch` without the one of images_per_rank and global_batch that gives way to the other, now `given`."""
    if "global_batch" in given and "images_per_rank" not in given:
        return replace(batch, images_per_rank=0)
    if "images_per_rank" in given and "global_batch" not in given:
        return replace(batch, global_batch=0)
    return batch


def to_toml(config: Config) -> str:
    """Return the configuration as TOML that `load_preset` reads back."""
    lines: list[str] = []
    for section, options in asdict(config).items():
        lines += [
            f"[{section}]",
            *(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in options.items()),
            "",
        ]
    return "\n".join(lines)


def config_from(table: Mapping[str, Any], source: str) -> Config:
    """Return the defaults with the values of `table`: sections of options, spelt as in the dataclasses.

    ValueError, which begins with `source`, if something in it is no option or has no value that it takes.
    """
    config = Config()
    sections = {f.name: getattr(config, f.name) for f in fields(config)}
    for section, values in table.items():
        if section not in sections or not isinstance(values, dict):
            raise ValueError(
                f"{source}: there is no section [{printable(section):.60}]; there are {', '.join(sections)}"
            )
        if section == "batch":
            sections[section] = with_one_batch(sections[section], values)
        sections[section] = replace(
            sections[section],
            **{
                name: _checked(sections[section], name, value, f"{source}: [{section}]")
                for name, value in values.items()
            },
        )
    return Config(**sections)


def _checked(defaults: Any, name: str, value: Any, where: str) -> Any:
    """Return `value` as option `name` takes it; ValueError if there is no such option, or its type is another."""
    known = {f.name: getattr(defaults, f.name) for f in fields(defaults)}
    if name not in known:
        raise ValueError(f"{where} has no option {short(name)}; it has {', '.join(known)}")
    default = known[name]
    if isinstance(default, tuple) and isinstance(value, list) and all(type(each) in (int, float) for each in value):
        return tuple(number(each, f"{where} {name}") for each in value)
    if isinstance(default, float) and type(value) is int:
        return number(value, f"{where} {name}")
    if type(value) is not type(default):
        raise ValueError(f"{where} {name} is {short(value)}, but must be a {type(default).__name__}")
    return value
