"""The arguments of what the stand-in offers: its own, and those of the real CuPy, kept in arguments.txt.

python -m tests.fake_cupy.arguments              writes it, where cupy is installed; no GPU is needed
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fake_cupy import install

RECORD = Path(__file__).with_name("arguments.txt")
ANY_NUMBER = "*args"


def offered() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the functions, classes and methods of the stand-in, by the names that CuPy has for them."""
    for module, members in (("cupy", install.CUPY), ("cupy.cuda", install.CUDA)):
        for name, member in members.items():
            if not callable(member):
                continue
            if name not in ("ndarray", "RawKernel", "PinnedMemoryPointer"):  # which nobody makes by calling them
                yield f"{module}.{name}", member
            for method, function in vars(member).items() if isinstance(member, type) else ():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{module}.{name}.{method}", function


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return the names of the arguments, in order, and the defaults as they are written ("" where there is none)."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:  # Cython leaves its signature in the first line of the docstring
        inside = re.search(r"\((.*)\)", (function.__doc__ or "()").splitlines()[0])
        assert inside is not None, function
        parts = [part.partition("=") for part in re.split(r",\s*", inside[1])]
        named = {(left.split() or [""])[-1]: default for left, _, default in parts}
        named = {ANY_NUMBER if re.match(r"\*\w", name) else name: default for name, default in named.items()}
    else:
        named = {
            ANY_NUMBER if each.kind is each.VAR_POSITIONAL else each.name: _written(each.default) for each in found
        }
    return {name: named[name] for name in named if name != "self" and (name.isidentifier() or name == ANY_NUMBER)}


def _written(default: object) -> str:
    if default is inspect.Parameter.empty:
        return ""
    return default.__name__ if isinstance(default, type) else repr(default)


def real_arguments() -> dict[str, dict[str, str]]:
    """Return the arguments that the installed CuPy takes, by name."""
    import cupy

    found = {}
    for path, _ in offered():
        function: Any = cupy
        for part in path.split(".")[1:]:
            function = getattr(function, part)
        found[path] = arguments(function)
    return found


def recorded_arguments() -> dict[str, dict[str, str]]:
    """Return what arguments.txt holds."""
    lines = (line.partition(":") for line in RECORD.read_text(encoding="utf-8").splitlines())
    return {
        path: {name: default for name, _, default in (each.strip().partition("=") for each in text.split(",")) if name}
        for path, _, text in lines
    }


if __name__ == "__main__":
    written = [
        f"{path}: {', '.join(f'{name}={default}' if default else name for name, default in found.items())}".rstrip()
        for path, found in real_arguments().items()
    ]
    RECORD.write_text("\n".join(written) + "\n", encoding="utf-8")
