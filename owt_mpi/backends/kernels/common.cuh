// Numbers as they lie in memory (`stored`), as they are computed with (float), and packs of them.
//
// Compiled with -DSTORED=float, float16 or bfloat16 and -DLANES=n: how many numbers, side by side in memory, a thread
// reads and writes at once. LANES is 1, or fills 16 bytes; then pointers are aligned to 16 bytes and rows hold whole
// packs. No header of CUDA's is needed. Blocks have at most MAX_THREADS threads, of which one at least is on a processor
// at a time: said so (the 1 in launch bounds), the compiler does not spill registers to fit more.
#define MAX_THREADS 256

struct float16 {
    unsigned short bits;
};
struct bfloat16 {  // the upper half of a float
    unsigned short bits;
};
typedef STORED stored;

__device__ inline float widened(float number) { return number; }
__device__ inline float widened(bfloat16 number) { return __uint_as_float((unsigned)number.bits << 16); }
__device__ inline float widened(float16 number) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(number.bits));
    return wide;
#else
    return cuda_cpu::from_float16_bits(number.bits);
#endif
}

// Rounding is to the nearest, ties to even; what is too large becomes infinite.
__device__ inline void narrow(float wide, float& number) { number = wide; }
__device__ inline void narrow(float wide, bfloat16& number) {
    unsigned bits = __float_as_uint(wide);
    number.bits = wide == wide ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fc0u;
}
__device__ inline void narrow(float wide, float16& number) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(number.bits) : "f"(wide));
#else
    number.bits = cuda_cpu::to_float16_bits(wide);
#endif
}

template <class T>
struct alignas(LANES * sizeof(T) < 16 ? LANES * sizeof(T) : 16) Pack {
    T at[LANES];
};

template <class T>
__device__ inline void load(const T* from, float (&numbers)[LANES]) {
    Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from);
    for (int lane = 0; lane < LANES; ++lane) numbers[lane] = widened(pack.at[lane]);
}
template <class T>
__device__ inline void store(T* to, const float (&numbers)[LANES]) {
    Pack<T> pack;
    for (int lane = 0; lane < LANES; ++lane) narrow(numbers[lane], pack.at[lane]);
    *reinterpret_cast<Pack<T>*>(to) = pack;
}

// The same where only `count` numbers may be left; what is not there reads as 0.
template <class T>
__device__ inline void load_tail(const T* from, long long count, float (&numbers)[LANES]) {
    if (count >= LANES) {
        load(from, numbers);
        return;
    }
    for (int lane = 0; lane < LANES; ++lane) numbers[lane] = lane < count ? widened(from[lane]) : 0.0f;
}
template <class T>
__device__ inline void store_tail(T* to, long long count, const float (&numbers)[LANES]) {
    if (count >= LANES) {
        store(to, numbers);
        return;
    }
    for (int lane = 0; lane < LANES; ++lane) {
        if (lane < count) narrow(numbers[lane], to[lane]);
    }
}

// The first number of this thread's pack in a flat array.
__device__ inline long long first_of_pack() { return (blockIdx.x * (long long)blockDim.x + threadIdx.x) * LANES; }

// Where the grid's y and z count what its x is within: y alone may not reach far enough.
__device__ inline long long row_of_grid() { return blockIdx.z * (long long)gridDim.y + blockIdx.y; }

// A place in an image (height, width, channels); an image has fewer than 2**31 numbers, so that divisions are short.
// blockIdx.x counts the packs of one image, y and z the images.
struct Place {
    long long image;
    int row, column, channel;
    bool inside;

    __device__ Place(int num_images, int height, int width, int channels) {
        int packs = channels / LANES, pack = blockIdx.x * blockDim.x + threadIdx.x;
        channel = pack % packs * LANES;
        column = pack / packs % width;
        row = pack / packs / width;
        image = row_of_grid();
        inside = image < num_images && row < height;
    }
};

// What a window that starts at `start` (before the image, if negative) sees of an axis: its offsets first .. last - 1.
struct Span {
    int start, first, last;

    __device__ Span(int window, int kernel, int stride, int pad, int size) {
        start = window * stride - pad;
        first = max(0, -start);
        last = min(kernel, size - start);
    }
};

// The windows first .. last along an axis that see the element `at`.
struct Windows {
    int first, last;

    __device__ Windows(int at, int kernel, int stride, int pad, int num_windows) {
        first = at + pad < kernel ? 0 : (at + pad - kernel) / stride + 1;
        last = min((at + pad) / stride, num_windows - 1);
    }
};
