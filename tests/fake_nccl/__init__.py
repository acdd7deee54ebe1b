"""A stand-in for cupy.cuda.nccl beside that for CuPy: ranks are threads, and data moves when a stream runs.

    with stand_in() as cupy, nccl_stand_in() as nccl:   # `from cupy.cuda import nccl` gives the stand-in within

Names, arguments and their order are those of the real module (signatures.txt, written by record_signatures.py).
A collective is enqueued on its stream, with what it reads and writes, so that a missing wait for an event is a race;
it is compared with those of the other ranks, and runs behind what comes before it on the streams of all of them.
"""

from tests.fake_nccl.module import nccl_stand_in

__all__ = ["nccl_stand_in"]
