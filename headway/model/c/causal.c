/* Causal attention inside documents, and its gradients, for training, scoring and prefill, float32.

   A document's tokens are `index[starts[j]] .. index[starts[j + 1] - 1]`, rows of q [tokens, heads, dim], k and v [tokens, kv_heads,
   dim]; only its last `own[j]` ask (those before are a beginning that it shares with an earlier document). For a tile of TILE
   queries of one head, with the keys transposed:

       S = scale Q K,   P = e^(S - lse),   out = P V                                   lse = log of the sum of e^S, kept for the gradients
       dV = P' dO,   dS = P (dO V' - (dO . out)),   dQ = scale dS K,   dK = scale dS' Q

   No tile of scores is ever wider than the document, and none is kept (FlashAttention's recomputation, Dao et al. 2022). Each task is
   one document and key/value head; sums go in the order of the tokens, whatever the number of threads. dim is a multiple of LANES. */

#include "lanes.h"
#include <stdlib.h>

#define TILE 8          /* queries at once */
#define STRIP (2 * LANES) /* keys, or dimensions, at once: TILE x 2 sums stay in registers */

/* to[TILE][columns] = rows[TILE][depth] from[depth][columns]; `columns` a multiple of STRIP. */
INLINE void multiply(const float *rows, int64_t row_stride, int64_t depth, const float *from, int64_t from_stride, int64_t columns,
                     float *to, int64_t to_stride, const int adds) {
    for (int64_t c = 0; c < columns; c += STRIP) {
        Lanes low[TILE], high[TILE];
        for (int r = 0; r < TILE; r++) {
            low[r] = adds ? load(to + r * to_stride + c) : all(0.0f);
            high[r] = adds ? load(to + r * to_stride + c + LANES) : all(0.0f);
        }
        for (int64_t i = 0; i < depth; i++) {
            Lanes a = load(from + i * from_stride + c), b = load(from + i * from_stride + c + LANES);
            for (int r = 0; r < TILE; r++) {
                float x = rows[r * row_stride + i];
                low[r] += x * a, high[r] += x * b;
            }
        }
        for (int r = 0; r < TILE; r++) save(to + r * to_stride + c, low[r]), save(to + r * to_stride + c + LANES, high[r]);
    }
}

/* to[i][columns] += sum over the tile's rows r of rows[r][i] from[r][columns], for i < depth. */
INLINE void multiply_transposed(const float *rows, int64_t row_stride, int64_t depth, const float *from, int64_t columns, float *to) {
    for (int64_t c = 0; c < columns; c += STRIP) {
        Lanes low[TILE], high[TILE];
        for (int r = 0; r < TILE; r++) low[r] = load(from + r * columns + c), high[r] = load(from + r * columns + c + LANES);
        for (int64_t i = 0; i < depth; i++) {
            Lanes a = load(to + i * columns + c), b = load(to + i * columns + c + LANES);
            for (int r = 0; r < TILE; r++) {
                float x = rows[r * row_stride + i];
                a += x * low[r], b += x * high[r];
            }
            save(to + i * columns + c, a), save(to + i * columns + c + LANES, b);
        }
    }
}

static inline int64_t padded(int64_t n) { return (n + STRIP - 1) / STRIP * STRIP; }

/* Rows of a document as [length][wide], zeros behind; and as [dim][length padded], where `turned` is not null. */
static void gather(const int64_t *index, int64_t length, int64_t stride, int dim, int64_t wide, const float *from, float *to,
                   float *turned) {
    int64_t columns = padded(length);
    for (int64_t t = 0; t < length; t++) {
        const float *row = from + index[t] * stride;
        memcpy(to + t * wide, row, dim * sizeof(float));
        memset(to + t * wide + dim, 0, (wide - dim) * sizeof(float));
    }
    if (!turned) return;
    for (int64_t t = 0; t < columns; t += LANES)
        for (int i = 0; i < dim; i++)
            for (int64_t j = t; j < t + LANES; j++) turned[i * columns + j] = j < length ? to[j * wide + i] : 0.0f;
}

/* The tile's queries begin at place `first` of the document: row r sees the keys 0 .. first + r. */
typedef struct {
    int64_t first, rows, seen, columns; /* keys that its last row sees; the same, padded */
} Tile;

static inline Tile tile_at(int64_t first, int64_t length) {
    int64_t rows = length - first < TILE ? length - first : TILE;
    return (Tile){first, rows, first + rows, padded(first + rows)};
}

/* Copy the tile's rows of x [tokens, heads, dim] for one head to [TILE][wide]; zeros for what is missing. */
static inline void take_rows(const int64_t *index, Tile tile, int64_t stride, int dim, int64_t wide, const float *x, float scale, float *to) {
    memset(to, 0, TILE * wide * sizeof(float));
    for (int64_t r = 0; r < tile.rows; r++) {
        const float *from = x + index[tile.first + r] * stride;
        for (int i = 0; i < dim; i++) to[r * wide + i] = from[i] * scale;
    }
}

/* Turn scores [TILE][stride] into weights in place, by the log-sum-exp, which is found first where `lse` is not given. */
static inline void soften(Tile tile, int64_t stride, float *scores, float *lse, const int is_known) {
    Lanes index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t r = 0; r < tile.rows; r++) {
        float *row = scores + r * stride;
        int64_t seen = tile.first + r + 1, whole = seen / LANES * LANES;
        if (whole < tile.columns) {
            Lanes at = index + (float)whole;
            save(row + whole, choose(at < (float)seen, load(row + whole), all(HIDDEN)));
            for (int64_t c = whole + LANES; c < tile.columns; c += LANES) save(row + c, all(HIDDEN));
        }
        if (is_known) {
            for (int64_t c = 0; c < tile.columns; c += LANES) save(row + c, negative_exp(load(row + c) - lse[r]));
            continue;
        }
        Lanes highest = all(HIDDEN), total = all(0.0f);
        for (int64_t c = 0; c < tile.columns; c += LANES) highest = higher(highest, load(row + c));
        float most = most_of(highest);
        for (int64_t c = 0; c < tile.columns; c += LANES) {
            Lanes weight = negative_exp(load(row + c) - most);
            save(row + c, weight);
            total += weight;
        }
        float sum = sum_of(total), share = 1.0f / sum;
        for (int64_t c = 0; c < tile.columns; c += LANES) save(row + c, load(row + c) * share);
        lse[r] = most + __builtin_logf(sum);
    }
    for (int64_t r = tile.rows; r < TILE; r++) memset(scores + r * stride, 0, tile.columns * sizeof(float));
}

/* out [tokens, heads, dim] and lse [tokens, heads]; returns 0, or 1 where memory ran out. */
int headway_causal(int64_t documents, int kv_heads, int group, int dim, float scale, const int64_t *index, const int64_t *starts,
                   const int64_t *own, const float *q, const float *k, const float *v, float *out, float *lse) {
    int failed = 0, heads = kv_heads * group;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < documents * kv_heads; task++) {
        int64_t j = task / kv_heads, kv = task % kv_heads, length = starts[j + 1] - starts[j], wide = padded(dim);
        const int64_t *tokens = index + starts[j];
        int64_t columns = padded(length), q_stride = (int64_t)heads * dim, kv_stride = (int64_t)kv_heads * dim;
        float *memory = malloc((length * 2 * wide + dim * columns + TILE * (2 * wide + columns)) * sizeof(float));
        if (!memory) {
            failed = 1;
            continue;
        }
        float *values = memory, *keys = values + length * wide, *turned = keys + length * wide;
        float *asked = turned + dim * columns, *found = asked + TILE * wide, *scores = found + TILE * wide;
        gather(tokens, length, kv_stride, dim, wide, k + kv * dim, keys, turned);
        gather(tokens, length, kv_stride, dim, wide, v + kv * dim, values, NULL);
        for (int64_t head = kv * group; head < (kv + 1) * group; head++)
            for (int64_t first = length - own[j]; first < length; first += TILE) {
                Tile tile = tile_at(first, length);
                float sums[TILE];
                take_rows(tokens, tile, q_stride, dim, wide, q + head * dim, scale, asked);
                multiply(asked, wide, dim, turned, columns, tile.columns, scores, columns, 0);
                soften(tile, columns, scores, sums, 0);
                multiply(scores, columns, tile.seen, values, wide, wide, found, wide, 0);
                for (int64_t r = 0; r < tile.rows; r++) {
                    memcpy(out + tokens[first + r] * q_stride + head * dim, found + r * wide, dim * sizeof(float));
                    lse[tokens[first + r] * heads + head] = sums[r];
                }
            }
        free(memory);
    }
    return failed;
}

/* The gradients: dq [tokens, heads, dim]; dk and dv by document, [index's length, kv_heads, dim], to be added up by the caller. */
int headway_causal_backward(int64_t documents, int kv_heads, int group, int dim, float scale, const int64_t *index,
                            const int64_t *starts, const int64_t *own, const float *q, const float *k, const float *v,
                            const float *out, const float *lse, const float *grad, float *dq, float *dk, float *dv) {
    int failed = 0, heads = kv_heads * group;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < documents * kv_heads; task++) {
        int64_t j = task / kv_heads, kv = task % kv_heads, length = starts[j + 1] - starts[j], wide = padded(dim);
        const int64_t *tokens = index + starts[j];
        int64_t columns = padded(length), q_stride = (int64_t)heads * dim, kv_stride = (int64_t)kv_heads * dim;
        int64_t tile_floats = TILE * (4 * wide + 2 * columns);
        float *memory = malloc((length * 4 * wide + 2 * dim * columns + tile_floats) * sizeof(float));
        if (!memory) {
            failed = 1;
            continue;
        }
        float *values = memory, *keys = values + length * wide, *d_values = keys + length * wide, *d_keys = d_values + length * wide;
        float *turned = d_keys + length * wide, *turned_values = turned + dim * columns;
        float *asked = turned_values + dim * columns, *d_out = asked + TILE * wide, *d_asked = d_out + TILE * wide;
        float *given = d_asked + TILE * wide, *weights = given + TILE * wide, *d_weights = weights + TILE * columns;
        gather(tokens, length, kv_stride, dim, wide, k + kv * dim, keys, turned);
        gather(tokens, length, kv_stride, dim, wide, v + kv * dim, values, turned_values);
        memset(d_values, 0, 2 * length * wide * sizeof(float));
        for (int64_t head = kv * group; head < (kv + 1) * group; head++)
            for (int64_t first = length - own[j]; first < length; first += TILE) {
                Tile tile = tile_at(first, length);
                float sums[TILE];
                take_rows(tokens, tile, q_stride, dim, wide, q + head * dim, scale, asked);
                take_rows(tokens, tile, q_stride, dim, wide, grad + head * dim, 1.0f, d_out);
                take_rows(tokens, tile, q_stride, dim, wide, out + head * dim, 1.0f, given);
                for (int64_t r = 0; r < tile.rows; r++) sums[r] = lse[tokens[first + r] * heads + head];
                multiply(asked, wide, dim, turned, columns, tile.columns, weights, columns, 0);
                soften(tile, columns, weights, sums, 1);
                multiply(d_out, wide, dim, turned_values, columns, tile.columns, d_weights, columns, 0);
                multiply_transposed(weights, columns, tile.seen, d_out, wide, d_values);
                for (int64_t r = 0; r < TILE; r++) {
                    Lanes total = all(0.0f);
                    for (int64_t i = 0; i < wide; i += LANES) total += load(d_out + r * wide + i) * load(given + r * wide + i);
                    float dot = sum_of(total);
                    for (int64_t c = r * columns; c < r * columns + tile.columns; c += LANES)
                        save(weights + c, load(weights + c) * (load(d_weights + c) - dot));
                }
                multiply(weights, columns, tile.seen, keys, wide, wide, d_asked, wide, 0);
                multiply_transposed(weights, columns, tile.seen, asked, wide, d_keys); /* asked holds the scale */
                for (int64_t r = 0; r < tile.rows; r++)
                    for (int i = 0; i < dim; i++)
                        dq[tokens[first + r] * q_stride + head * dim + i] = d_asked[r * wide + i] * scale;
            }
        for (int64_t t = 0; t < length; t++) {
            memcpy(dk + ((starts[j] + t) * kv_heads + kv) * dim, d_keys + t * wide, dim * sizeof(float));
            memcpy(dv + ((starts[j] + t) * kv_heads + kv) * dim, d_values + t * wide, dim * sizeof(float));
        }
        free(memory);
    }
    return failed;
}
