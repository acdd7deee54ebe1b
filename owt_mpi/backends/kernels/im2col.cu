// Images (n, h, w, c) as the matrix that turns a convolution into a matrix product, and the adjoint of that.
//
// columns is (n * y_h * y_w, kernel_h * kernel_w * c): row (n, i, j) holds what window (i, j) of image n sees, 0 where
// it sees padding. Convolution: columns @ w.reshape(c_out, -1).T.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
im2col(const stored* __restrict__ x, stored* __restrict__ columns, int num_images, int height, int width, int channels,
       int y_height, int y_width, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w) {
    Place place(num_images, y_height * y_width, kernel_h * kernel_w, channels);  // (window, offset in the window, channel)
    if (!place.inside) return;
    int row = place.row / y_width * stride_h - pad_h + place.column / kernel_w;
    int column = place.row % y_width * stride_w - pad_w + place.column % kernel_w;
    bool in_image = row >= 0 && row < height && column >= 0 && column < width;
    int to = (place.row * (kernel_h * kernel_w) + place.column) * channels + place.channel;
    float numbers[LANES] = {};
    if (in_image) load(x + ((place.image * height + row) * width + column) * channels + place.channel, numbers);
    store(columns + place.image * y_height * y_width * kernel_h * kernel_w * channels + to, numbers);
}

// gx sums what is in columns wherever a window sees the element: a gather, in one order.
extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
col2im(const stored* __restrict__ columns, stored* __restrict__ gx, int num_images, int height, int width, int channels,
       int y_height, int y_width, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w) {
    Place place(num_images, height, width, channels);
    if (!place.inside) return;
    Windows rows(place.row, kernel_h, stride_h, pad_h, y_height);
    Windows window_columns(place.column, kernel_w, stride_w, pad_w, y_width);
    const stored* image = columns + place.image * y_height * y_width * kernel_h * kernel_w * channels;
    float sum[LANES] = {};
    for (int i = rows.first; i <= rows.last; ++i) {
#pragma unroll 1
        for (int j = window_columns.first; j <= window_columns.last; ++j) {
            int a = place.row + pad_h - i * stride_h, e = place.column + pad_w - j * stride_w;
            float seen[LANES];
            load(image + (((i * y_width + j) * kernel_h + a) * kernel_w + e) * channels + place.channel, seen);
            for (int lane = 0; lane < LANES; ++lane) sum[lane] += seen[lane];
        }
    }
    store(gx + ((place.image * height + place.row) * width + place.column) * channels + place.channel, sum);
}
