// Runs a CUDA source file on the CPU: g++ -shared -DKERNELS='"deform_conv.cu"' -DSCALAR=0 -DVECTOR=4 cuda_shim.cpp
//
// Every CUDA thread is a fiber with a stack of its own; one operating-system thread takes them in turn. A fiber runs
// until it reaches a barrier, and goes on when all threads of its block (or warp) have reached it, so barriers and
// shuffles mean what they mean on a GPU. A barrier that some thread never reaches ends the launch with an error.
// Shared memory is filled with NaN before each block.

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <cstdlib>
#include <ucontext.h>
#include <utility>

#define CPU_SHIM
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))

using std::floor;

static struct { unsigned x, y; } threadIdx, blockIdx;
static inline int min(int a, int b) { return a < b ? a : b; }

// ----------------------------------------------------------------------------------------- what the source leaves out

static float float_of(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static unsigned bits_of(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }

static float from_half(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    if (exponent == 0) return float_of(sign | bits_of((float)fraction * 0x1p-24f));
    return float_of(sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13);
}

static unsigned short to_half(float value) {
    const unsigned sign = bits_of(value) >> 16 & 0x8000u, bits = bits_of(value) & 0x7fffffffu;
    if (bits > 0x7f800000u) return 0x7fffu;
    if (bits >= bits_of(65520.f)) return sign | 0x7c00u;
    if (bits < bits_of(0x1p-14f)) return sign | (unsigned)std::nearbyint(float_of(bits) * 0x1p24f);
    return sign | (((bits + 0xfffu + (bits >> 13 & 1u)) >> 13) - (112u << 10));
}

template <class T> static T atomicAdd(T* to, T value) { const T before = *to; *to = before + value; return before; }
[[maybe_unused]] static void add_four(float* to, const float* terms) { for (int k = 0; k < 4; ++k) to[k] += terms[k]; }

// ------------------------------------------------------------------------------------------------------------- fibers

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
static const int COUNT = 256, STACK = 64 << 10;
static struct Fiber { jmp_buf place; char* stack; State state; bool started; int shuffles; } fibers[COUNT];
static jmp_buf scheduler;
static Fiber* current;
static ucontext_t entry;
static void (*body)();
static double exchanged[2][COUNT];  // two sets: a fast lane must not overwrite what a slow one has yet to read

static void wait(State at) {
    current->state = at;
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}
static void __syncthreads() { wait(AT_BLOCK_BARRIER); }
static void __syncwarp() { wait(AT_WARP_BARRIER); }
template <class T> static T __shfl_xor_sync(unsigned, T value, int distance) {
    double* values = exchanged[current->shuffles++ % 2];
    values[threadIdx.x] = value;
    wait(AT_WARP_BARRIER);
    return (T)values[threadIdx.x ^ distance];
}

static void fiber() {
    body();
    current->state = DONE;
    _longjmp(scheduler, 1);
}

static void resume(Fiber& f) {
    current = &f;
    threadIdx.x = &f - fibers;
    f.state = READY;
    if (_setjmp(scheduler)) return;
    if (f.started) _longjmp(f.place, 1);
    f.started = true;
    getcontext(&entry);
    entry.uc_stack.ss_sp = f.stack;
    entry.uc_stack.ss_size = STACK;
    makecontext(&entry, fiber, 0);
    setcontext(&entry);
}

static bool all(int from, int to, State state) {
    for (int i = from; i < to; ++i) if (fibers[i].state != state) return false;
    return true;
}

extern "C" char __start_cuda_shared[], __stop_cuda_shared[];

static bool run_block(bool backwards) {
    memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
    for (Fiber& f : fibers) {
        if (!f.stack) f.stack = (char*)malloc(STACK);
        f.state = READY;
        f.started = false;
        f.shuffles = 0;
    }
    while (!all(0, COUNT, DONE)) {
        bool moved = false;
        for (int i = 0; i < COUNT; ++i) {
            Fiber& f = fibers[backwards ? COUNT - 1 - i : i];
            if (f.state == READY) { resume(f); moved = true; }
        }
        for (int warp = 0; warp < COUNT; warp += 32)
            if (all(warp, warp + 32, AT_WARP_BARRIER)) {
                for (int i = warp; i < warp + 32; ++i) fibers[i].state = READY;
                moved = true;
            }
        if (all(0, COUNT, AT_BLOCK_BARRIER)) {
            for (Fiber& f : fibers) f.state = READY;
            moved = true;
        }
        if (!moved) return false;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------------------- launch

#include KERNELS

static_assert(THREADS == COUNT, "one fiber per thread of a block");
static const int64_t* arguments;

template <class... A, size_t... I> static void call(void (*kernel)(A...), std::index_sequence<I...>) {
    kernel((A)arguments[I]...);
}
template <class... A> static int arity(void (*)(A...)) { return sizeof...(A); }
template <class... A> static void call(void (*kernel)(A...)) { call(kernel, std::index_sequence_for<A...>()); }

// 0; 1: no such kernel; 2: wrong number of arguments; 3: threads of a block wait for each other
extern "C" int launch(const char* name, int64_t blocks_x, int64_t blocks_y, const int64_t* values, int count,
                      int backwards) {
    int expected;
    if (!strcmp(name, "sample_columns")) {
        expected = arity(sample_columns);
        body = [] { call(sample_columns); };
    } else if (!strcmp(name, "spread_gradients")) {
        expected = arity(spread_gradients);
        body = [] { call(spread_gradients); };
    } else {
        return 1;
    }
    if (count != expected) return 2;
    arguments = values;
    for (blockIdx.y = 0; blockIdx.y < blocks_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < blocks_x; ++blockIdx.x)
            if (!run_block(backwards)) return 3;
    return 0;
}
