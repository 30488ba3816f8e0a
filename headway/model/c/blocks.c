/* Attention of one new token a sequence (headway_attend): keys and values are read once, from the blocks of the cache where they lie.

   For each sequence and key/value head: store the new token's key and value, then, span of blocks after span,
       s = scale q K,   m' = max(m, s),   o = o e^(m - m') + e^(s - m') V,   l = l e^(m - m') + sum e^(s - m')      (online softmax)
   and out = o / l. keys [blocks, kv_heads, head_dim, BLOCK], values [blocks, kv_heads, BLOCK, head_dim], float32. Nothing is checked
   here: the callers do. */

#include "lanes.h"

#define BLOCK 32 /* as in cache.py */
#define SPAN 16  /* blocks whose scores are held at once */
#define HEADS 4  /* query heads that are taken at once */

typedef struct {
    const int64_t *blocks;  /* of all sequences, end to end */
    const int64_t *starts;  /* [sequences + 1]: where each sequence's begin */
    const int64_t *lengths; /* tokens that each has in them */
    float *keys, *values;
} Table;

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
