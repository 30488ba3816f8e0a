/* What lies between matrix products, float32.

   headway_rms_norm, headway_rotate, headway_gate, and their gradients: one pass over memory each, where PyTorch takes several.
   headway_attend: attention of one new token a sequence; keys and values are read once, from the blocks
   where they lie. For each sequence and key/value head: store the new token's key and value, then, span of blocks
   after span,
       s = scale q K,   m' = max(m, s),   o = o e^(m - m') + e^(s - m') V,   l = l e^(m - m') + sum e^(s - m')      (online softmax)
   and out = o / l. keys [blocks, kv_heads, head_dim, BLOCK], values [blocks, kv_heads, BLOCK, head_dim], float32.

   Compiled on the user's machine if it has a C compiler (kernel.py); where it has not, PyTorch computes the same. Nothing is checked
   here: the callers do. */

#include <stdint.h>
#include <string.h>

#define BLOCK 32 /* as in cache.py */
#define LANES 16 /* of a vector; a machine with narrower ones uses several */

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

typedef struct {
    const int64_t *blocks;  /* of all sequences, end to end */
    const int64_t *starts;  /* [sequences + 1]: where each sequence's begin */
    const int64_t *lengths; /* tokens that each has in them */
    float *keys, *values;
} Table;

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

#define HIDDEN -3.0e38f
#define SPAN 16 /* blocks whose scores are held at once */
#define HEADS 4 /* query heads that are taken at once */
#define FETCH(from) __builtin_prefetch(from, 0, 2) /* into the second cache, which waits for more lines at once than the first */
#define INLINE static inline __attribute__((always_inline))

/* Scores scale q[g] K of one block's tokens, of which skip .. count - 1 are seen, with SPAN blocks a row of scores; `most[g]` is raised
   to the highest, lane by lane. Fetches the block at `next` meanwhile. */
INLINE void score(const int heads, const float *q, int dim, float scale, const float *keys, const float *next, int64_t skip,
                  int64_t count, float *scores, Lanes *most) {
    Lanes s[HEADS][2], t[HEADS][2], index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int g = 0; g < heads; g++) s[g][0] = s[g][1] = t[g][0] = t[g][1] = all(0.0f);
    int i = 0;
    for (; i + 2 <= dim; i += 2) { /* two sums each: a multiplication need not wait for the one before */
        const float *at = keys + i * BLOCK;
        for (int part = 0; part < 2 * BLOCK; part += LANES) FETCH(next + i * BLOCK + part);
        for (int g = 0; g < heads; g++) {
            const float a = q[g * dim + i], b = q[g * dim + i + 1];
            s[g][0] += a * load(at), s[g][1] += a * load(at + LANES);
            t[g][0] += b * load(at + BLOCK), t[g][1] += b * load(at + BLOCK + LANES);
        }
    }
    for (; i < dim; i++)
        for (int g = 0; g < heads; g++)
            for (int half = 0; half < 2; half++) s[g][half] += q[g * dim + i] * load(keys + i * BLOCK + half * LANES);
    for (int g = 0; g < heads; g++)
        for (int half = 0; half < 2; half++) {
            Lanes x = (s[g][half] + t[g][half]) * scale;
            if (skip > 0 || count < BLOCK) {
                Lanes at = index + (float)(half * LANES);
                x = choose((at >= (float)skip) & (at < (float)count), x, all(HIDDEN));
            }
            most[g] = higher(most[g], x);
            save(scores + g * SPAN * BLOCK + half * LANES, x);
        }
}

/* out[g] += weights[g] V over the first `count` tokens of a span of blocks, for some `lanes` vectors of the dimensions. */
INLINE void weigh(const int heads, const int lanes, int dim, const float *values, const int64_t *at, int64_t count,
                  const float *weights, float *out) {
    Lanes sum[HEADS][4];
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < lanes; i++) sum[g][i] = load(out + g * dim + i * LANES);
    for (int64_t b = 0; b * BLOCK < count; b++) {
        const float *from = values + at[b], *next = values + ((b + 1) * BLOCK < count ? at[b + 1] : at[b]);
        int tokens = count - b * BLOCK < BLOCK ? (int)(count - b * BLOCK) : BLOCK;
        for (int p = 0; p < tokens; p++) {
            for (int i = 0; i < lanes; i++) {
                FETCH(next + p * dim + i * LANES);
                Lanes v = load(from + p * dim + i * LANES);
                for (int g = 0; g < heads; g++) sum[g][i] += weights[(g * SPAN + b) * BLOCK + p] * v;
            }
        }
    }
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < lanes; i++) save(out + g * dim + i * LANES, sum[g][i]);
}

/* Take a span of up to SPAN blocks, `at` these places, into the running sums of `heads` query heads. Its tokens skip .. count - 1
   are seen. */
INLINE void take(const int heads, const float *q, int dim, float scale, const float *keys, const float *values, const int64_t *at,
                 int64_t skip, int64_t count, float *most, float *sum, float *out) {
    float scores[HEADS * SPAN * BLOCK];
    Lanes highest[HEADS];
    for (int g = 0; g < heads; g++) highest[g] = all(HIDDEN);
    int64_t blocks = (count + BLOCK - 1) / BLOCK;
    for (int64_t b = 0; b < blocks; b++)
        score(heads, q, dim, scale, keys + at[b], b + 1 < blocks ? keys + at[b + 1] : values + at[0], skip - b * BLOCK,
              count - b * BLOCK, scores + b * BLOCK, highest);
    for (int g = 0; g < heads; g++) {
        float before = most[g], here = most_of(highest[g]);
        most[g] = here > before ? here : before;
        float *row = scores + g * SPAN * BLOCK;
        Lanes total = all(0.0f);
        for (int64_t p = 0; p < blocks * BLOCK; p += LANES) {
            Lanes weight = negative_exp(load(row + p) - most[g]);
            save(row + p, weight);
            total += weight;
        }
        float fade = before == HIDDEN ? 0.0f : negative_exp(all(before - most[g]))[0];
        sum[g] = sum[g] * fade + sum_of(total);
        if (before != HIDDEN && fade != 1.0f)
            for (int i = 0; i < dim; i++) out[g * dim + i] *= fade;
    }
    int i = 0;
    for (; i + 4 * LANES <= dim; i += 4 * LANES) weigh(heads, 4, dim, values + i, at, count, scores, out + i);
    for (; i + LANES <= dim; i += LANES) weigh(heads, 1, dim, values + i, at, count, scores, out + i);
    for (; i < dim; i++)
        for (int g = 0; g < heads; g++)
            for (int64_t p = 0; p < count; p++) out[g * dim + i] += scores[g * SPAN * BLOCK + p] * values[at[p / BLOCK] + p % BLOCK * dim + i];
}

/* The blocks of one table that a sequence reads, for `group` query heads of one key/value head. `first`: its first token's position. */
static void read_table(const Table *table, int64_t sequence, int64_t first, int64_t oldest, int kv_heads, int kv, int group, int dim,
                       float scale, const float *q, float *most, float *sum, float *out) {
    int64_t length = table->lengths[sequence], size = (int64_t)dim * BLOCK, at[SPAN];
    const int64_t *blocks = table->blocks + table->starts[sequence];
    int64_t unseen = oldest > first ? oldest - first : 0; /* tokens that the window has left behind */
    for (int64_t b = unseen / BLOCK; b * BLOCK < length; b += SPAN) {
        int64_t count = length - b * BLOCK < SPAN * BLOCK ? length - b * BLOCK : SPAN * BLOCK, skip = unseen - b * BLOCK;
        if (skip >= count) continue;
        for (int64_t i = 0; i * BLOCK < count; i++) at[i] = (blocks[b + i] * kv_heads + kv) * size;
        for (int g = 0; g < group; g += HEADS) {
            int heads = group - g < HEADS ? group - g : HEADS;
#define TAKE(n) take(n, q + g * dim, dim, scale, table->keys, table->values, at, skip, count, most + g, sum + g, out + g * dim)
            if (heads == 1) TAKE(1);
            else if (heads == 2) TAKE(2);
            else if (heads == 3) TAKE(3);
            else TAKE(4);
#undef TAKE
        }
    }
}

/* q [sequences, kv_heads * group, dim], new k and v [sequences, kv_heads, dim] with the given strides between sequences, in floats;
   `own.lengths` count the new token. window 0: everything is seen. out [sequences, kv_heads * group, dim]. */
void headway_attend(int64_t sequences, int kv_heads, int group, int dim, float scale, int64_t window, const Table *shared,
                    const Table *own, const float *q, int64_t q_stride, const float *k, int64_t k_stride, const float *v,
                    int64_t v_stride, float *result) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < sequences * kv_heads; task++) {
        int64_t sequence = task / kv_heads, size = (int64_t)dim * BLOCK;
        int kv = (int)(task % kv_heads);
        int64_t last = own->lengths[sequence] - 1, before = shared->lengths[sequence];
        int64_t at = (own->blocks[own->starts[sequence] + last / BLOCK] * kv_heads + kv) * size, place = last % BLOCK;
        for (int i = 0; i < dim; i++) own->keys[at + i * BLOCK + place] = k[sequence * k_stride + kv * dim + i];
        memcpy(own->values + at + place * dim, v + sequence * v_stride + kv * dim, dim * sizeof(float));
        int64_t oldest = window ? before + last + 1 - window : 0; /* the first position that is seen */
        float *out = result + (sequence * kv_heads + kv) * group * dim;
        const float *asked = q + sequence * q_stride + (int64_t)kv * group * dim;
        float most[64], sum[64];
        memset(out, 0, group * dim * sizeof(float));
        for (int g = 0; g < group; g++) most[g] = HIDDEN, sum[g] = 0.0f;
        read_table(shared, sequence, 0, oldest, kv_heads, kv, group, dim, scale, asked, most, sum, out);
        read_table(own, sequence, before, oldest, kv_heads, kv, group, dim, scale, asked, most, sum, out);
        for (int g = 0; g < group; g++)
            for (int i = 0; i < dim; i++) out[g * dim + i] /= sum[g];
    }
}

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
