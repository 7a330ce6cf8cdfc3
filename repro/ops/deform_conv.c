/* Modulated deformable convolution on a CPU, forward and backward.

       out[n, o, p] = bias[o] + sum over taps k and channels c of  W[o, c, k] * mask[n, g(c), k, p] * x(n, c, p + k + offset)

   Sampling is bilinear over floor(p) and floor(p) + 1; every corner outside the image counts as zero, and the derivative
   with respect to an offset keeps the floor fixed (the right-hand derivative at whole-number positions).

   Why it is fast:
   * The input is repacked once as [image][deform group][H + 3][W + 2][channels of the group] with a border of zeros, so that
     a corner is one contiguous load, the two corners of a row are neighbours, and no sample needs a branch at the border.
     A position from which nothing can be seen points at four zeros in the last two rows.
   * Floor, weights and address are computed once per (position, tap, group), vectorised over taps, and shared by all
     channels of the group and by every part of the backward pass.
   * The sampled columns of a few dozen positions stay in the L2 cache, and the matrix product consumes them there. The columns of the
     whole image are never written out.
   * The backward pass of one block does everything while its corners are in cache: columns again (for the weight gradient),
     the four dot products from which the offset and mask gradients follow, and the scatter into the input gradient. A thread owns
     the image (or a copy of it) that it scatters into: no atomics, and the same bits every time.

   Plain C symbols and pointers: no headers of torch, a build of seconds with any C compiler that knows vector extensions
   (GCC 12 or newer, Clang). Compiled once per precision: REAL is float or double. All memory comes from the caller. */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
#define FLOOR(x) _Generic((real)0, float: floorf, double: floor)(x)

#define VECTOR(lanes) __attribute__((vector_size((lanes) * sizeof(real)), aligned(sizeof(real)), may_alias))
typedef real quad VECTOR(4);
typedef real oct VECTOR(8);
typedef real hex VECTOR(16);
typedef real vec VECTOR(64 / sizeof(real)); /* one AVX-512 register, or two of AVX2, or four of NEON */
#define LANES ((int64_t)(64 / sizeof(real)))
#define INLINE static inline __attribute__((always_inline))

/* ---------------------------------------------------------------------------------------------------- tensors */

enum { FLOAT32, BFLOAT16, FLOAT64 };

typedef struct { /* strides count elements; tensors indexed by output position use w as the stride of a flat position */
    void *data;
    int64_t dtype, n, c, h, w;
} tensor;

INLINE float widen(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE uint16_t narrow(float value) { /* round to nearest even; a NaN stays a NaN */
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    return (uint16_t)(value != value ? 0x7fc0 : rounded);
}

/* Two-dimensional strided copies, with conversion, between a tensor and working memory. The shorter stride of the tensor
   goes innermost. */
#define STRIDED(OUTER, INNER, BODY)                                            \
    for (int64_t a = 0; a < (OUTER); a++)                                      \
        for (int64_t b = 0; b < (INNER); b++) { BODY; }
#define LOAD(TYPE, VALUE)                                                      \
    {                                                                          \
        const TYPE *from = (const TYPE *)t->data + at;                         \
        if (fi == 1 && ti == 1) STRIDED(no, ni, to[a * to_o + b] = (real)VALUE(from[a * fo + b]))        \
        else if (fo == 1) STRIDED(ni, no, to[b * to_o + a * ti] = (real)VALUE(from[a * fi + b]))         \
        else STRIDED(no, ni, to[a * to_o + b * ti] = (real)VALUE(from[a * fo + b * fi]))                 \
    }
#define STORE(TYPE, VALUE)                                                     \
    {                                                                          \
        TYPE *to = (TYPE *)t->data + at;                                       \
        if (fi == 1 && ti == 1) STRIDED(no, ni, to[a * to_o + b] = (TYPE)VALUE(from[a * fo + b]))        \
        else if (to_o == 1) STRIDED(ni, no, to[b + a * ti] = (TYPE)VALUE(from[b * fo + a * fi]))         \
        else STRIDED(no, ni, to[a * to_o + b * ti] = (TYPE)VALUE(from[a * fo + b * fi]))                 \
    }
#define SAME(x) (x)

INLINE void load(real *restrict to, int64_t to_o, int64_t ti, const tensor *t, int64_t at, int64_t fo, int64_t fi,
                 int64_t no, int64_t ni) {
    switch (t->dtype) {
    case FLOAT32: LOAD(float, SAME) break;
    case FLOAT64: LOAD(double, SAME) break;
    default: LOAD(uint16_t, widen)
    }
}

INLINE void store(const tensor *t, int64_t at, int64_t to_o, int64_t ti, const real *restrict from, int64_t fo,
                  int64_t fi, int64_t no, int64_t ni) {
    switch (t->dtype) {
    case FLOAT32: STORE(float, SAME) break;
    case FLOAT64: STORE(double, SAME) break;
    default: STORE(uint16_t, narrow)
    }
}

/* ---------------------------------------------------------------------------------------------------- threads */

/* torch's own OpenMP pool where it can be reached (its idle workers spin, and a second pool would fight them for the
   cores), POSIX threads otherwise. Either way a part of the work is known by its number alone: who computes it changes
   nothing. */
typedef void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned);
static gomp_parallel openmp;
void use_openmp(void *function) { openmp = (gomp_parallel)function; }

typedef struct {
    void (*body)(const void *, int64_t);
    const void *job;
    int64_t parts;
    _Atomic int64_t next;
} team;

static void take_parts(void *shared) {
    team *t = shared;
    for (int64_t part; (part = atomic_fetch_add(&t->next, 1)) < t->parts;) t->body(t->job, part);
}

static void *take_parts_in_thread(void *shared) { return take_parts(shared), NULL; }

static void share(void (*body)(const void *, int64_t), const void *job, int64_t parts, int64_t threads) {
    team t = {body, job, parts, 0};
    if (threads > parts) threads = parts;
    if (threads < 2) {
        take_parts(&t);
    } else if (openmp) {
        openmp(take_parts, &t, (unsigned)threads, 0);
    } else {
        pthread_t others[256];
        int64_t started = 0;
        while (started < threads - 1 && started < 256 && !pthread_create(&others[started], NULL, take_parts_in_thread, &t))
            started++;
        take_parts(&t);
        for (int64_t i = 0; i < started; i++) pthread_join(others[i], NULL);
    }
}

/* -------------------------------------------------------------------------------------------------------- job */

typedef struct {
    tensor input, offset, mask, output, grad_input, grad_offset, grad_mask; /* mask.data may be NULL: all ones */
    real *packed;       /* [images][groups][H + 3][W + 2][cp], see above */
    real *grad_packed;  /* backward: [owners][groups][H + 3][W + 2][cp] */
    const real *panels; /* weights as panels of 2 vectors of outputs (forward) or 3 of columns (backward), zero padded */
    const real *bias;   /* [outputs rounded up], forward */
    real *grad_weight;  /* backward: [threads][outputs rounded up to 8][columns rounded up to 3 vectors] */
    real *scratch;      /* [parts][scratch_size] */
    int64_t scratch_size;
    int64_t images, groups, group_channels, cp; /* cp: group_channels rounded up to 4 */
    int64_t height, width, out_height, out_width, outputs;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    int64_t block, parts, threads, bands; /* positions per block; parts of the work; bands > 1: one image shared by threads */
    int64_t image;                        /* the image being shared, when bands > 1 */
    int64_t need_input, need_sampling, need_weight;
} job;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
INLINE int64_t taps_of(const job *j) { return j->groups * j->kernel_h * j->kernel_w; }
INLINE int64_t packed_size(const job *j) { return j->groups * (j->height + 3) * (j->width + 2) * j->cp; }

static void pack_plane(const void *shared, int64_t part) { /* one deform group of one image */
    const job *j = shared;
    int64_t n = part / j->groups, g = part % j->groups, row = (j->width + 2) * j->cp;
    real *plane = j->packed + part * (j->height + 3) * row;
    memset(plane, 0, sizeof(real) * row);
    memset(plane + (j->height + 1) * row, 0, sizeof(real) * 2 * row);
    for (int64_t y = 0; y < j->height; y++) {
        real *to = plane + (y + 1) * row;
        int64_t at = n * j->input.n + g * j->group_channels * j->input.c + y * j->input.h;
        if (j->group_channels < j->cp) memset(to, 0, sizeof(real) * row);
        else memset(to, 0, sizeof(real) * j->cp), memset(to + row - j->cp, 0, sizeof(real) * j->cp);
        if (j->group_channels == 4) load(to + j->cp, 4, 1, &j->input, at, j->input.w, j->input.c, j->width, 4);
        else load(to + j->cp, j->cp, 1, &j->input, at, j->input.w, j->input.c, j->width, j->group_channels);
    }
}

/* ------------------------------------------------------------------------------------------------------- plan */

/* Where to sample for one output position: filled for all taps at once, used by every channel. */
typedef struct {
    int32_t *index;                /* [taps] pixel number of the upper left corner in the packed image */
    real *w00, *w01, *w10, *w11;   /* [taps] bilinear weights times the mask */
    real *mask, *ly, *lx;          /* [taps] the backward pass needs them apart */
    real *ky, *kx;                 /* [taps] place of the tap in the kernel, padding subtracted */
    int32_t *plane;                /* [taps] first pixel of the tap's deform group */
    real *offsets, *masks;         /* [block][2 * taps] and [block][taps], converted */
} plan;

static real *lay_out(plan *p, const job *j, real *at) { /* carves the plan out of scratch memory; returns what is left */
    int64_t taps = round_up(taps_of(j), 16), kernel = j->kernel_h * j->kernel_w;
    real **fields[] = {&p->w00, &p->w01, &p->w10, &p->w11, &p->mask, &p->ly, &p->lx, &p->ky, &p->kx};
    p->index = (int32_t *)at, at += taps;
    p->plane = (int32_t *)at, at += taps;
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) *fields[f] = at, at += taps;
    p->offsets = at, at += j->block * 2 * taps_of(j);
    p->masks = at, at += j->block * taps_of(j);
    for (int64_t t = 0; t < taps_of(j); t++) {
        int64_t k = t % kernel;
        p->ky[t] = (real)(k / j->kernel_w * j->dilation_h - j->padding_h);
        p->kx[t] = (real)(k % j->kernel_w * j->dilation_w - j->padding_w);
        p->plane[t] = (int32_t)(t / kernel * (j->height + 3) * (j->width + 2));
    }
    if (!j->mask.data)
        for (int64_t i = 0; i < j->block * taps_of(j); i++) p->masks[i] = 1;
    return (real *)(((uintptr_t)at + 63) & ~(uintptr_t)63);
}

static void load_offsets(plan *p, const job *j, int64_t n, int64_t first, int64_t count) {
    int64_t taps = taps_of(j);
    const tensor *o = &j->offset, *m = &j->mask;
    load(p->offsets, 2 * taps, 1, o, n * o->n + first * o->w, o->w, o->c, count, 2 * taps);
    if (m->data) load(p->masks, taps, 1, m, n * m->n + first * m->w, m->w, m->c, count, taps);
}

static void make_plan(const plan *p, const job *j, int64_t local, int64_t position) {
    const real y0 = (real)(position / j->out_width * j->stride_h), x0 = (real)(position % j->out_width * j->stride_w);
    const real bottom = (real)(j->height - 1), right = (real)(j->width - 1);
    const int32_t pitch = (int32_t)(j->width + 2), nothing = (int32_t)((j->height + 1) * (j->width + 2));
    const int64_t taps = taps_of(j);
    const real *restrict offset = p->offsets + local * 2 * taps, *restrict given = p->masks + local * taps;
    const real *restrict ky = p->ky, *restrict kx = p->kx;
    const int32_t *restrict plane = p->plane;
    int32_t *restrict index = p->index;
    real *restrict w00 = p->w00, *restrict w01 = p->w01, *restrict w10 = p->w10, *restrict w11 = p->w11;
    real *restrict mask = p->mask, *restrict ly = p->ly, *restrict lx = p->lx;
#pragma GCC ivdep /* the arrays of a plan do not overlap */
    for (int64_t t = 0; t < taps; t++) {
        real y = y0 + ky[t] + offset[2 * t], x = x0 + kx[t] + offset[2 * t + 1];
        real fy = FLOOR(y), fx = FLOOR(x);
        int inside = (fy >= -1) & (fy <= bottom) & (fx >= -1) & (fx <= right); /* false for infinities and NaN */
        int undefined = (y != y) | (x != x);
        real a = inside ? y - fy : 0, b = inside ? x - fx : 0;
        real m = inside ? given[t] : undefined ? (real)NAN : 0; /* a NaN must not be hidden */
        int32_t row = (int32_t)(inside ? fy + 1 : 0), column = (int32_t)(inside ? fx + 1 : 0);
        index[t] = plane[t] + (inside ? row * pitch + column : nothing);
        mask[t] = m, ly[t] = a, lx[t] = b;
        w00[t] = (1 - a) * (1 - b) * m, w01[t] = (1 - a) * b * m;
        w10[t] = a * (1 - b) * m, w11[t] = a * b * m;
    }
}

/* --------------------------------------------------------------------------------------------------- sampling */

#define SAMPLE(V)                                                                                                     \
    INLINE void sample_##V(real *restrict column, const plan *p, const real *restrict image, int64_t taps,            \
                           int64_t pitch, const int64_t cp) {                                                         \
        const plan q = *p; /* a local copy: the stores below could otherwise be taken to change it */                \
        for (int64_t t = 0; t < taps; t++, column += cp) {                                                            \
            const real *upper = image + (ptrdiff_t)q.index[t] * cp, *lower = upper + pitch * cp;                      \
            const real w00 = q.w00[t], w01 = q.w01[t], w10 = q.w10[t], w11 = q.w11[t];                                \
            for (int64_t c = 0; c < cp; c += (int64_t)(sizeof(V) / sizeof(real)))                                     \
                *(V *)(column + c) = w00 * *(const V *)(upper + c) + w01 * *(const V *)(upper + cp + c) +             \
                                     w10 * *(const V *)(lower + c) + w11 * *(const V *)(lower + cp + c);              \
        }                                                                                                             \
    }
SAMPLE(quad)
SAMPLE(oct)
SAMPLE(hex)

static void sample(real *column, const plan *p, const real *image, const job *j) {
    int64_t taps = taps_of(j), pitch = j->width + 2;
    if (j->cp == 4) sample_quad(column, p, image, taps, pitch, 4);
    else if (j->cp == 8) sample_oct(column, p, image, taps, pitch, 8);
    else if (j->cp == 16) sample_hex(column, p, image, taps, pitch, 16);
    else if (j->cp % 16 == 0) sample_hex(column, p, image, taps, pitch, j->cp);
    else sample_quad(column, p, image, taps, pitch, j->cp);
}

/* The sums over lanes of four vectors, as one quad. */
INLINE quad sums_quad(quad a, quad b, quad c, quad d) {
    quad ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
    quad cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}
#define HALVES4(v) (__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7))
#define HALVES8(v)                                                                                                    \
    (__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15))
INLINE quad sums_oct(oct a, oct b, oct c, oct d) { return sums_quad(HALVES4(a), HALVES4(b), HALVES4(c), HALVES4(d)); }
INLINE quad sums_hex(hex a, hex b, hex c, hex d) { return sums_oct(HALVES8(a), HALVES8(b), HALVES8(c), HALVES8(d)); }

/* One position of the backward pass: columns (if wanted), the dot product of the column gradient with each corner, and the scatter. */
#define GATHER_AND_SCATTER(V)                                                                                         \
    INLINE void gather_and_scatter_##V(real *restrict column, real *restrict dots, const real *restrict grad_column,  \
                                       const plan *p, const real *restrict image, real *restrict grad_image,          \
                                       int64_t taps, int64_t pitch, const int64_t cp) {                               \
        const plan q = *p;                                                                                            \
        for (int64_t t = 0; t < taps; t++, column += cp, grad_column += cp) {                                         \
            const ptrdiff_t at = (ptrdiff_t)q.index[t] * cp;                                                          \
            const real *upper = image + at, *lower = upper + pitch * cp;                                              \
            real *grad_upper = grad_image + at, *grad_lower = grad_upper + pitch * cp;                                \
            const real w00 = q.w00[t], w01 = q.w01[t], w10 = q.w10[t], w11 = q.w11[t];                                \
            V d00 = {0}, d01 = {0}, d10 = {0}, d11 = {0};                                                             \
            for (int64_t c = 0; c < cp; c += (int64_t)(sizeof(V) / sizeof(real))) {                                   \
                V g = *(const V *)(grad_column + c);                                                                  \
                V v00 = *(const V *)(upper + c), v01 = *(const V *)(upper + cp + c);                                  \
                V v10 = *(const V *)(lower + c), v11 = *(const V *)(lower + cp + c);                                  \
                *(V *)(column + c) = w00 * v00 + w01 * v01 + w10 * v10 + w11 * v11;                                   \
                d00 += g * v00, d01 += g * v01, d10 += g * v10, d11 += g * v11;                                       \
                *(V *)(grad_upper + c) += w00 * g, *(V *)(grad_upper + cp + c) += w01 * g;                            \
                *(V *)(grad_lower + c) += w10 * g, *(V *)(grad_lower + cp + c) += w11 * g;                            \
            }                                                                                                         \
            *(quad *)(dots + 4 * t) = sums_##V(d00, d01, d10, d11);                                                   \
        }                                                                                                             \
    }
GATHER_AND_SCATTER(quad)
GATHER_AND_SCATTER(oct)
GATHER_AND_SCATTER(hex)

static void gather_and_scatter(real *column, real *dots, const real *grad_column, const plan *p, const real *image,
                               real *grad_image, const job *j) {
    int64_t taps = taps_of(j), pitch = j->width + 2;
    if (j->cp == 4) gather_and_scatter_quad(column, dots, grad_column, p, image, grad_image, taps, pitch, 4);
    else if (j->cp == 8) gather_and_scatter_oct(column, dots, grad_column, p, image, grad_image, taps, pitch, 8);
    else if (j->cp == 16) gather_and_scatter_hex(column, dots, grad_column, p, image, grad_image, taps, pitch, 16);
    else if (j->cp % 16 == 0) gather_and_scatter_hex(column, dots, grad_column, p, image, grad_image, taps, pitch, j->cp);
    else gather_and_scatter_quad(column, dots, grad_column, p, image, grad_image, taps, pitch, j->cp);
}

static void gradients_of_sampling(real *restrict grad_offset, real *restrict grad_mask, const real *restrict dots,
                                  const plan *p, int64_t taps) {
    const real *restrict mask = p->mask, *restrict ly = p->ly, *restrict lx = p->lx;
#pragma GCC ivdep
    for (int64_t t = 0; t < taps; t++) {
        real d00 = dots[4 * t], d01 = dots[4 * t + 1], d10 = dots[4 * t + 2], d11 = dots[4 * t + 3], a = ly[t], b = lx[t];
        real upper = d00 + b * (d01 - d00), lower = d10 + b * (d11 - d10);
        grad_mask[t] = upper + a * (lower - upper);
        grad_offset[2 * t] = mask[t] * (lower - upper);
        grad_offset[2 * t + 1] = mask[t] * ((d01 - d00) + a * ((d11 - d10) - (d01 - d00)));
    }
}

/* ---------------------------------------------------------------------------------------------- matrix product */

/* tile[ROWS][VECTORS] (+)= sum over k of a[row, k] * b[k, VECTORS * LANES], held in registers. */
#define PRODUCT(ROWS, VECTORS, STEP_ROW, STEP_K)                                                                      \
    for (int64_t k = 0; k < depth; k++, b += b_pitch) {                                                               \
        vec right[VECTORS];                                                                                           \
        _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) right[v] = *(const vec *)(b + v * LANES);           \
        _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) {                                                     \
            real left = a[r * (STEP_ROW) + k * (STEP_K)];                                                             \
            _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) tile[r][v] += left * right[v];                  \
        }                                                                                                             \
    }

static void rows12(real *restrict out, int64_t out_pitch, const real *restrict a, int64_t a_pitch, const real *restrict b,
                   int64_t depth, const real *restrict start) {
    enum { b_pitch = 2 * LANES };
    vec tile[12][2];
    for (int r = 0; r < 12; r++)
        for (int v = 0; v < 2; v++) tile[r][v] = *(const vec *)(start + v * LANES);
    PRODUCT(12, 2, a_pitch, 1)
    for (int r = 0; r < 12; r++)
        for (int v = 0; v < 2; v++) *(vec *)(out + r * out_pitch + v * LANES) = tile[r][v];
}

static void rows8(real *restrict out, int64_t out_pitch, const real *restrict a, int64_t a_pitch, const real *restrict b,
                  int64_t depth) {
    enum { b_pitch = 3 * LANES };
    vec tile[8][3];
    memset(tile, 0, sizeof tile);
    PRODUCT(8, 3, a_pitch, 1)
    for (int r = 0; r < 8; r++)
        for (int v = 0; v < 3; v++) *(vec *)(out + r * out_pitch + v * LANES) = tile[r][v];
}

static void accumulate8(real *restrict out, int64_t out_pitch, const real *restrict a, int64_t a_pitch,
                        const real *restrict b, int64_t b_pitch, int64_t depth) { /* out += transposed a times b */
    vec tile[8][3];
    for (int r = 0; r < 8; r++)
        for (int v = 0; v < 3; v++) tile[r][v] = *(vec *)(out + r * out_pitch + v * LANES);
    PRODUCT(8, 3, 1, a_pitch)
    for (int r = 0; r < 8; r++)
        for (int v = 0; v < 3; v++) *(vec *)(out + r * out_pitch + v * LANES) = tile[r][v];
}

/* ---------------------------------------------------------------------------------------------------- forward */

static void forward_part(const void *shared, int64_t part) {
    const job *j = shared;
    const int64_t positions = j->out_height * j->out_width, taps = taps_of(j), columns = taps * j->cp;
    const int64_t per_image = (positions + j->block - 1) / j->block, blocks = j->images * per_image;
    const int64_t wide = round_up(j->outputs, 2 * LANES);
    plan p;
    real *column = lay_out(&p, j, j->scratch + part * j->scratch_size);
    real *out = column + j->block * columns; /* [block][wide] */
    for (int64_t b = part * blocks / j->parts; b < (part + 1) * blocks / j->parts; b++) {
        const int64_t n = b / per_image, first = b % per_image * j->block, count = least(j->block, positions - first);
        const real *image = j->packed + n * packed_size(j);
        load_offsets(&p, j, n, first, count);
        for (int64_t i = 0; i < count; i++) {
            make_plan(&p, j, i, first + i);
            sample(column + i * columns, &p, image, j);
        }
        for (int64_t o = 0; o < wide; o += 2 * LANES)
            for (int64_t i = 0; i < count; i += 12) /* the block is a multiple of 12; rows past count are never stored */
                rows12(out + i * wide + o, wide, column + i * columns, columns, j->panels + o * columns, columns, j->bias + o);
        const tensor *t = &j->output;
        store(t, n * t->n + first * t->w, t->w, t->c, out, wide, 1, count, j->outputs);
    }
}

void forward(const job *j) {
    share(pack_plane, j, j->images * j->groups, j->threads);
    share(forward_part, j, j->parts, j->threads);
}

/* --------------------------------------------------------------------------------------------------- backward */

static void backward_blocks(const job *j, int64_t n, int64_t from, int64_t to, real *grad_image, real *grad_weight,
                            real *scratch) {
    const int64_t positions = j->out_height * j->out_width, taps = taps_of(j), columns = taps * j->cp;
    const int64_t pitch = round_up(columns, 3 * LANES), tall = round_up(j->outputs, 8);
    const real *image = j->packed + n * packed_size(j);
    plan p;
    real *column = lay_out(&p, j, scratch);
    real *grad_column = column + j->block * pitch, *grad_out = grad_column + j->block * pitch;
    real *dots = grad_out + j->block * tall, *grad_offset = dots + 4 * taps, *grad_mask = grad_offset + j->block * 2 * taps;
    for (int64_t i = 0; i < j->block; i++) {
        memset(column + i * pitch + columns, 0, sizeof(real) * (pitch - columns));
        memset(grad_out + i * tall, 0, sizeof(real) * tall);
    }
    for (int64_t first = from; first < to; first += j->block) {
        const int64_t count = least(j->block, to - first);
        const tensor *t = &j->output; /* here: the gradient of the output */
        load(grad_out, tall, 1, t, n * t->n + first * t->w, t->w, t->c, count, j->outputs);
        load_offsets(&p, j, n, first, count);
        for (int64_t k = 0; k < pitch; k += 3 * LANES)
            for (int64_t i = 0; i < count; i += 8)
                rows8(grad_column + i * pitch + k, pitch, grad_out + i * tall, tall, j->panels + k * j->outputs, j->outputs);
        for (int64_t i = 0; i < count; i++) {
            make_plan(&p, j, i, first + i);
            gather_and_scatter(column + i * pitch, dots, grad_column + i * pitch, &p, image, grad_image, j);
            gradients_of_sampling(grad_offset + i * 2 * taps, grad_mask + i * taps, dots, &p, taps);
        }
        if (j->need_sampling) {
            const tensor *o = &j->grad_offset, *m = &j->grad_mask;
            store(o, n * o->n + first * o->w, o->w, o->c, grad_offset, 2 * taps, 1, count, 2 * taps);
            if (m->data) store(m, n * m->n + first * m->w, m->w, m->c, grad_mask, taps, 1, count, taps);
        }
        if (j->need_weight)
            for (int64_t k = 0; k < pitch; k += 3 * LANES)
                for (int64_t o = 0; o < tall; o += 8)
                    accumulate8(grad_weight + o * pitch + k, pitch, grad_out + o, tall, column + k, pitch, count);
    }
    (void)positions;
}

INLINE real *grad_weight_of(const job *j, int64_t part) {
    return j->grad_weight + part * round_up(j->outputs, 8) * round_up(taps_of(j) * j->cp, 3 * LANES);
}

static void unpack_plane(const job *j, int64_t n, int64_t g, const real *plane) {
    const tensor *t = &j->grad_input;
    for (int64_t y = 0; y < j->height; y++)
        store(t, n * t->n + g * j->group_channels * t->c + y * t->h, t->w, t->c,
              plane + ((y + 1) * (j->width + 2) + 1) * j->cp, j->cp, 1, j->width, j->group_channels);
}

static void backward_images(const void *shared, int64_t part) { /* a range of whole images */
    const job *j = shared;
    real *grad_image = j->grad_packed + part * packed_size(j);
    for (int64_t n = part * j->images / j->parts; n < (part + 1) * j->images / j->parts; n++) {
        memset(grad_image, 0, sizeof(real) * packed_size(j));
        backward_blocks(j, n, 0, j->out_height * j->out_width, grad_image, grad_weight_of(j, part),
                        j->scratch + part * j->scratch_size);
        if (j->need_input)
            for (int64_t g = 0; g < j->groups; g++) unpack_plane(j, n, g, grad_image + g * packed_size(j) / j->groups);
    }
}

static void backward_band(const void *shared, int64_t part) { /* a range of positions of one image */
    const job *j = shared;
    const int64_t positions = j->out_height * j->out_width;
    real *grad_image = j->grad_packed + part * packed_size(j);
    memset(grad_image, 0, sizeof(real) * packed_size(j));
    backward_blocks(j, j->image, part * positions / j->parts, (part + 1) * positions / j->parts, grad_image,
                    grad_weight_of(j, part), j->scratch + part * j->scratch_size);
}

static void add_bands(const void *shared, int64_t g) { /* always in the same order */
    const job *j = shared;
    const int64_t plane = packed_size(j) / j->groups;
    real *sum = j->grad_packed + g * plane;
    for (int64_t part = 1; part < j->parts; part++) {
        const real *more = j->grad_packed + part * packed_size(j) + g * plane;
        for (int64_t i = 0; i < plane; i++) sum[i] += more[i];
    }
    unpack_plane(j, j->image, g, sum);
}

void backward(job *j) {
    share(pack_plane, j, j->images * j->groups, j->threads);
    if (j->bands == 1) {
        share(backward_images, j, j->parts, j->threads);
        return;
    }
    for (j->image = 0; j->image < j->images; j->image++) {
        share(backward_band, j, j->parts, j->threads);
        if (j->need_input) share(add_bands, j, j->groups, j->threads);
    }
}
