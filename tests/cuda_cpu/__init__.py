"""Our CUDA kernels on the CPU: compiled by g++ from the very text that the GPU gets, and launched the same way.

    module = CpuModule(code, ("-DLANES=4",))                  # code: the text of a .cu file, its includes expanded
    kernel = module.get_function("bias_grad")
    kernel((2, 1), (256,), (x, y, np.int32(7)), order=1)      # NumPy arrays and exact NumPy scalars

`order` is that of blocks and of threads between barriers: 0 ascending, 1 descending, any other a shuffle's seed.
Wrong types raise TypeError, impossible launches ValueError, barriers that not all threads reach DivergenceError.
"""

from tests.cuda_cpu.build import BuildError, why_unavailable
from tests.cuda_cpu.module import CpuKernel, CpuModule, DivergenceError

__all__ = ["BuildError", "CpuKernel", "CpuModule", "DivergenceError", "why_unavailable"]
