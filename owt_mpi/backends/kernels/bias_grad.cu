// The gradient of a bias: the sum over all rows of a matrix (rows, channels), in two steps and always in one order.
//
// Each block sums `rows_per_block` rows of its channels in float and writes one row of `partial`; the second kernel
// sums those rows. A block is (packs of channels, rows side by side).
#include "common.cuh"

// Sum rows first, first + blockDim.y, ... of this thread's channels, then over the threads of the block with the same
// channels. Threads with threadIdx.y == 0 return the block's sum.
template <class T>
__device__ inline void sum_rows(const T* matrix, long long first_row, long long end_row, int channels, int channel,
                                float (&sum)[LANES]) {
    __shared__ float part[MAX_THREADS * LANES];
    for (int lane = 0; lane < LANES; ++lane) sum[lane] = 0.0f;
    if (channel < channels) {
#pragma unroll 4
        for (long long row = first_row + threadIdx.y; row < end_row; row += blockDim.y) {
            float numbers[LANES];
            load(matrix + row * channels + channel, numbers);
            for (int lane = 0; lane < LANES; ++lane) sum[lane] += numbers[lane];
        }
    }
    for (int lane = 0; lane < LANES; ++lane) {
        part[(lane * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] = sum[lane];
    }
    __syncthreads();
    if (threadIdx.y > 0) return;
    for (int lane = 0; lane < LANES; ++lane) {
        for (int y = 1; y < (int)blockDim.y; ++y) sum[lane] += part[(lane * blockDim.y + y) * blockDim.x + threadIdx.x];
    }
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
bias_grad(const stored* __restrict__ gy, float* __restrict__ partial, long long num_rows, int channels,
          long long rows_per_block) {
    int channel = (blockIdx.x * blockDim.x + threadIdx.x) * LANES;
    long long first_row = blockIdx.y * rows_per_block;
    float sum[LANES];
    sum_rows(gy, first_row, min(first_row + rows_per_block, num_rows), channels, channel, sum);
    if (threadIdx.y == 0 && channel < channels) store(partial + blockIdx.y * (long long)channels + channel, sum);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
bias_grad_finish(const float* __restrict__ partial, stored* __restrict__ gb, int num_partial, int channels) {
    int channel = (blockIdx.x * blockDim.x + threadIdx.x) * LANES;
    float sum[LANES];
    sum_rows(partial, 0, num_partial, channels, channel, sum);
    if (threadIdx.y == 0 && channel < channels) store(gb + channel, sum);
}
