// Bias, ReLU and dropout, and their gradients. Results may be written over the inputs.
#include "common.cuh"

__device__ inline float rectified(float number) { return number > 0.0f || number != number ? number : 0.0f; }

// One pack of a matrix (rows, channels), flat: y = max(x + b, 0).
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
bias_relu(const stored* x, const stored* __restrict__ b, stored* y, long long size, int channels) {
    long long first = first_of_pack();
    if (first >= size) return;
    float numbers[LANES], bias[LANES];
    load(x + first, numbers);
    load(b + first % channels, bias);
    for (int lane = 0; lane < LANES; ++lane) numbers[lane] = rectified(numbers[lane] + bias[lane]);
    store(y + first, numbers);
}

// gx = scale * gy where y > 0, else 0: for y of a ReLU (scale 1) and, as what was dropped is 0, of relu_dropout.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
relu_grad(const stored* gy, const stored* __restrict__ y, stored* gx, long long size, float scale) {
    long long first = first_of_pack();
    if (first >= size) return;
    float gradient[LANES], result[LANES];
    load_tail(gy + first, size - first, gradient);
    load_tail(y + first, size - first, result);
    for (int lane = 0; lane < LANES; ++lane) gradient[lane] = result[lane] > 0.0f ? gradient[lane] * scale : 0.0f;
    store_tail(gx + first, size - first, gradient);
}

// Element `index` of the stream `key` of owt_mpi/rng.py, the upper 32 bits of which decide.
__device__ inline bool is_kept(unsigned long long key, unsigned long long index, unsigned long long threshold) {
    unsigned long long z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (z ^ z >> 31) >> 32 < threshold;
}

// y = scale * x where kept, else 0, of a matrix (num_rows, columns), which holds the columns from `first_column` of
// `num_columns`; rows[i] is the place of row i in the whole batch.
// With RECTIFY, of max(x, 0), or of max(x + b, 0) unless b (columns,) is null.
template <bool RECTIFY>
__device__ inline void drop(const stored* x, const stored* b, stored* y, const long long* rows, int num_rows,
                            int columns, unsigned long long key, unsigned long long threshold, long long first_column,
                            long long num_columns, float scale) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * LANES;
    long long row = row_of_grid(), at = row * columns + column;
    if (column >= columns || row >= num_rows) return;
    unsigned long long index = rows[row] * num_columns + first_column + column;
    float numbers[LANES], bias[LANES] = {};
    load(x + at, numbers);
    if (b) load(b + column, bias);
    for (int lane = 0; lane < LANES; ++lane) {
        float number = RECTIFY ? rectified(numbers[lane] + bias[lane]) : numbers[lane];
        numbers[lane] = is_kept(key, index + lane, threshold) ? number * scale : 0.0f;
    }
    store(y + at, numbers);
}

// The gradient too: gx is gy, dropped by the same key.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
dropout(const stored* x, stored* y, const long long* __restrict__ rows, int num_rows, int columns,
        unsigned long long key, unsigned long long threshold, long long first_column, long long num_columns,
        float scale) {
    drop<false>(x, nullptr, y, rows, num_rows, columns, key, threshold, first_column, num_columns, scale);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
relu_dropout(const stored* x, stored* y, const long long* __restrict__ rows, int num_rows, int columns,
             unsigned long long key, unsigned long long threshold, long long first_column, long long num_columns,
             float scale) {
    drop<true>(x, nullptr, y, rows, num_rows, columns, key, threshold, first_column, num_columns, scale);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
bias_relu_dropout(const stored* x, const stored* __restrict__ b, stored* y, const long long* __restrict__ rows,
                  int num_rows, int columns, unsigned long long key, unsigned long long threshold,
                  long long first_column, long long num_columns, float scale) {
    drop<true>(x, b, y, rows, num_rows, columns, key, threshold, first_column, num_columns, scale);
}
