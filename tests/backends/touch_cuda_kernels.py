"""Launch every kernel once, on arrays that end where the kernel should; run under the sanitizers.

python -m tests.backends.touch_cuda_kernels [FILE OLD NEW]      # with a fault planted in FILE.cu
"""

import sys

import numpy as np

from owt_mpi.backends import cuda_launch
from owt_mpi.backends.base import DropoutMask
from tests.cuda_cpu.device import DeviceArray, cupy_in_order

sys.modules["cupy"] = cupy_in_order(5)

from owt_mpi.backends.cuda_kernels import CudaKernels  # noqa: E402
from owt_mpi.backends.cuda_row_kernels import bias_grad_partial_shape  # noqa: E402

POOL = ((3, 2), (2, 1), (1, 0))  # kernel, stride, pad
IMAGES, POOLED = (2, 9, 7, 16), (2, 5, 6, 16)
ROWS = (5, 21)


def new(shape: tuple[int, ...], dtype: type = np.float16) -> DeviceArray:
    return DeviceArray(np.ones(shape, dtype))


def pools(kernels: CudaKernels) -> None:
    winners = new(POOLED, np.uint8)
    kernels.max_pool2d(new(IMAGES), new(POOLED), winners, *POOL)
    kernels.max_pool2d_grad(new(POOLED), winners, new(IMAGES), *POOL)
    kernels.avg_pool2d(new(IMAGES), new(POOLED), *POOL)
    kernels.avg_pool2d_grad(new(POOLED), new(IMAGES), *POOL)


def columns(kernels: CudaKernels) -> None:
    matrix = new((2 * 5 * 6, 3 * 2 * 16))
    kernels.im2col(new(IMAGES), matrix, POOLED[1:3], *POOL)
    kernels.col2im(matrix, new(IMAGES), POOLED[1:3], *POOL)


def lrn(kernels: CudaKernels) -> None:
    kernels.lrn(new((3, 2, 2, 19)), new((3, 2, 2, 19)), 5, 0.5, 0.75, 2.0)
    kernels.lrn_grad(*(new((3, 2, 2, 19)) for _ in range(3)), 5, 0.5, 0.75, 2.0)


def bias(kernels: CudaKernels) -> None:
    kernels.bias_grad(new((130, 72)), new(bias_grad_partial_shape(130, 72), np.float32), new((72,)))


def activations(kernels: CudaKernels) -> None:
    kernels.bias_relu(new(ROWS), new(ROWS[1:]), new(ROWS))
    kernels.relu_grad(new(ROWS), new(ROWS), new(ROWS), 2.0)
    mask = DropoutMask(0.5, 1, np.zeros(ROWS[0], np.int64), 0, 21, 2.0)
    kernels.dropout(new(ROWS), new(ROWS), new(ROWS[:1], np.int64), mask)
    kernels.relu_dropout(new(ROWS), new(ROWS), new(ROWS[:1], np.int64), mask)
    kernels.bias_relu_dropout(new(ROWS), new(ROWS[1:]), new(ROWS), new(ROWS[:1], np.int64), mask)


def losses(kernels: CudaKernels) -> None:
    z, labels, largest, total, of_rows = new((3, 40)), new((3,), np.int64), *(new((3,), np.float32) for _ in range(3))
    kernels.logistic_loss(z, labels, new((3, 40)), of_rows, 0, 1.0)
    kernels.softmax_max(z, largest)
    kernels.softmax_sum(z, largest, total)
    kernels.softmax_loss(z, largest, total, labels, new((3, 40)), of_rows, 0, 1.0)
    kernels.sum_losses(of_rows, new((1,), np.float32))


def flat(kernels: CudaKernels) -> None:
    w, v, g, skip = new((1027,), np.float32), new((1027,), np.float32), new((1027,)), DeviceArray(np.zeros(1, np.int32))
    kernels.momentum_sgd(w, v, g, skip, 0.1, 0.9, 0.1, copy=new((1027,)))
    kernels.momentum_sgd(w, v, g, skip, 0.1, 0.9, 0.1)
    kernels.find_overflow(g, skip)
    place = (new((3,), np.int64), new((3,), np.int64), new((3,), np.bool_))
    channels = (new((3,), np.float32), new((3,), np.float32))
    for offsets in (None, new((3, 3), np.float32)):
        kernels.crop_normalise(new((3, 7, 6, 3), np.uint8), *place, *channels, new((3, 6, 5, 3)), offsets)


def main() -> None:
    if sys.argv[1:]:
        file, old, planted = sys.argv[1:]
        source = cuda_launch.kernel_source
        cuda_launch.kernel_source = lambda name: source(name).replace(old, planted) if name == file else source(name)
    kernels = CudaKernels()
    for touch in (pools, columns, lrn, bias, activations, losses, flat):
        touch(kernels)
    print(f"touched {len({name for _, name, *_ in kernels._functions})} kernels")


if __name__ == "__main__":
    main()
