// Local response normalisation across channels, y = x * d**-beta with d = k + alpha * (sum of x**2 over the window).
//
// A thread computes LANES channels of one pixel and reads the packs that hold WINDOW / 2 neighbours on each side; its
// block's other threads read them too, so they come from the cache. The gradient computes d again rather than read it: 12 bytes a float
// instead of 16, and 8 instead of 12 forward.
// -DWINDOW=n, odd: the channels around each channel that count, cut at the ends.
#include "common.cuh"

#define HALF (WINDOW / 2)

// The pack at `channel` of a pixel with BESIDE numbers on each side of it, 0 where there is no such channel.
template <int BESIDE>
__device__ inline void load_around(const stored* pixel, int channel, int channels,
                                   float (&numbers)[LANES + 2 * BESIDE]) {
    const int packs_beside = (BESIDE + LANES - 1) / LANES;
#pragma unroll
    for (int p = -packs_beside; p <= packs_beside; ++p) {
        int start = channel + p * LANES;
        float pack[LANES] = {};
        if (start >= 0 && start < channels) load(pixel + start, pack);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            int i = BESIDE + p * LANES + lane;
            if (i >= 0 && i < LANES + 2 * BESIDE) numbers[i] = pack[lane];
        }
    }
}

__device__ inline float denominator(const float* first_in_window, float alpha, float k) {
    float sum = 0.0f;
    for (int i = 0; i < WINDOW; ++i) sum += first_in_window[i] * first_in_window[i];
    return k + alpha * sum;
}

__device__ inline float inverse_power(float d, float beta) {
    if (beta != 0.75f) return powf(d, -beta);
    float root = rsqrtf(d);
    return root * sqrtf(root);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
lrn(const stored* __restrict__ x, stored* __restrict__ y, long long size, int channels, float alpha, float beta,
    float k) {
    long long first = first_of_pack();
    if (first >= size) return;
    int channel = first % channels;
    float around[LANES + 2 * HALF], results[LANES];
    load_around<HALF>(x + (first - channel), channel, channels, around);
    for (int lane = 0; lane < LANES; ++lane) {
        results[lane] = around[lane + HALF] * inverse_power(denominator(around + lane, alpha, k), beta);
    }
    store(y + first, results);
}

// gx = gy * d**-beta - 2 alpha beta x * (sum over the window of gy * x * d**(-beta - 1))
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
lrn_grad(const stored* __restrict__ gy, const stored* __restrict__ x, stored* __restrict__ gx, long long size,
         int channels, float alpha, float beta, float k) {
    long long first = first_of_pack();
    if (first >= size) return;
    int channel = first % channels;
    float around[LANES + 4 * HALF], scaled[LANES + 2 * HALF], through[LANES + 2 * HALF], results[LANES];
    load_around<2 * HALF>(x + (first - channel), channel, channels, around);
    load_around<HALF>(gy + (first - channel), channel, channels, scaled);
#pragma unroll
    for (int i = 0; i < LANES + 2 * HALF; ++i) {
        float d = denominator(around + i, alpha, k);
        bool exists = channel - HALF + i >= 0 && channel - HALF + i < channels;
        scaled[i] *= inverse_power(d, beta);
        through[i] = exists ? scaled[i] * around[i + HALF] / d : 0.0f;
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        float sum = 0.0f;
        for (int i = 0; i < WINDOW; ++i) sum += through[lane + i];
        results[lane] = scaled[lane + HALF] - 2.0f * alpha * beta * around[lane + 2 * HALF] * sum;
    }
    store(gx + first, results);
}
