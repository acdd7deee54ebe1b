"""Versions of what is installed, from the packages' own metadata: nothing is imported."""

import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from owt_mpi import __version__

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_EXTRA = re.compile(r"""extra == ["']([\w-]+)["']""")
_FAMILIES = ("cupy", "nvidia-", "onednn", "torch", "openmpi", "mpich")  # of which other members may be installed
_GIT_SECONDS = 10


def basics() -> dict[str, str]:
    """Return what a run keeps of where it ran: this program, Python, NumPy, host and system."""
    return {
        "owt_mpi": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "host": platform.node(),
        "platform": platform.platform(),
    }


def program() -> dict[str, str]:
    """Return where this program and its Python are from, and the commit where it is a clone."""
    folder = Path(__file__).resolve().parents[1]
    facts = {"folder": str(folder), "executable": sys.executable, "commit": _commit(folder)}
    return {name: fact for name, fact in facts.items() if fact}


def package_versions() -> dict[str, str]:
    """Return the versions of all packages that this program may use, "not installed" for those that are not there."""
    wanted = [_name(each) for each in _requirements()]
    found = {_name(each.name): each.version for each in metadata.distributions() if each.name}
    others = sorted(name for name in found if name.startswith(_FAMILIES) and name not in wanted)
    return {name: found.get(name, "not installed") for name in dict.fromkeys([*wanted, *others])}


def extras() -> dict[str, str]:
    """Return for each extra whether it is installed, or what of it is missing."""
    versions = package_versions()
    needed: dict[str, list[str]] = {}
    for requirement in _requirements():
        if extra := _EXTRA.search(requirement):
            needed.setdefault(extra[1], []).append(_name(requirement))
    missing = {extra: [n for n in names if versions[n] == "not installed"] for extra, names in needed.items()}
    return {extra: f"missing: {', '.join(names)}" if names else "installed" for extra, names in missing.items()}


def _requirements() -> list[str]:
    try:
        return metadata.requires("owt_mpi") or []
    except metadata.PackageNotFoundError:  # it runs from its folder alone
        return []


def _name(requirement: str) -> str:
    """Return the name of a package as indexes write it."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def _commit(folder: Path) -> str:
    """Return the commit of the clone that `folder` is in, "" if it is in none."""
    if not (folder.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
