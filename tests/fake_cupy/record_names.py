"""Write names.txt: the public names of the installed CuPy in what the stand-in pretends to be.

python -m tests.fake_cupy.record_names             where cupy is installed; no GPU is needed
"""

import textwrap
from pathlib import Path

NAMES = Path(__file__).with_name("names.txt")
OWNERS = (
    "cupy", "cupy.ndarray", "cupy.RawModule", "cupy.RawKernel", "cupy.cuda", "cupy.cuda.Stream", "cupy.cuda.Event",
    "cupy.cuda.Device", "cupy.cuda.Graph", "cupy.cuda.MemoryPool", "cupy.cuda.PinnedMemoryPointer", "cupy.cuda.memory",
    "cupy.cuda.runtime",
)  # fmt: skip


def real_names() -> dict[str, list[str]]:
    """Return the public names that the installed CuPy has in each of OWNERS."""
    import cupy
    import cupy.cuda.memory
    import cupy.cuda.runtime

    names = {}
    for owner in OWNERS:
        found = cupy
        for part in owner.split(".")[1:]:
            found = getattr(found, part)
        names[owner] = sorted(name for name in dir(found) if not name.startswith("_"))
    return names


def recorded_names() -> dict[str, set[str]]:
    """Return what names.txt holds."""
    names: dict[str, set[str]] = {}
    for line in NAMES.read_text().splitlines():
        if line.endswith(":") and not line.startswith("#"):
            members = names.setdefault(line[:-1], set())
        elif not line.startswith("#"):
            members |= set(line.split())
    return names


if __name__ == "__main__":
    import cupy

    lines = [f"# public names of CuPy {cupy.__version__}, written by record_names.py"]
    for owner, members in real_names().items():
        lines += [f"{owner}:", *textwrap.wrap(" ".join(members), 118, initial_indent="  ", subsequent_indent="  ")]
    NAMES.write_text("\n".join(lines) + "\n")
