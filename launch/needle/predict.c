/* SPDX-License-Identifier: Apache-2.0 */
/* What each head can see of a needle, from the plan alone.
 *
 * Layer 0 of the constructed model writes into every token the ids that stood 1, 2 and 3 tokens
 * before it; layer 1 looks for the trigram. So a head of the last layer puts its mass on answer
 * token s, asked at row t, if and only if
 *
 *     it reads s at row t, and no lost rank keeps s's block       (last layer)
 *     t knows the ids at t-1, t-2                                 (layer 0: the query)
 *     s knows the ids at s-1, s-2, s-3                            (layer 0: the key)
 *
 * where a token knows the id j back when every head of layer 0 with offset j reads that token.
 * With a single id missing the match falls to (2 + 1/2) / 3 of its logit at most, below the null
 * token's 11/12, and the head rests on a null token instead. That is what a null is for: a head
 * without one would copy the most similar token with all its weight. BOS and <Q> are nulls, but a
 * head may see neither (a lost rank kept both, or a pattern without sink and with a one-block
 * window); predictor_plant then puts one where that head does look. */
#include "launch/needle/needle.h"

void predictor_init(predictor *v, const banyan_plan *plan)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    *v = (predictor){.plan = plan,
                     .layers = spec->layers,
                     .heads = spec->heads,
                     .kv_heads = spec->kv_heads,
                     .block_tokens = spec->block_tokens,
                     .lost_rank = spec->lost_rank,
                     .lost_layer = spec->lost_layer};
}

bool predictor_reads(const predictor *v, int32_t layer, int32_t head, int64_t row,
                     int64_t token)
{
    if (token < 0 || !banyan_plan_reads(v->plan, layer, head, row, token)) return false;
    if (v->lost_rank < 0 || (v->lost_layer >= 0 && v->lost_layer != layer)) return true;
    int32_t kv_head = head / (v->heads / v->kv_heads);
    return banyan_plan_owner(v->plan, layer, kv_head, token / v->block_tokens) != v->lost_rank;
}

bool predictor_knows(const predictor *v, int64_t token, int32_t back)
{
    for (int32_t h = 0; h < v->heads; h++) {
        int32_t offset = constructed_offset(h);
        if (offset <= back && !predictor_reads(v, 0, h, token, token - offset)) return false;
    }
    return true;
}

bool predictor_sees(const predictor *v, int32_t head, int64_t row, int64_t token)
{
    return predictor_reads(v, v->layers - 1, head, row, token) && predictor_knows(v, row, 2) &&
           predictor_knows(v, token, 3);
}

/* A null token that the head reads at `row`: of BOS, <Q>, and those planted from p->absents on. */
static bool has_null(const predictor *v, const prompt *p, int32_t head, int64_t row,
                     const int64_t *planted, int32_t count)
{
    int32_t layer = v->layers - 1;
    for (int64_t t = 0; t < NEEDLE_FIRST; t++)
        if (predictor_reads(v, layer, head, row, t)) return true;
    if (predictor_reads(v, layer, head, row, p->count)) return true;
    for (int32_t i = 0; i < count; i++)
        if (predictor_reads(v, layer, head, row, planted[i])) return true;
    return false;
}

/* The last word outside needles that the head reads; -1: none. One try per block and token
 * residue is enough, since patterns are made of blocks. */
static int64_t place_for_null(const predictor *v, const prompt *p, int32_t head, int64_t row)
{
    int32_t layer = v->layers - 1;
    for (int64_t b = (p->count - 1) / v->block_tokens; b >= 0; b--) {
        int64_t end = (b + 1) * v->block_tokens;
        if (end > p->count) end = p->count;
        int64_t t = end - 1;
        while (t >= b * v->block_tokens && p->fixed[t]) t--;
        if (t >= b * v->block_tokens && predictor_reads(v, layer, head, row, t)) return t;
    }
    return -1;
}

int32_t predictor_plant(const predictor *v, prompt *p, int64_t first_row, int32_t rows)
{
    enum { MOST = 64 }; /* more would cost ln(MOST) of the margin between match and null */
    int64_t planted[MOST];
    int32_t count = 0;
    for (int64_t row = first_row; row < first_row + rows; row++)
        for (int32_t h = 0; h < v->heads && count < MOST; h++) {
            if (has_null(v, p, h, row, planted, count)) continue;
            int64_t t = place_for_null(v, p, h, row);
            if (t < 0) continue;
            p->ids[t] = CONSTRUCTED_BOS;
            p->fixed[t] = 1;
            planted[count++] = t;
        }
    return count;
}
