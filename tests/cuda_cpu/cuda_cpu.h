// The part of CUDA's device language that our kernels use, on the CPU: included before a .cu file by tests/cuda_cpu.
//
// Blocks run one after another; the threads of a block are fibres that change places at __syncthreads(), in an order
// that the caller chooses, so that a kernel without a barrier that it needs gives different results in some order.
// Where the text has no __syncthreads() at all the threads are plain calls, which is faster. Shared memory holds
// garbage (NaN) at the start of each block. One launch at a time: the caller holds a lock.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <typeinfo>
#include <utility>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static

struct CudaIndex {
    unsigned x, y, z;
};
static CudaIndex threadIdx, blockIdx, blockDim, gridDim;

template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
template <class T> static inline T __ldg(const T* p) { return *p; }
static inline float __fadd_rn(float a, float b) { return a + b; }  // -ffp-contract=off: never fused
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
template <class T> static inline T atomicAdd(T* p, T value) {
    T old = *p;
    *p = old + value;
    return old;
}
template <class T> static inline T atomicMax(T* p, T value) {
    T old = *p;
    *p = max(old, value);
    return old;
}

namespace cuda_cpu {

// What the GPU does in one instruction: float16 bits to float, exactly, and back to the nearest, ties to even.
static inline float from_float16_bits(unsigned short bits) {
    unsigned magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
    if (magnitude >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    float value = __uint_as_float(magnitude << 13) * 0x1p112f;  // the exponents' biases differ by 112
    return __uint_as_float(sign | __float_as_uint(value));
}
static inline unsigned short to_float16_bits(float value) {
    unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
    float size = fabsf(value);
    if (size != size) return 0x7fffu;             // as cvt.rn.f16.f32 does
    if (size >= 65520.0f) return sign | 0x7c00u;  // half way from the largest number to the next power of two
    if (size < 0x1p-14f) {                        // subnormal: multiples of 2**-24, which is float's 1.0 at 2**23
        return sign | (__float_as_uint(size * 0x1p24f + 0x1p23f) - __float_as_uint(0x1p23f));
    }
    unsigned exact = __float_as_uint(size) - (112u << 23);
    return sign | (exact + 0xfffu + (exact >> 13 & 1u)) >> 13;
}

enum Result { finished = 0, diverged = 1 };

static const size_t stack_bytes = 64 * 1024;
static const size_t max_threads = 1024;
struct Fibre {
    ucontext_t context;
    CudaIndex index;
    bool done;
    void* fake_stack;
};
static Fibre* fibres;
static char* stacks;
static Fibre* running;
static ucontext_t scheduler;
static void* scheduler_fake_stack;
static const void* scheduler_stack;
static size_t scheduler_stack_bytes;
static void (*call_kernel)(void*, void**);
static void* kernel_function;
static void** kernel_arguments;

// AddressSanitizer must know which stack is in use.
static inline void leave_for(void** saved, const void* stack, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(saved, stack, bytes);
#else
    (void)saved, (void)stack, (void)bytes;
#endif
}
static inline void arrived(void* saved, const void** stack, size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(saved, stack, bytes);
#else
    (void)saved, (void)stack, (void)bytes;
#endif
}

static void run_thread() {
    arrived(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    call_kernel(kernel_function, kernel_arguments);
    running->done = true;
    leave_for(nullptr, scheduler_stack, scheduler_stack_bytes);
    swapcontext(&running->context, &scheduler);
}

static inline void resume(Fibre* fibre) {
    running = fibre;
    threadIdx = fibre->index;
    leave_for(&scheduler_fake_stack, stacks + (fibre - fibres) * stack_bytes, stack_bytes);
    swapcontext(&scheduler, &fibre->context);
    arrived(scheduler_fake_stack, nullptr, nullptr);
}

static inline void barrier() {
    Fibre* me = running;
    leave_for(&me->fake_stack, scheduler_stack, scheduler_stack_bytes);
    swapcontext(&me->context, &scheduler);
    arrived(me->fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}

// Order 0 is ascending, 1 descending; any other number is the seed of a shuffle.
static unsigned long long shuffle_state;
static inline void arrange(unsigned* places, unsigned count, unsigned long long order) {
    for (unsigned i = 0; i < count; ++i) places[i] = order == 1 ? count - 1 - i : i;
    if (order < 2) return;
    for (unsigned i = count - 1; i > 0; --i) {
        shuffle_state = shuffle_state * 6364136223846793005ull + 1442695040888963407ull;
        unsigned j = unsigned((shuffle_state >> 33) % (i + 1)), place = places[i];
        places[i] = places[j];
        places[j] = place;
    }
}

// Shared memory is static, as blocks run one after another; build.py puts a call of this behind each declaration. The
// first thread of a block that comes by fills it with NaN. Volatile, or the compiler would remember what it held.
static unsigned long long num_blocks_started;
struct SharedMemory {
    unsigned long long spoilt_for;
    inline void declare(volatile void* memory, size_t bytes) {
        if (spoilt_for == num_blocks_started) return;
        spoilt_for = num_blocks_started;
        for (size_t i = 0; i < bytes; ++i) static_cast<volatile char*>(memory)[i] = char(0xff);
    }
};

static inline CudaIndex split(unsigned linear, CudaIndex size) {
    return {linear % size.x, linear / size.x % size.y, linear / size.x / size.y};
}

static inline void make_fibre(Fibre* fibre) {
    fibre->done = false;
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = stacks + (fibre - fibres) * stack_bytes;
    fibre->context.uc_stack.ss_size = stack_bytes;
    fibre->context.uc_link = nullptr;
    makecontext(&fibre->context, run_thread, 0);
}

static inline Result run_block_of_fibres(unsigned num_threads, unsigned long long order) {
    unsigned places[max_threads];
    for (unsigned i = 0; i < num_threads; ++i) {
        fibres[i].index = split(i, blockDim);
        make_fibre(&fibres[i]);
    }
    for (unsigned num_running = num_threads; num_running > 0;) {  // one round from barrier to barrier
        unsigned num_waiting = 0, num_done = 0;
        arrange(places, num_threads, order);
        for (unsigned i = 0; i < num_threads; ++i) {
            Fibre* fibre = &fibres[places[i]];
            if (fibre->done) continue;
            resume(fibre);
            fibre->done ? ++num_done : ++num_waiting;
        }
        if (num_waiting && num_done) return diverged;  // undefined on a GPU
        num_running -= num_done;
    }
    return finished;
}

static inline void run_block_of_calls(unsigned num_threads, unsigned long long order) {
    unsigned places[max_threads];
    arrange(places, num_threads, order);
    for (unsigned i = 0; i < num_threads; ++i) {
        threadIdx = split(places[i], blockDim);
        call_kernel(kernel_function, kernel_arguments);
    }
}

template <class... Parameters, size_t... I>
static inline void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<Parameters*>(arguments[I])...);
}
template <class... Parameters> static void call_typed(void* kernel, void** arguments) {
    call(reinterpret_cast<void (*)(Parameters...)>(kernel), arguments, std::index_sequence_for<Parameters...>());
}

// `shape` is the grid's x, y, z, then the block's.
template <class... Parameters>
static int launch(void (*kernel)(Parameters...), const unsigned* shape, unsigned long long order, void** arguments) {
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    call_kernel = call_typed<Parameters...>;
    kernel_function = reinterpret_cast<void*>(kernel);
    kernel_arguments = arguments;
    shuffle_state = order;
    unsigned num_threads = blockDim.x * blockDim.y * blockDim.z, num_blocks = gridDim.x * gridDim.y * gridDim.z;
    if (CUDA_CPU_FIBRES && !fibres) {
        fibres = static_cast<Fibre*>(calloc(max_threads, sizeof(Fibre)));
        stacks = static_cast<char*>(malloc(max_threads * stack_bytes));
    }
    unsigned* blocks = static_cast<unsigned*>(malloc(num_blocks * sizeof(unsigned)));
    arrange(blocks, num_blocks, order);
    Result result = finished;
    for (unsigned i = 0; i < num_blocks && result == finished; ++i) {
        blockIdx = split(blocks[i], gridDim);
        ++num_blocks_started;
        if (CUDA_CPU_FIBRES) {
            result = run_block_of_fibres(num_threads, order);
        } else {
            run_block_of_calls(num_threads, order);
        }
    }
    free(blocks);
    return result;
}

template <class... Parameters> static const char* parameter_type(void (*)(Parameters...), int index) {
    const char* names[] = {typeid(Parameters).name()..., ""};
    return names[index];
}

}  // namespace cuda_cpu

static inline void __syncthreads() { cuda_cpu::barrier(); }

// For each kernel: how to launch it, and the mangled type of each parameter ("" after the last).
#define CUDA_CPU_VISIBLE extern "C" __attribute__((visibility("default")))
#define CUDA_CPU_EXPORT(kernel)                                                                            \
    CUDA_CPU_VISIBLE int cuda_cpu_launch_##kernel(const unsigned* shape, unsigned long long order, void** arguments) { \
        return cuda_cpu::launch(kernel, shape, order, arguments);                                          \
    }                                                                                                      \
    CUDA_CPU_VISIBLE const char* cuda_cpu_type_##kernel(int index) { return cuda_cpu::parameter_type(kernel, index); }
