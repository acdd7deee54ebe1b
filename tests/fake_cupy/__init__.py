"""A strict stand-in for the part of CuPy that owt_mpi uses, over NumPy, for machines without a GPU.

    with stand_in():              # `import cupy` gives the stand-in within
        backend = CudaBackend()

What makes a test on it say something about the GPU:
- every public name exists in the real CuPy (names.txt, written by record_names.py where CuPy is installed), and takes
  its arguments where CuPy does (arguments.txt, by arguments.py);
- nothing turns into a NumPy array by itself, and no host array into one of the device;
- streams are deferred: work runs when its stream, or an event behind it, is synchronised; who touches memory that
  unordered work may still use gets a RaceError, which is also kept in RACES;
- fresh memory is NaN, freed memory goes to the next array of the stream at once, as in CuPy's pool;
- kernels are our .cu files, run on the CPU, and their arguments must have the exact types;
- each thread has a current device and stream of its own;
- what is captured runs when its graph is launched, on the addresses that it was captured with, which hold NaN again
  where it had taken fresh memory; what CUDA refuses in a capture is refused.
"""

from tests.fake_cupy.blocks import RACES, RaceError
from tests.fake_cupy.device import Machine
from tests.fake_cupy.install import stand_in

__all__ = ["RACES", "Machine", "RaceError", "stand_in"]
