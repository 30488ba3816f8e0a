/* Vectors of float32, and what their lanes add up to. A machine whose vectors are narrower uses several. */

#pragma once
#include <stdint.h>
#include <string.h>

#define LANES 16 /* of a vector */
#define INLINE static inline __attribute__((always_inline))
#define FETCH(from) __builtin_prefetch(from, 0, 2) /* into the second cache, which waits for more lines at once than the first */
#define HIDDEN -3.0e38f /* the score of a token that is not seen */

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

static inline Lanes load(const float *from) {
    Lanes x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void save(float *to, Lanes x) { memcpy(to, &x, sizeof x); }

static inline Lanes all(float x) { return x - (Lanes){0}; }

/* a where the mask is set (all bits of a lane), b elsewhere */
static inline Lanes choose(Whole mask, Lanes a, Lanes b) { return (Lanes)((mask & (Whole)a) | (~mask & (Whole)b)); }

static inline Lanes higher(Lanes a, Lanes b) { return choose(a > b, a, b); }

/* e^x for x <= 0, to 2e-7: 2^n by the exponent bits, 2^f by a polynomial; 0 below -87. */
static inline Lanes negative_exp(Lanes x) {
    Lanes y = higher(x * 1.44269504088896341f, all(-126.0f));
    Whole n = __builtin_convertvector(y - 0.5f, Whole); /* y <= 0, and conversion cuts: the nearest whole number */
    Lanes f = y - __builtin_convertvector(n, Lanes);
    Lanes p = all(1.535336188319500e-4f);
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    return choose(x < -87.0f, all(0.0f), p * (Lanes)((n + 127) << 23));
}

/* The sum and the highest of a vector's lanes, in four steps. */
static inline float sum_of(Lanes x) {
    x += __builtin_shuffle(x, (Whole){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    x += __builtin_shuffle(x, (Whole){4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3});
    return (x[0] + x[1]) + (x[2] + x[3]);
}

static inline float most_of(Lanes x) {
    x = higher(x, __builtin_shuffle(x, (Whole){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    x = higher(x, __builtin_shuffle(x, (Whole){4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3}));
    float low = x[0] > x[1] ? x[0] : x[1], high = x[2] > x[3] ? x[2] : x[3];
    return low > high ? low : high;
}
