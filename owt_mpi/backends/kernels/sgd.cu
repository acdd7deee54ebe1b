// Momentum SGD over flat arrays: v := momentum * v - lr * (scale * g + decay * w);  w := w + v.
//
// w and v are float, g is `stored`. Every product and sum is rounded to float by itself, in the order of
// owt_mpi/backends/blocked_sgd.py, so that both give the same bits.
// -DCOPIED=float, float16 or bfloat16: the type of the copy of w that momentum_sgd_copy also writes.
#include "common.cuh"

typedef COPIED copied;

// The new weights of this thread's pack; returns false where there are none. Nothing changes if *skip is not 0.
__device__ inline bool update(float* w, float* v, const stored* g, const int* skip, long long size, float scale,
                              float lr, float momentum, float decay, float (&weights)[LANES]) {
    long long first = first_of_pack();
    if (first >= size || *skip) return false;
    float velocity[LANES], gradient[LANES];
    load_tail(w + first, size - first, weights);
    load_tail(v + first, size - first, velocity);
    load_tail(g + first, size - first, gradient);
    for (int lane = 0; lane < LANES; ++lane) {
        float slope = __fadd_rn(__fmul_rn(weights[lane], decay), __fmul_rn(gradient[lane], scale));
        velocity[lane] = __fsub_rn(__fmul_rn(velocity[lane], momentum), __fmul_rn(slope, lr));
        weights[lane] = __fadd_rn(weights[lane], velocity[lane]);
    }
    store_tail(v + first, size - first, velocity);
    store_tail(w + first, size - first, weights);
    return true;
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
momentum_sgd(float* __restrict__ w, float* __restrict__ v, const stored* __restrict__ g, const int* __restrict__ skip,
             long long size, float scale, float lr, float momentum, float decay) {
    float weights[LANES];
    update(w, v, g, skip, size, scale, lr, momentum, decay, weights);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
momentum_sgd_copy(float* __restrict__ w, float* __restrict__ v, const stored* __restrict__ g, copied* __restrict__ copy,
                  const int* __restrict__ skip, long long size, float scale, float lr, float momentum, float decay) {
    float weights[LANES];
    if (update(w, v, g, skip, size, scale, lr, momentum, decay, weights)) {
        store_tail(copy + first_of_pack(), size - first_of_pack(), weights);
    }
}

// Set flag[0] to 1 where a number of g is infinite or NaN: a loss scale that is too large.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
find_overflow(const stored* __restrict__ g, int* __restrict__ flag, long long size) {
    long long first = first_of_pack();
    if (first >= size) return;
    float gradient[LANES];
    load_tail(g + first, size - first, gradient);
    for (int lane = 0; lane < LANES; ++lane) {
        if (!(fabsf(gradient[lane]) <= 3.4028234e38f)) flag[0] = 1;  // all that write, write the same
    }
}
