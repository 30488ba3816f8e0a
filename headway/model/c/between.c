/* What lies between matrix products, and its gradients: RMS norm, rotary turns, the SiLU gate; float32, one pass over memory each, where
   PyTorch takes several. Nothing is checked here: the callers do. */

#include "lanes.h"

#define FEW 32768 /* numbers that are not worth a second thread */

/* out = x / sqrt(mean x^2 + eps) * (offset + weight), for rows x [rows, width] that lie `stride` floats apart. */
void headway_rms_norm(int64_t rows, int64_t width, int64_t stride, float offset, float eps, const float *x, const float *weight,
                      float *out) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * stride;
        float *to = out + row * width, total = 0.0f;
        for (int64_t i = 0; i < width; i++) total += from[i] * from[i];
        float scale = 1.0f / __builtin_sqrtf(total / width + eps);
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * (offset + weight[i]);
    }
}

/* The gradients of that: of x into dx [rows, width], of the weight into parts [chunks of ROWS rows, width], whose sum it is. Sums go by
   chunks, not by threads, so that their last bits do not depend on how many there are. `grad` [rows, width] is that of out. */
#define ROWS 64
void headway_rms_norm_backward(int64_t rows, int64_t width, int64_t stride, float offset, float eps, const float *x,
                               const float *weight, const float *grad, float *dx, float *parts) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t chunk = 0; chunk < (rows + ROWS - 1) / ROWS; chunk++) {
        float *part = parts + chunk * width;
        memset(part, 0, width * sizeof(float));
        for (int64_t row = chunk * ROWS; row < rows && row < (chunk + 1) * ROWS; row++) {
            const float *from = x + row * stride, *g = grad + row * width;
            float *to = dx + row * width, total = 0.0f, dot = 0.0f;
            for (int64_t i = 0; i < width; i++) total += from[i] * from[i], dot += g[i] * (offset + weight[i]) * from[i];
            float scale = 1.0f / __builtin_sqrtf(total / width + eps), back = dot * scale * scale * scale / width;
            for (int64_t i = 0; i < width; i++) {
                to[i] = g[i] * (offset + weight[i]) * scale - from[i] * back;
                part[i] += g[i] * from[i] * scale;
            }
        }
    }
}

/* to = the first `dims` of each head turned by cos and sin [rows, dims], halves paired, and the rest as it is; `sign` -1 turns back.
   x and out [rows, heads, width], whose rows lie `stride` and `out_stride` floats apart; they may be the same. */
void headway_rotate(int64_t rows, int64_t heads, int64_t width, int64_t stride, int64_t out_stride, int64_t dims, float sign,
                    const float *cos, const float *sin, const float *x, float *out) {
    int64_t half = dims / 2;
#pragma omp parallel for if (rows * heads * dims > FEW)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            const float *from = x + row * stride + head * width, *c = cos + row * dims, *s = sin + row * dims;
            float *to = out + row * out_stride + head * width;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float low = from[i], high = from[i + half];
                to[i] = low * c[i] - high * sign * s[i];
                to[i + half] = high * c[i + half] + low * sign * s[i + half];
            }
            if (to != from) memcpy(to + dims, from + dims, (width - dims) * sizeof(float));
        }
}

/* out = silu(gate) * up, for both [rows, width] = the halves of each row of gate_up. */
void headway_gate(int64_t rows, int64_t width, const float *gate_up, float *out) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * width, *up = gate + width;
        float *to = out + row * width;
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) {
            Lanes x = load(gate + i), e = negative_exp(choose(x < 0.0f, x, -x)); /* e^-|x| */
            save(to + i, x * choose(x < 0.0f, e, all(1.0f)) / (1.0f + e) * load(up + i));
        }
        for (; i < width; i++) {
            Lanes e = negative_exp(all(gate[i] < 0.0f ? gate[i] : -gate[i]));
            to[i] = gate[i] * (gate[i] < 0.0f ? e[0] : 1.0f) / (1.0f + e[0]) * up[i];
        }
    }
}

/* The gradients of gate and up, [rows, 2 width], from that of out, [rows, width]. */
void headway_gate_backward(int64_t rows, int64_t width, const float *gate_up, const float *grad, float *d_gate_up) {
#pragma omp parallel for if (rows * width > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * width, *up = gate + width, *g = grad + row * width;
        float *d_gate = d_gate_up + row * 2 * width, *d_up = d_gate + width;
        for (int64_t i = 0; i < width; i += LANES) {
            int64_t left = width - i < LANES ? width - i : LANES;
            Lanes x = {0}, u = {0}, dy = {0};
            if (left == LANES) x = load(gate + i), u = load(up + i), dy = load(g + i);
            else memcpy(&x, gate + i, left * sizeof(float)), memcpy(&u, up + i, left * sizeof(float)),
                    memcpy(&dy, g + i, left * sizeof(float));
            Lanes e = negative_exp(choose(x < 0.0f, x, -x)), s = choose(x < 0.0f, e, all(1.0f)) / (1.0f + e); /* the sigmoid */
            Lanes a = dy * u * s * (1.0f + x * (1.0f - s)), b = dy * x * s;
            if (left == LANES) save(d_gate + i, a), save(d_up + i, b);
            else memcpy(d_gate + i, &a, left * sizeof(float)), memcpy(d_up + i, &b, left * sizeof(float));
        }
    }
}
