/* SPDX-License-Identifier: Apache-2.0 */
/* What each head can see of a needle, from the plan and the prompt.
 *
 * Layer 0 of the constructed model writes into every token the ids that stood 1, 2 and 3 tokens
 * before it; layer 1 looks for the trigram. So a head of the last layer puts its mass on answer
 * token s, asked at row t, if and only if
 *
 *     it reads s at row t, and no lost rank keeps s's block       (last layer)
 *     ids t, t-1, t-2, as layer 0 knows them at t, match
 *     ids s-1, s-2, s-3, as layer 0 knows them at s               (layer 0)
 *
 * in more than 11/12 of a full match, which is what a null token gets. A head of layer 0 that
 * reads the token at its offset copies it. One that does not (a window of one block at the
 * block's first tokens, a lost rank) copies what it does read, weighted by the softmax of its
 * position scores, or nothing; and B_j is the mean over the heads of offset j. Both sides of a
 * match may be wrong in the same way, and then they match: so the codes are really added up and
 * compared here.
 *
 * Where the last layer chooses blocks or tokens by data, what it reads is chosen.c's to say.
 *
 * A head that sees no match rests on a null token. Without one it would copy the most similar
 * token with all its weight. BOS and <Q> are nulls, but a head may see neither (a lost rank
 * kept both, or a pattern without sink and with a one-block window); predictor_plant then puts
 * one where that head does look. */
#include "launch/needle/chosen.h"

#include <math.h>
#include <string.h>

enum { BACK = 3, WORD = CONSTRUCTED_WORD };

void predictor_init(predictor *v, const banyan_plan *plan, const constructed_spec *constructed)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    *v = (predictor){.plan = plan,
                     .constructed = *constructed,
                     .last = spec->layers - 1,
                     .heads = spec->heads,
                     .kv_heads = spec->kv_heads,
                     .block_tokens = spec->block_tokens,
                     .lost_rank = spec->lost_rank,
                     .lost_layer = spec->lost_layer};
}

bool predictor_chooses(const banyan_plan *plan, int32_t *layer, int32_t *head)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    banyan_choosing choosing;
    for (*layer = 0; *layer < spec->layers; ++*layer)
        for (*head = 0; *head < spec->heads; ++*head)
            if (banyan_plan_chooses(plan, *layer, *head, &choosing) ||
                banyan_plan_follows(plan, *layer, *head, NULL) >= 0)
                return true;
    return false;
}

bool predictor_is_blind(const banyan_plan *plan, int32_t *layer, int32_t *head)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    banyan_choosing choosing;
    if (spec->lost_rank >= 0) return predictor_chooses(plan, layer, head);
    for (*layer = 0; *layer < spec->layers; ++*layer)
        for (*head = 0; *head < spec->heads; ++*head)
            if (banyan_plan_follows(plan, *layer, *head, NULL) == 0 ||
                (*layer == 0 && banyan_plan_chooses(plan, 0, *head, &choosing)))
                return true;
    return false;
}

/* Matching tokens of key s and query t, 3 for a full match, with the key's norm. */
static double match(const token_signs *query, const token_signs *key)
{
    double sum = 0;
    for (int j = 0; j < BACK; j++)
        for (int i = 0; i < WORD; i++)
            sum += query->word[j][i] * (double)key->word[1 + j][i] / WORD;
    return sum / sqrt(key->square);
}

static const double null_match = 2.75; /* 11/12 of 3 */

/* Of the last layer, chosen blocks and tokens included. */
static chosen_result last_reads(const predictor *v, int32_t head, int64_t row, int64_t token)
{
    banyan_choosing by;
    const bool reads = predictor_reads(v, v->last, head, row, token);
    if (!v->chosen) return reads ? CHOSEN_READ : CHOSEN_NOT_READ;
    choice_law law = {.tokens = true};
    if (banyan_plan_follows(v->plan, v->last, head, &law.count) >= 0)
        return chosen_reads(v->chosen, &law, row, token);
    if (reads || !banyan_plan_chooses(v->plan, v->last, head, &by))
        return reads ? CHOSEN_READ : CHOSEN_NOT_READ;
    law = (choice_law){.bounds = !strcmp(by.by, "bounds"),
                       .first = by.first,
                       .local = by.local,
                       .count = by.blocks,
                       .mass = by.mass,
                       .sharpness = by.sharpness};
    return chosen_reads(v->chosen, &law, row, token);
}

bool predictor_sees(const predictor *v, int32_t head, int64_t row, int64_t token)
{
    token_signs query, key;
    if (!predictor_reads(v, v->last, head, row, token)) return false;
    predictor_signs(v, row, &query);
    predictor_signs(v, token, &key);
    return match(&query, &key) > null_match;
}

/* What greedy decoding makes of the heads' copies at one row: each votes for the id that it
 * copied with its weight, <none> has half a vote, and the first of equals wins. */
static uint32_t winner(const predictor *v, const int64_t *choice)
{
    uint32_t best = CONSTRUCTED_NONE;
    int32_t most = 0;
    for (int32_t h = 0; h < v->heads; h++) {
        if (choice[h] < 0) continue;
        int32_t votes = 0;
        uint32_t id = predictor_id(v, choice[h]);
        for (int32_t g = 0; g < v->heads; g++)
            votes += choice[g] >= 0 && predictor_id(v, choice[g]) == id;
        if (votes > most || (votes == most && id < best)) most = votes, best = id;
    }
    return best;
}

outcome predictor_answer(const predictor *v, const needle_fact *fact, int64_t first_row,
                         const float *mass, bool *saw, int32_t *undecided)
{
    token_signs key[NEEDLE_ANSWERS], query;
    int64_t choice[v->heads], first = fact->first + NEEDLE_ANSWER;
    outcome result = OUTCOME_FOUND;
    *undecided = 0;
    for (int32_t k = 0; k < NEEDLE_ANSWERS; k++) predictor_signs(v, first + k, &key[k]);
    for (int32_t i = 0; i < NEEDLE_ANSWERS; i++) {
        predictor_signs(v, first_row + i, &query);
        for (int32_t h = 0; h < v->heads; h++) {
            double most = null_match;
            choice[h] = -1;
            for (int32_t k = 0; k < NEEDLE_ANSWERS; k++) {
                double m = match(&query, &key[k]);
                if (m <= most) continue;
                const chosen_result reads = last_reads(v, h, first_row + i, first + k);
                if (reads == CHOSEN_NOT_READ) continue;
                *undecided += reads == CHOSEN_NEAR;
                if (reads == CHOSEN_NEAR && !(mass && mass[i * v->heads + h] >= .5f)) continue;
                most = m;
                choice[h] = first + k;
            }
            saw[i * v->heads + h] = choice[h] >= 0;
        }
        uint32_t got = winner(v, choice);
        if (result == OUTCOME_FOUND && got != prompt_answer(fact, i))
            result = got == CONSTRUCTED_NONE ? OUTCOME_NONE : OUTCOME_WRONG;
    }
    return result;
}

/* A null token that the head reads at `row`: of BOS, <Q>, and those planted from p->absents
 * on. */
static bool has_null(const predictor *v, const prompt *p, int32_t head, int64_t row,
                     const int64_t *planted, int32_t count)
{
    int32_t layer = v->last;
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
    int32_t layer = v->last;
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
