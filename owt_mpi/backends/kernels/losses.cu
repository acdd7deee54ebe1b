// Cross-entropy of logistic units and of the softmax over a block of the classes: loss and gradient together.
//
// One block of MAX_THREADS threads a row of logits z (rows, classes), which are the classes from `first_class`. A row
// with a negative label counts nothing. gz is `scale` times the gradient of the summed loss, and may be z itself.
// The rows' losses are summed by sum_losses, always in one order.
#include "common.cuh"

struct Sum {
    static constexpr float start = 0.0f;
    static __device__ float of(float a, float b) { return a + b; }
};
struct Max {
    static constexpr float start = -3.4028234e38f;
    static __device__ float of(float a, float b) { return fmaxf(a, b); }
};

// Every thread of the block gets Sum or Max over all its threads.
template <class Reduction>
__device__ inline float over_block(float number) {
    __shared__ float part[MAX_THREADS];
    part[threadIdx.x] = number;
    __syncthreads();
    for (int width = MAX_THREADS / 2; width > 0; width /= 2) {
        if ((int)threadIdx.x < width) part[threadIdx.x] = Reduction::of(part[threadIdx.x], part[threadIdx.x + width]);
        __syncthreads();
    }
    return part[0];
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
logistic_loss(const stored* z, const long long* __restrict__ labels, stored* gz, float* __restrict__ row_losses,
              int classes, long long first_class, float scale) {
    long long row = blockIdx.x, label = labels[row], target = label - first_class;
    float loss = 0.0f;
    for (int column = threadIdx.x * LANES; column < classes; column += MAX_THREADS * LANES) {
        float numbers[LANES];
        load(z + row * classes + column, numbers);
        for (int lane = 0; lane < LANES; ++lane) {
            float number = numbers[lane], decay = expf(-fabsf(number)), wanted = column + lane == target;
            loss += fmaxf(number, 0.0f) + log1pf(decay) - wanted * number;
            float sigmoid = (number >= 0.0f ? 1.0f : decay) / (1.0f + decay);
            numbers[lane] = label < 0 ? 0.0f : (sigmoid - wanted) * scale;
        }
        store(gz + row * classes + column, numbers);
    }
    loss = over_block<Sum>(loss);
    if (threadIdx.x == 0) row_losses[row] = label < 0 ? 0.0f : loss;
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
softmax_max(const stored* __restrict__ z, float* __restrict__ row_max, int classes) {
    long long row = blockIdx.x;
    float largest = Max::start;
    for (int column = threadIdx.x * LANES; column < classes; column += MAX_THREADS * LANES) {
        float numbers[LANES];
        load(z + row * classes + column, numbers);
        for (int lane = 0; lane < LANES; ++lane) largest = fmaxf(largest, numbers[lane]);
    }
    largest = over_block<Max>(largest);
    if (threadIdx.x == 0) row_max[row] = largest;
}

// The sum of exp(z - row_max) over this block's classes, where row_max is the maximum over all classes.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
softmax_sum(const stored* __restrict__ z, const float* __restrict__ row_max, float* __restrict__ row_sum, int classes) {
    long long row = blockIdx.x;
    float sum = 0.0f, largest = row_max[row];
    for (int column = threadIdx.x * LANES; column < classes; column += MAX_THREADS * LANES) {
        float numbers[LANES];
        load(z + row * classes + column, numbers);
        for (int lane = 0; lane < LANES; ++lane) sum += expf(numbers[lane] - largest);
    }
    sum = over_block<Sum>(sum);
    if (threadIdx.x == 0) row_sum[row] = sum;
}

// A row's loss, log(row_sum) - (z[label] - row_max), is counted where its label is; row_sum is over all classes.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
softmax_loss(const stored* z, const float* __restrict__ row_max, const float* __restrict__ row_sum,
             const long long* __restrict__ labels, stored* gz, float* __restrict__ row_losses, int classes,
             long long first_class, float scale) {
    long long row = blockIdx.x, label = labels[row], target = label - first_class;
    float largest = row_max[row], sum = row_sum[row], inverse = 1.0f / sum;
    if (threadIdx.x == 0 && (target < 0 || target >= classes)) row_losses[row] = 0.0f;
    for (int column = threadIdx.x * LANES; column < classes; column += MAX_THREADS * LANES) {
        float numbers[LANES];
        load(z + row * classes + column, numbers);
        for (int lane = 0; lane < LANES; ++lane) {
            float shifted = numbers[lane] - largest, wanted = column + lane == target;
            if (wanted > 0.0f) row_losses[row] = logf(sum) - shifted;
            numbers[lane] = label < 0 ? 0.0f : (expf(shifted) * inverse - wanted) * scale;
        }
        store(gz + row * classes + column, numbers);
    }
}

// The sum of `count` losses in one block.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
sum_losses(const float* __restrict__ row_losses, float* __restrict__ loss, int count) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += MAX_THREADS) sum += row_losses[i];
    sum = over_block<Sum>(sum);
    if (threadIdx.x == 0) loss[0] = sum;
}
