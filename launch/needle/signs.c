/* SPDX-License-Identifier: Apache-2.0 */
/* What layer 0 of the constructed model knows of a token: its own id and those 1, 2 and 3
 * tokens before it, or what heads copy in their place that do not read them (predict.c). */
#include "launch/needle/needle.h"

#include <math.h>
#include <string.h>

enum { BACK = 3, WORD = CONSTRUCTED_WORD };

void predictor_read(predictor *v, const prompt *p, const uint32_t *tail)
{
    v->p = p;
    v->tail = tail;
}

uint32_t predictor_id(const predictor *v, int64_t token)
{
    return token < v->p->count ? v->p->ids[token] : v->tail[token - v->p->count];
}

bool predictor_is_null(const predictor *v, int64_t token)
{
    return predictor_id(v, token) < CONSTRUCTED_NULLS;
}

bool predictor_reads(const predictor *v, int32_t layer, int32_t head, int64_t row,
                     int64_t token)
{
    if (token < 0 || !banyan_plan_reads(v->plan, layer, head, row, token)) return false;
    if (v->lost_rank < 0 || (v->lost_layer >= 0 && v->lost_layer != layer)) return true;
    int32_t kv_head = head / (v->heads / v->kv_heads);
    return banyan_plan_owner(v->plan, 0, layer, kv_head, token / v->block_tokens) !=
           v->lost_rank;
}

/* Softmax over what a head reads, one score after another: value is the sum of weighted
 * codes. */
typedef struct blend {
    double most, sum;
    float value[CONSTRUCTED_CODE];
} blend;

static void blend_add(blend *b, double score, uint32_t id)
{
    int8_t code[CONSTRUCTED_CODE];
    if (score < b->most - 30) return; /* 1e-13 */
    if (score > b->most) {
        double shrink = exp(b->most - score); /* 0 at first: most is -inf */
        b->sum *= shrink;
        for (int i = 0; i < CONSTRUCTED_CODE; i++) b->value[i] *= (float)shrink;
        b->most = score;
    }
    double weight = exp(score - b->most);
    b->sum += weight;
    constructed_code(id, code); /* zeros for nulls */
    for (int i = 0; i < CONSTRUCTED_CODE; i++) b->value[i] += (float)weight * code[i];
}

/* Add to `sum` what a head of layer 0 copies at `token`: a code, or a blend of codes. */
static void add_copy(const predictor *v, int32_t head, int64_t token, float *sum)
{
    int64_t offset = constructed_offset(head);
    blend b = {.most = -INFINITY};
    if (predictor_reads(v, 0, head, token, token - offset)) {
        blend_add(&b, 0,
                  predictor_id(v, token - offset)); /* every other score is lower by 20 */
    } else {
        for (int64_t first = token / v->block_tokens * v->block_tokens; first >= 0;
             first -= v->block_tokens) {
            int64_t last = first + v->block_tokens - 1;
            if (last > token) last = token;
            if (!predictor_reads(v, 0, head, token, first) &&
                !predictor_reads(v, 0, head, token, last))
                continue; /* a selected block is cut at one end at most */
            for (int64_t s = last; s >= first; s--)
                if (predictor_reads(v, 0, head, token, s))
                    blend_add(&b, constructed_position(&v->constructed, token - s - offset),
                              predictor_id(v, s));
        }
    }
    for (int i = 0; b.sum > 0 && i < CONSTRUCTED_CODE; i++) sum[i] += b.value[i] / (float)b.sum;
}

void predictor_signs(const predictor *v, int64_t token, token_signs *m)
{
    int8_t code[CONSTRUCTED_CODE];
    float back[BACK][CONSTRUCTED_CODE];
    int32_t heads[BACK] = {0};
    memset(back, 0, sizeof back);
    uint32_t id = predictor_id(v, token);
    constructed_code(id, code);
    for (int i = 0; i < WORD; i++) m->word[0][i] = code[i];
    for (int32_t h = 0; h < v->heads; h++) {
        int32_t j = constructed_offset(h) - 1;
        heads[j]++;
        if (id >= CONSTRUCTED_NULLS) add_copy(v, h, token, back[j]); /* nulls: themselves, 0 */
    }
    m->square = .5; /* own code, const, flag and filler: 384 of 768 */
    for (int j = 0; j < BACK; j++)
        for (int i = 0; i < CONSTRUCTED_CODE; i++) {
            float x = heads[j] ? back[j][i] / (float)heads[j] : 0;
            if (i < WORD) m->word[1 + j][i] = x;
            m->square += x * x / (6 * CONSTRUCTED_CODE);
        }
}
