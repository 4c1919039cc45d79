/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_score.inc.h - observed rows (lines.h): the scores of a block, as attending has them,
 * and what the rows' softmax puts on its tokens and distances. */

/* [rows][tokens]. */
static void score_block(work *w, const char *used, float *out)
{
    const int32_t tokens = w->used.tokens;
    product_part part = {.steps = w->used.key_steps};
    product p = {.a = w->q,
                 .a_stride = w->q_stride,
                 .part = &part,
                 .parts = 1,
                 .b_stride = key_stride(&w->used),
                 .c_stride = tokens};
    for (int32_t token = 0, take; token < tokens; token += take * VEC_LANES) {
        take = product_vectors((tokens - token) / VEC_LANES);
        for (int32_t g = 0; g < take; g++)
            part.b[g] = used + key_at(&w->used, token + g * VEC_LANES);
        p.c = out + token;
        product_stack(w, &p, w->total, take);
    }
}

static void vector_score(const banyan_tile *tile, float *out)
{
    work w;
    work_lay(&w, &tile->shape, 1, tile->rows, tile->workspace);
    work_begin(&w, tile);
    w.ahead = (ahead){0};
    for (int64_t i = 0; i < tile->entries; i++, out += tile->rows * w.used.tokens) {
        block_set x = {.entry = tile->entry + i};
        set_add(&w, &x);
        score_block(&w, x.used[0], out);
    }
}

/* Scores of tokens that the row does not see become -inf; returns how many count, in whole
 * grains. */
static int32_t hide_unseen(const banyan_observed *o, int32_t row, int64_t block, float *score)
{
    const int32_t seen = banyan_observed_tokens(o, row, block), count = round_up(seen, GRAIN);
    for (int32_t j = seen; j < count; j++) score[j] = -INFINITY;
    return count;
}

static void observe_sums(const work *w, banyan_observed *o, int64_t block)
{
    float *score = o->score;
    for (int32_t i = 0; i < o->rows; i++, score += o->block_tokens) {
        const int32_t count = hide_unseen(o, i, block, score);
        if (count) (void)softmax_row(score, count, w->c, &o->most[i], o->sum[i]);
    }
}

static void observe_lines(const work *w, banyan_observed *o, int64_t block, float *column)
{
    float distance[BANYAN_LINE_TOKENS + BANYAN_LINE_ROWS] = {0};
    float *score = o->score;
    memset(column, 0, (size_t)o->block_tokens * sizeof *column);
    for (int32_t i = 0; i < o->rows; i++, score += o->block_tokens) {
        if (!(o->share[i] > 0)) continue;
        const int32_t count = hide_unseen(o, i, block, score);
        float *along = distance + (o->rows - 1 - i);
        const vec base = vec_set(o->most[i]), c = vec_set(w->c), share = vec_set(o->share[i]);
        for (int32_t j = 0; j < count; j += VEC_LANES) {
            const vec x = vec_mul(vec_sub(vec_load(score + j), base), c);
            const vec p = vec_mul(vec_exp2(x), share);
            vec_store(column + j, vec_add(vec_load(column + j), p));
            vec_store(along + j, vec_add(vec_load(along + j), p));
        }
    }
    banyan_observe_distances(o, block, distance);
}

static void vector_observe(const banyan_tile *tile, banyan_observed *o, float *column)
{
    work w;
    work_lay(&w, &tile->shape, 1, tile->rows, tile->workspace);
    work_begin(&w, tile);
    w.ahead = (ahead){0};
    for (int64_t i = 0; i < tile->entries; i++) {
        block_set x = {.entry = tile->entry + i};
        set_add(&w, &x);
        score_block(&w, x.used[0], o->score);
        if (column)
            observe_lines(&w, o, tile->entry[i].block, column + i * o->block_tokens);
        else
            observe_sums(&w, o, tile->entry[i].block);
    }
}
