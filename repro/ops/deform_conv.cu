// The sampling half of the modulated deformable convolution, forward and backward, for NVRTC.
//
// With x the input, w the weight, m the mask and (y, x)_k the moved position of tap k, the output is
//     out[p, o] = sum over c, k of w[o, c, k] * columns[p, k, c],   columns[p, k, c] = m[p, k] * x[(y, x)_k, c].
// The product over (k, c) is a matrix product, which cuBLAS does (repro/ops/cuda.py calls it through torch). What is
// left is bound by memory, and arranged for it:
//   - channels are innermost everywhere, so one access moves VECTOR channels of one pixel, 16 bytes where it divides;
//   - a block takes a tile of positions, tap by tap. First each (position, deform group) gets its plan: where the four
//     corners are, the fractions, the mask. Threads run along whichever of the two lies together in memory. Then
//     `lanes` threads share a plan and walk over the group's channels;
//   - the backward kernel reads the gradient of a column once, and from it makes all three: the gradients of offset and
//     mask (a sum over the group's channels), the gradient of the input (scattered to the four corners), and the column
//     itself, in the place of its gradient, for the gradient of the weight.
//
// Bilinear rule: corners floor(p) and floor(p) + 1, those outside the image count zero, floor is held fixed in the
// derivative. Outside by more than a pixel, infinite included: zero, and nothing is read. NaN positions give NaN.
//
// Compiled once per element type and vector width, by the macros SCALAR (0 float32, 1 float16, 2 bfloat16, 3 float64)
// and VECTOR (channels per access; divides the channels of a deform group and of a convolution group). Needs no header.
// Kernel arguments are pointers and 64-bit integers only. Pointers are those of the first image of the launch.

typedef long long i64;

#define THREADS 256
#define SLOTS 640  // plans of one tap that a block holds: with the rest 16.5 KiB of shared memory, 24 KiB for float64

// ------------------------------------------------------------------------------------------- types and instructions

struct half_bits { unsigned short bits; };
struct bfloat_bits { unsigned short bits; };

#ifndef CPU_SHIM  // what only a GPU can do; the tests bring these five for the CPU
__device__ inline float from_half(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ inline float float_of(unsigned bits) { return __uint_as_float(bits); }
__device__ inline unsigned bits_of(float value) { return __float_as_uint(value); }

__device__ inline void add_four(float* target, const float* terms) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "l"(target), "f"(terms[0]), "f"(terms[1]), "f"(terms[2]), "f"(terms[3]) : "memory");
#else
    for (int k = 0; k < 4; ++k) atomicAdd(target + k, terms[k]);
#endif
}
#endif

__device__ inline float from_bfloat(unsigned short bits) { return float_of((unsigned)bits << 16); }

__device__ inline unsigned short to_bfloat(float value) {  // to nearest, ties to even
    const unsigned bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#if SCALAR == 0
typedef float scalar;
typedef float real;  // what sums and positions are kept in
#elif SCALAR == 1
typedef half_bits scalar;
typedef float real;
#elif SCALAR == 2
typedef bfloat_bits scalar;
typedef float real;
#else
typedef double scalar;
typedef double real;
#endif

__device__ inline real widen(float value) { return value; }
__device__ inline real widen(double value) { return (real)value; }
__device__ inline real widen(half_bits value) { return from_half(value.bits); }
__device__ inline real widen(bfloat_bits value) { return from_bfloat(value.bits); }
__device__ inline void narrow(float* to, real value) { *to = (float)value; }
__device__ inline void narrow(double* to, real value) { *to = value; }
__device__ inline void narrow(half_bits* to, real value) { to->bits = to_half((float)value); }
__device__ inline void narrow(bfloat_bits* to, real value) { to->bits = to_bfloat((float)value); }

// Offsets and masks have a type of their own, known at run time: all threads take the same branch.
__device__ inline real read(const void* from, i64 at, int kind) {
    switch (kind) {
        case 0: return widen(((const float*)from)[at]);
        case 1: return widen(((const half_bits*)from)[at]);
        case 2: return widen(((const bfloat_bits*)from)[at]);
        default: return widen(((const double*)from)[at]);
    }
}

__device__ inline void write(void* to, i64 at, int kind, real value) {
    switch (kind) {
        case 0: return narrow((float*)to + at, value);
        case 1: return narrow((half_bits*)to + at, value);
        case 2: return narrow((bfloat_bits*)to + at, value);
        default: return narrow((double*)to + at, value);
    }
}

struct alignas(sizeof(scalar) * VECTOR) Pack { scalar element[VECTOR]; };

__device__ inline void load(real (&values)[VECTOR], const scalar* from, bool inside) {
    if (inside) {
        const Pack pack = *(const Pack*)from;
        for (int k = 0; k < VECTOR; ++k) values[k] = widen(pack.element[k]);
    } else {
        for (int k = 0; k < VECTOR; ++k) values[k] = 0;
    }
}

__device__ inline void store(scalar* to, const real (&values)[VECTOR]) {
    Pack pack;
    for (int k = 0; k < VECTOR; ++k) narrow(&pack.element[k], values[k]);
    *(Pack*)to = pack;
}

// ------------------------------------------------------------------------------------------------------- geometry

// positions: output positions of this launch; first: index of the first one, within the first image
// conv_channels: input channels of one convolution group
// *_kind: as SCALAR; *_channel, *_pixel: distance of neighbours in the offset and mask arrays (either layout)
// tile_positions * (tile_groups | 1) <= SLOTS, tile_positions <= THREADS
// lanes: threads that share a plan, a power of two up to 32
#define GEOMETRY(_)                                                                                                   \
    _(positions) _(first) _(height) _(width) _(channels) _(out_width) _(out_plane) _(kernel_width) _(taps)            \
    _(stride_y) _(stride_x) _(padding_y) _(padding_x) _(dilation_y) _(dilation_x) _(deform_groups) _(conv_channels)   \
    _(offset_kind) _(offset_channel) _(offset_pixel) _(mask_kind) _(mask_channel) _(mask_pixel)                       \
    _(tile_positions) _(tile_groups) _(block_taps) _(lanes)
#define PARAMETER(name) , i64 name
#define MEMBER(name) int name;
#define VALUE(name) (int)name,

struct Geometry {
    GEOMETRY(MEMBER)
};

// The part of the work between two barriers: one tap, the positions of the block, some deform groups.
struct Tile {
    int start, rows;    // positions, counted from the launch's first
    int tap;
    int group, groups;  // deform groups
};

// What a block keeps in shared memory.
struct Shared {
    // for each position of the block: its image, its pixel in the output, and where its first tap would stand unpadded
    int image[THREADS], pixel[THREADS], y[THREADS], x[THREADS];
    // for each (position, group) of the tile, see `slot`
    i64 corner[SLOTS];   // 16 * pixel index of the upper left corner + a bit for each corner inside: 00, 01, 10, 11
    real down[SLOTS];    // fraction of the way to the lower corners; later the gradient of dy
    real right[SLOTS];   // likewise to the right; later the gradient of dx
    real factor[SLOTS];  // the mask; later its gradient
};

// An odd row length spreads the columns over the banks, whichever way threads run.
__device__ inline int slot(const Geometry& g, int row, int group) { return row * (g.tile_groups | 1) + group; }

// A thread's way over pairs (outer, inner < count), `step` pairs at a time, without a division per step.
struct Walk {
    int outer, inner, outer_step, inner_step, count;

    __device__ Walk(int first, int step, int count) : count(count) {
        outer = first / count;
        inner = first - outer * count;
        outer_step = step / count;
        inner_step = step - outer_step * count;
    }

    __device__ void next() {
        outer += outer_step;
        inner += inner_step;
        if (inner >= count) {
            inner -= count;
            ++outer;
        }
    }
};

// Neighbouring threads take what are neighbours in the offset array: positions where it is [N, C, H, W], else groups.
__device__ inline Walk walk_offsets(const Geometry& g, const Tile& tile) {
    return Walk(threadIdx.x, THREADS, g.offset_pixel == 1 ? tile.rows : tile.groups);
}

// One (row, group) of a tile on that way, and where it stands in the offset and mask arrays.
struct Place {
    int row, group;
    i64 offset, mask;
    bool inside;

    __device__ Place(const Geometry& g, const Tile& tile, const Shared& shared, const Walk& walk) {
        const bool by_position = g.offset_pixel == 1;
        row = by_position ? walk.inner : walk.outer;
        group = by_position ? walk.outer : walk.inner;
        inside = row < tile.rows && group < tile.groups;
        if (!inside) return;
        const i64 image_size = (i64)g.deform_groups * g.taps * g.out_plane, image = shared.image[row];
        const i64 channel = (i64)(tile.group + group) * g.taps + tile.tap, pixel = shared.pixel[row];
        offset = image * 2 * image_size + 2 * channel * g.offset_channel + pixel * g.offset_pixel;
        mask = image * image_size + channel * g.mask_channel + pixel * g.mask_pixel;
    }
};

__device__ inline void list_positions(const Geometry& g, const Tile& tile, Shared& shared) {
    const int row = threadIdx.x;
    if (row >= tile.rows) return;
    const unsigned position = (unsigned)g.first + tile.start + row, image = position / g.out_plane;
    const unsigned pixel = position - image * g.out_plane, y = pixel / g.out_width;
    shared.image[row] = image;
    shared.pixel[row] = pixel;
    shared.y[row] = y * g.stride_y;
    shared.x[row] = (pixel - y * g.out_width) * g.stride_x;
}

__device__ inline void make_plans(const Geometry& g, const Tile& tile, const void* offset, const void* mask, Walk walk,
                                  Shared& shared) {
    const int kernel_row = tile.tap / g.kernel_width;
    const int tap_y = kernel_row * g.dilation_y - g.padding_y;
    const int tap_x = (tile.tap - kernel_row * g.kernel_width) * g.dilation_x - g.padding_x;
    for (Place at(g, tile, shared, walk); at.inside; walk.next(), at = Place(g, tile, shared, walk)) {
        const real y = (real)(shared.y[at.row] + tap_y) + read(offset, at.offset, g.offset_kind);
        const real x = (real)(shared.x[at.row] + tap_x) + read(offset, at.offset + g.offset_channel, g.offset_kind);
        const int s = slot(g, at.row, at.group);
        shared.factor[s] = mask ? read(mask, at.mask, g.mask_kind) : (real)1;
        // Compared before it is converted: an enormous or infinite position has no integer.
        if (y >= -1 && y < (real)g.height && x >= -1 && x < (real)g.width) {
            const real floor_y = floor(y), floor_x = floor(x);
            const int top = (int)floor_y, left = (int)floor_x;
            const int up = top >= 0, low = top + 1 < g.height, near = left >= 0, far = left + 1 < g.width;
            const i64 pixel = (i64)shared.image[at.row] * g.height * g.width + (i64)top * g.width + left;
            shared.corner[s] = pixel * 16 + (up & near) + 2 * (up & far) + 4 * (low & near) + 8 * (low & far);
            shared.down[s] = y - floor_y;
            shared.right[s] = x - floor_x;
        } else {  // no corner, and no fraction unless it is NaN: zero times that is NaN in all that follows
            shared.corner[s] = 0;
            shared.down[s] = y != y ? y : (real)0;
            shared.right[s] = x != x ? x : (real)0;
        }
    }
}

// Columns run over (convolution group, tap, channel of that group): each group's matrix lies together.
__device__ inline i64 column(const Geometry& g, const Tile& tile, int row, int channel) {
    const int group = channel / g.conv_channels;
    return (i64)(tile.start + row) * g.channels * g.taps +
           (i64)(group * (g.taps - 1) + tile.tap) * g.conv_channels + channel;
}

struct Corners {
    real v00[VECTOR], v01[VECTOR], v10[VECTOR], v11[VECTOR];

    __device__ Corners(const Geometry& g, const scalar* pixel, int inside) {
        const i64 below = (i64)g.width * g.channels;
        load(v00, pixel, inside & 1);
        load(v01, pixel + g.channels, inside & 2);
        load(v10, pixel + below, inside & 4);
        load(v11, pixel + below + g.channels, inside & 8);
    }
};

// -------------------------------------------------------------------------------------------------------- kernels

// columns [positions, channels * taps] from input [images, height, width, channels].
extern "C" __global__ void __launch_bounds__(THREADS)
sample_columns(const scalar* __restrict__ input, const void* __restrict__ offset, const void* __restrict__ mask,
               scalar* __restrict__ columns GEOMETRY(PARAMETER)) {
    const Geometry g = {GEOMETRY(VALUE)};
    __shared__ Shared shared;
    const int group_channels = g.channels / g.deform_groups, lane = threadIdx.x % g.lanes;
    Tile tile;
    tile.start = blockIdx.x * g.tile_positions;
    tile.rows = min(g.tile_positions, g.positions - tile.start);
    list_positions(g, tile, shared);
    __syncthreads();
    const int first_tap = blockIdx.y * g.block_taps, end_tap = min(g.taps, first_tap + g.block_taps);
    for (tile.group = 0; tile.group < g.deform_groups; tile.group += g.tile_groups) {
        tile.groups = min(g.tile_groups, g.deform_groups - tile.group);
        const Walk offsets = walk_offsets(g, tile), plans(threadIdx.x / g.lanes, THREADS / g.lanes, tile.groups);
        for (tile.tap = first_tap; tile.tap < end_tap; ++tile.tap) {
            make_plans(g, tile, offset, mask, offsets, shared);
            __syncthreads();
            for (Walk walk = plans; walk.outer < tile.rows; walk.next()) {
                const int row = walk.outer, s = slot(g, row, walk.inner);
                const i64 corner = shared.corner[s];
                const real down = shared.down[s], right = shared.right[s], factor = shared.factor[s];
                const i64 pixel = (corner >> 4) * g.channels;
                const int first = (tile.group + walk.inner) * group_channels;
                for (int c = lane * VECTOR; c < group_channels; c += g.lanes * VECTOR) {
                    const Corners v(g, input + pixel + first + c, (int)corner & 15);
                    real values[VECTOR];
                    for (int k = 0; k < VECTOR; ++k) {
                        const real top = v.v00[k] * (1 - right) + v.v01[k] * right;
                        const real bottom = v.v10[k] * (1 - right) + v.v11[k] * right;
                        values[k] = factor * (top * (1 - down) + bottom * down);
                    }
                    store(columns + column(g, tile, row, first + c), values);
                }
            }
            __syncthreads();
        }
    }
}

// Adds share * terms to VECTOR channels of one pixel. With `fixed`, as multiples of 1 / scale: whole numbers add up to
// the same sum in any order. What has no whole number (infinities, NaN) goes to the floating-point sum.
__device__ inline void scatter(real* target, i64* fixed, double scale, const real (&terms)[VECTOR], real share) {
    real scaled[VECTOR];
    for (int k = 0; k < VECTOR; ++k) scaled[k] = terms[k] * share;
    if (fixed) {
        for (int k = 0; k < VECTOR; ++k) {
            if (scaled[k] - scaled[k] == 0) {
                atomicAdd((unsigned long long*)(fixed + k), (unsigned long long)llrint((double)scaled[k] * scale));
            } else {
                atomicAdd(target + k, scaled[k]);
            }
        }
        return;
    }
#if SCALAR != 3 && VECTOR % 4 == 0
    for (int k = 0; k < VECTOR; k += 4) add_four(target + k, scaled + k);
#else
    for (int k = 0; k < VECTOR; ++k) atomicAdd(target + k, scaled[k]);
#endif
}

// columns holds the gradient of the columns; where keep_columns is not zero, the columns themselves afterwards.
// grad_offset and grad_mask have type and layout of offset and mask, and every element is written; grad_input
// [images, height, width, channels] is added to. Each of the three may be null. For fixed (null, or of the size of
// grad_input) and scale see `scatter`. Three blocks to a multiprocessor: without the limit registers allow only two.
extern "C" __global__ void __launch_bounds__(THREADS, 3)
spread_gradients(const scalar* __restrict__ input, const void* __restrict__ offset, const void* __restrict__ mask,
                 scalar* columns, i64 keep_columns, void* grad_offset, void* grad_mask, real* grad_input, i64* fixed,
                 const double* scale GEOMETRY(PARAMETER)) {
    const Geometry g = {GEOMETRY(VALUE)};
    __shared__ Shared shared;
    const int group_channels = g.channels / g.deform_groups, lane = threadIdx.x % g.lanes;
    const double fixed_scale = fixed ? *scale : 0;
    Tile tile;
    tile.start = blockIdx.x * g.tile_positions;
    tile.rows = min(g.tile_positions, g.positions - tile.start);
    list_positions(g, tile, shared);
    __syncthreads();
    const int first_tap = blockIdx.y * g.block_taps, end_tap = min(g.taps, first_tap + g.block_taps);
    for (tile.group = 0; tile.group < g.deform_groups; tile.group += g.tile_groups) {
        tile.groups = min(g.tile_groups, g.deform_groups - tile.group);
        const int step = THREADS / g.lanes, rounds = (tile.rows * tile.groups + step - 1) / step;
        const Walk offsets = walk_offsets(g, tile), plans(threadIdx.x / g.lanes, step, tile.groups);
        for (tile.tap = first_tap; tile.tap < end_tap; ++tile.tap) {
            make_plans(g, tile, offset, mask, offsets, shared);
            __syncthreads();
            // All threads make the same number of rounds, because all take part in the shuffles.
            Walk walk = plans;
            for (int round = 0; round < rounds; ++round, walk.next()) {
                const int row = walk.outer;
                const bool active = row < tile.rows;
                const int s = active ? slot(g, row, walk.inner) : 0;
                const i64 corner = shared.corner[s];
                const real down = shared.down[s], right = shared.right[s], factor = shared.factor[s];
                const i64 pixel = (corner >> 4) * g.channels, below = (i64)g.width * g.channels;
                const int inside = (int)corner & 15, first = (tile.group + walk.inner) * group_channels;
                real sum_y = 0, sum_x = 0, sum = 0;
                for (int c = lane * VECTOR; active && c < group_channels; c += g.lanes * VECTOR) {
                    const i64 at = pixel + first + c;
                    scalar* place = columns + column(g, tile, row, first + c);
                    real grad[VECTOR], values[VECTOR];
                    load(grad, place, true);
                    const Corners v(g, input + at, inside);
                    for (int k = 0; k < VECTOR; ++k) {
                        const real top = v.v00[k] * (1 - right) + v.v01[k] * right;
                        const real bottom = v.v10[k] * (1 - right) + v.v11[k] * right;
                        const real value = top * (1 - down) + bottom * down;
                        const real slope_x = (v.v01[k] - v.v00[k]) * (1 - down) + (v.v11[k] - v.v10[k]) * down;
                        sum_y += grad[k] * (bottom - top);
                        sum_x += grad[k] * slope_x;
                        sum += grad[k] * value;
                        values[k] = factor * value;
                        grad[k] *= factor;
                    }
                    if (keep_columns) store(place, values);
                    if (grad_input) {
                        const i64 neighbour[4] = {at, at + g.channels, at + below, at + below + g.channels};
                        const real share[4] = {(1 - down) * (1 - right), (1 - down) * right, down * (1 - right),
                                               down * right};
#pragma unroll
                        for (int n = 0; n < 4; ++n)
                            if (inside >> n & 1)
                                scatter(grad_input + neighbour[n], fixed ? fixed + neighbour[n] : fixed, fixed_scale,
                                        grad, share[n]);
                    }
                }
                for (int distance = g.lanes / 2; distance > 0; distance /= 2) {
                    sum_y += __shfl_xor_sync(0xffffffffu, sum_y, distance);
                    sum_x += __shfl_xor_sync(0xffffffffu, sum_x, distance);
                    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
                }
                __syncwarp();  // the lanes that share this plan have read it
                if (active && lane == 0) {
                    shared.down[s] = factor * sum_y;
                    shared.right[s] = factor * sum_x;
                    shared.factor[s] = sum;
                }
            }
            __syncthreads();
            walk = offsets;
            for (Place at(g, tile, shared, walk); at.inside; walk.next(), at = Place(g, tile, shared, walk)) {
                const int s = slot(g, at.row, at.group);
                if (grad_offset) {
                    write(grad_offset, at.offset, g.offset_kind, shared.down[s]);
                    write(grad_offset, at.offset + g.offset_channel, g.offset_kind, shared.right[s]);
                }
                if (grad_mask) write(grad_mask, at.mask, g.mask_kind, shared.factor[s]);
            }
            __syncthreads();
        }
    }
}
