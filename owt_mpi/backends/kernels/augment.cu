// A batch of uint8 images, cropped, mirrored and normalised in one pass: out = ((pixel - mean) + offset) * scale.
//
// Each step is rounded to float by itself, so that without an offset the bits are those of pixels.py, on the host.
// A thread writes LANES numbers side by side of `out` (n, out_h, out_w, c), which may end in the next row or image.
#include "common.cuh"

template <bool WITH_OFFSETS>
__device__ inline void crop(const unsigned char* images, const long long* tops, const long long* lefts,
                            const bool* flips, const float* mean, const float* scale, const float* offsets, stored* out,
                            long long size, int height, int width, int channels, int out_height, int out_width) {
    long long first = first_of_pack(), image_size = (long long)out_height * out_width * channels;
    if (first >= size) return;
    long long n = first / image_size;
    int within = first - n * image_size, channel = within % channels;
    int column = within / channels % out_width, row = within / channels / out_width;
    float numbers[LANES];
    for (int lane = 0; lane < LANES && first + lane < size; ++lane) {
        long long from_row = n * height + tops[n] + row;
        long long from_column = lefts[n] + (flips[n] ? out_width - 1 - column : column);
        float pixel = images[(from_row * width + from_column) * channels + channel];
        float number = __fsub_rn(pixel, mean[channel]);
        if (WITH_OFFSETS) number = __fadd_rn(number, offsets[n * channels + channel]);
        numbers[lane] = __fmul_rn(number, scale[channel]);
        if (++channel < channels) continue;
        channel = 0;
        if (++column < out_width) continue;
        column = 0;
        if (++row < out_height) continue;
        row = 0;
        ++n;
    }
    store_tail(out + first, size - first, numbers);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
crop_normalise(const unsigned char* __restrict__ images, const long long* __restrict__ tops,
               const long long* __restrict__ lefts, const bool* __restrict__ flips, const float* __restrict__ mean,
               const float* __restrict__ scale, stored* __restrict__ out, long long size, int height, int width,
               int channels, int out_height, int out_width) {
    crop<false>(images, tops, lefts, flips, mean, scale, nullptr, out, size, height, width, channels, out_height,
                out_width);
}

// offsets (n, c) are added to the pixels of an image: a change of colour.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
crop_normalise_offset(const unsigned char* __restrict__ images, const long long* __restrict__ tops,
                      const long long* __restrict__ lefts, const bool* __restrict__ flips,
                      const float* __restrict__ mean, const float* __restrict__ scale,
                      const float* __restrict__ offsets, stored* __restrict__ out, long long size, int height,
                      int width, int channels, int out_height, int out_width) {
    crop<true>(images, tops, lefts, flips, mean, scale, offsets, out, size, height, width, channels, out_height,
               out_width);
}
