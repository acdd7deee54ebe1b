// Local response normalisation across channels, y = x * d**-beta with d = k + alpha * (sum of x**2 over the window).
//
// A thread computes LANES channels of one pixel and reads WINDOW / 2 neighbours on each side; its block's other threads
// read them too, so they come from the cache. The gradient computes d again rather than read it: 12 bytes a float
// instead of 16, and 8 instead of 12 forward.
// -DWINDOW=n, odd: the channels around each channel that count, cut at the ends.
#include "common.cuh"

#define HALF (WINDOW / 2)

// Numbers `first` .. first + COUNT - 1 of a pixel's channels, 0 where there is no such channel.
template <int COUNT>
__device__ inline void load_around(const stored* pixel, int first, int channels, float (&numbers)[COUNT]) {
    for (int i = 0; i < COUNT; ++i) {
        int channel = first + i;
        numbers[i] = channel >= 0 && channel < channels ? widened(pixel[channel]) : 0.0f;
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
    load_around(x + (first - channel), channel - HALF, channels, around);
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
    load_around(x + (first - channel), channel - 2 * HALF, channels, around);
    load_around(gy + (first - channel), channel - HALF, channels, scaled);
    for (int i = 0; i < LANES + 2 * HALF; ++i) {
        float d = denominator(around + i, alpha, k);
        bool exists = channel - HALF + i >= 0 && channel - HALF + i < channels;
        scaled[i] *= inverse_power(d, beta);
        through[i] = exists ? scaled[i] * around[i + HALF] / d : 0.0f;
    }
    for (int lane = 0; lane < LANES; ++lane) {
        float sum = 0.0f;
        for (int i = 0; i < WINDOW; ++i) sum += through[lane + i];
        results[lane] = scaled[lane + HALF] - 2.0f * alpha * beta * around[lane + 2 * HALF] * sum;
    }
    store(gx + first, results);
}
