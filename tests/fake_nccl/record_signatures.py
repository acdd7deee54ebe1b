"""Write signatures.txt: what the real cupy.cuda.nccl says of itself. Run where CuPy and a C compiler are.

NCCL itself need not be there: a library of its function names, which do nothing, lets CuPy's module load.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

PATH = Path(__file__).with_name("signatures.txt")
METHODS = ("allGather", "allReduce", "broadcast", "rank_id", "recv", "reduce", "reduceScatter", "send", "size")
FUNCTIONS = ("get_unique_id", "get_version", "groupEnd", "groupStart")
PRINT = f"""
from cupy.cuda import nccl
assert nccl.available
print(nccl.NcclCommunicator.__doc__.splitlines()[0])
for owner, names in ((nccl.NcclCommunicator, {METHODS}), (nccl, {FUNCTIONS})):
    for name in names:
        print(getattr(owner, name).__doc__.splitlines()[0])
print(*sorted(name + "=" + str(getattr(nccl, name)) for name in dir(nccl) if name.startswith("NCCL_")))
"""


def real_signatures() -> str:
    """Return what the installed CuPy says, or raise."""
    backends = find_spec("cupy_backends")
    assert backends is not None
    assert backends.submodule_search_locations
    [module] = Path(backends.submodule_search_locations[0]).glob("cuda/libs/nccl.*.so")
    names = sorted(set(re.findall(rb"nccl[A-Z]\w+", module.read_bytes())))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "nccl.c"
        source.write_text("".join(f"int {name.decode()}(void) {{ return 0; }}\n" for name in names))
        library = str(Path(folder) / "libnccl.so.2")
        subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libnccl.so.2", "-o", library, str(source)], check=True)
        env = {**os.environ, "LD_LIBRARY_PATH": folder}
        done = subprocess.run([sys.executable, "-c", PRINT], env=env, check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    PATH.write_text(real_signatures(), encoding="utf-8")
