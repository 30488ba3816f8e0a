/* Products of few rows (headway_few_rows): y[r] = x[r] W^T + bias + residual[r], W [out, in] float32 as it lies, up to FEW_ROWS rows.

   Such a product takes the time in which W is read. Each row of W is read once, along memory, and multiplied with all rows of x, four
   rows of W at a time so that sums need not wait for one another. An output is one thread's, and does not depend on how many there
   are. Nothing is checked here: the callers do. */

#include "lanes.h"

#define FEW_ROWS 3 /* as in kernel.py; with more, laid out for oneDNN is faster */
#define TOGETHER 4  /* rows of W */
#define SHARE 64    /* of outputs, which one thread computes before it takes another */
#define AHEAD 512   /* floats: how far ahead W is fetched */

/* sums[r][o] = x[r] W[o] for some rows of W. */
INLINE void multiply(const int rows, const int outs, const float *x, int64_t stride, const float *w, int64_t in,
                     float sums[FEW_ROWS][TOGETHER]) {
    Lanes s[FEW_ROWS][TOGETHER];
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++) s[r][o] = all(0.0f);
    int64_t k = 0;
    for (; k + LANES <= in; k += LANES)
        for (int o = 0; o < outs; o++) {
            FETCH(w + o * in + k + AHEAD);
            Lanes v = load(w + o * in + k);
            for (int r = 0; r < rows; r++) s[r][o] += v * load(x + r * stride + k);
        }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++) {
            sums[r][o] = sum_of(s[r][o]);
            for (int64_t i = k; i < in; i++) sums[r][o] += w[o * in + i] * x[r * stride + i];
        }
}

INLINE void share(const int rows, int64_t in, int64_t out, const float *x, int64_t x_stride, const float *w, const float *bias,
                  const float *residual, int64_t residual_stride, float *y, int64_t from, int64_t to) {
    for (int64_t o = from; o < to; o += TOGETHER) {
        float sums[FEW_ROWS][TOGETHER], one[FEW_ROWS][TOGETHER];
        int outs = to - o < TOGETHER ? (int)(to - o) : TOGETHER;
        if (outs == TOGETHER) multiply(rows, TOGETHER, x, x_stride, w + o * in, in, sums);
        for (int i = 0; outs < TOGETHER && i < outs; i++) {
            multiply(rows, 1, x, x_stride, w + (o + i) * in, in, one);
            for (int r = 0; r < rows; r++) sums[r][i] = one[r][0];
        }
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < outs; i++) {
                float found = sums[r][i] + (bias ? bias[o + i] : 0.0f);
                y[r * out + o + i] = residual ? found + residual[r * residual_stride + o + i] : found;
            }
    }
}

void headway_few_rows(int64_t rows, int64_t in, int64_t out, const float *x, int64_t x_stride, const float *w, const float *bias,
                      const float *residual, int64_t residual_stride, float *y) {
#pragma omp parallel for schedule(static)
    for (int64_t from = 0; from < out; from += SHARE) {
        int64_t to = from + SHARE < out ? from + SHARE : out;
        if (rows == 1) share(1, in, out, x, x_stride, w, bias, residual, residual_stride, y, from, to);
        if (rows == 2) share(2, in, out, x, x_stride, w, bias, residual, residual_stride, y, from, to);
        if (rows == 3) share(3, in, out, x, x_stride, w, bias, residual, residual_stride, y, from, to);
    }
}
