// Maximum and mean over windows of images (n, h, w, c), and their gradients. Padding never counts.
//
// A thread computes LANES channels of one element. The gradients gather: a thread sums over the windows that see its
// element, always in the same order, so that no two threads write to one place and results repeat to the last bit.
// Loops over windows are not unrolled: windows are small, and with fewer registers more threads are under way.
// -DWINNER=unsigned char or unsigned short: the place of a window's first maximum, row-major inside the window.
#include "common.cuh"

typedef WINNER winner;

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
max_pool2d(const stored* __restrict__ x, stored* __restrict__ y, winner* __restrict__ winners, int num_images,
           int height, int width, int channels, int y_height, int y_width, int kernel_h, int kernel_w, int stride_h,
           int stride_w, int pad_h, int pad_w) {
    Place place(num_images, y_height, y_width, channels);
    if (!place.inside) return;
    Span rows(place.row, kernel_h, stride_h, pad_h, height), columns(place.column, kernel_w, stride_w, pad_w, width);
    const stored* image = x + place.image * height * width * channels + place.channel;
    float best[LANES];
    Pack<winner> where;
    for (int lane = 0; lane < LANES; ++lane) {
        best[lane] = __uint_as_float(0xff800000u);  // minus infinity
        where.at[lane] = rows.first * kernel_w + columns.first;
    }
    for (int a = rows.first; a < rows.last; ++a) {
#pragma unroll 1
        for (int e = columns.first; e < columns.last; ++e) {
            float seen[LANES];
            load(image + ((rows.start + a) * width + columns.start + e) * channels, seen);
            for (int lane = 0; lane < LANES; ++lane) {
                if (seen[lane] > best[lane] || seen[lane] != seen[lane]) {  // NaN wins, as it must not be hidden
                    best[lane] = seen[lane];
                    where.at[lane] = a * kernel_w + e;
                }
            }
        }
    }
    long long at = ((place.image * y_height + place.row) * y_width + place.column) * channels + place.channel;
    store(y + at, best);
    *reinterpret_cast<Pack<winner>*>(winners + at) = where;
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
max_pool2d_grad(const stored* __restrict__ gy, const winner* __restrict__ winners, stored* __restrict__ gx,
                int num_images, int height, int width, int channels, int y_height, int y_width, int kernel_h,
                int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w) {
    Place place(num_images, height, width, channels);
    if (!place.inside) return;
    Windows rows(place.row, kernel_h, stride_h, pad_h, y_height);
    Windows columns(place.column, kernel_w, stride_w, pad_w, y_width);
    int place_in_first = (place.row + pad_h) * kernel_w + place.column + pad_w;
    long long image = place.image * y_height * y_width * channels + place.channel;
    float sum[LANES] = {};
    for (int i = rows.first; i <= rows.last; ++i) {
#pragma unroll 1
        for (int j = columns.first; j <= columns.last; ++j) {
            int at = (i * y_width + j) * channels;
            int place_here = place_in_first - i * stride_h * kernel_w - j * stride_w;  // in window (i, j)
            Pack<winner> where = *reinterpret_cast<const Pack<winner>*>(winners + image + at);
            float arriving[LANES];
            load(gy + image + at, arriving);
            for (int lane = 0; lane < LANES; ++lane) {
                if (where.at[lane] == place_here) sum[lane] += arriving[lane];
            }
        }
    }
    store(gx + ((place.image * height + place.row) * width + place.column) * channels + place.channel, sum);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
avg_pool2d(const stored* __restrict__ x, stored* __restrict__ y, int num_images, int height, int width, int channels,
           int y_height, int y_width, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w) {
    Place place(num_images, y_height, y_width, channels);
    if (!place.inside) return;
    Span rows(place.row, kernel_h, stride_h, pad_h, height), columns(place.column, kernel_w, stride_w, pad_w, width);
    float share = __fdividef(1.0f, (rows.last - rows.first) * (columns.last - columns.first));
    const stored* image = x + place.image * height * width * channels + place.channel;
    float sum[LANES] = {};
    for (int a = rows.first; a < rows.last; ++a) {
#pragma unroll 1
        for (int e = columns.first; e < columns.last; ++e) {
            float seen[LANES];
            load(image + ((rows.start + a) * width + columns.start + e) * channels, seen);
            for (int lane = 0; lane < LANES; ++lane) sum[lane] += seen[lane];
        }
    }
    for (int lane = 0; lane < LANES; ++lane) sum[lane] *= share;
    store(y + ((place.image * y_height + place.row) * y_width + place.column) * channels + place.channel, sum);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS, 1)
avg_pool2d_grad(const stored* __restrict__ gy, stored* __restrict__ gx, int num_images, int height, int width,
                int channels, int y_height, int y_width, int kernel_h, int kernel_w, int stride_h, int stride_w,
                int pad_h, int pad_w) {
    Place place(num_images, height, width, channels);
    if (!place.inside) return;
    Windows rows(place.row, kernel_h, stride_h, pad_h, y_height);
    Windows columns(place.column, kernel_w, stride_w, pad_w, y_width);
    const stored* image = gy + place.image * y_height * y_width * channels + place.channel;
    float sum[LANES] = {};
    for (int i = rows.first; i <= rows.last; ++i) {
        Span row_span(i, kernel_h, stride_h, pad_h, height);
#pragma unroll 1
        for (int j = columns.first; j <= columns.last; ++j) {
            Span column_span(j, kernel_w, stride_w, pad_w, width);
            int count = (row_span.last - row_span.first) * (column_span.last - column_span.first);
            float arriving[LANES], share = __fdividef(1.0f, count);
            load(image + (i * y_width + j) * channels, arriving);
            for (int lane = 0; lane < LANES; ++lane) sum[lane] += arriving[lane] * share;
        }
    }
    store(gx + ((place.image * height + place.row) * width + place.column) * channels + place.channel, sum);
}
