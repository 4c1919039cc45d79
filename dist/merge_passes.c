/* SPDX-License-Identifier: Apache-2.0 */
/* Partials merged by all-reduces of whole arrays, as Tree Attention does it. With M = max of
 * all ranks' m, the sums of what is based on M need no further factors:
 *
 *     pass 1  M = max m                                heads x rows
 *     pass 2  O = sum o exp(m - M)                     heads x rows x value_dim
 *     pass 3  L = sum l exp(m - M)                     heads x rows
 *
 * and (M, L, O) is the partial of everything. All heads and rows of a panel go together. A rank
 * that does not hold a head gives the empty partial's (-inf, 0, 0), and gets the result all the
 * same. */
#include "dist/cache.h"
#include "dist/plan.h"

#include <math.h>

typedef struct parts {
    banyan_cache *c;
    const banyan_kind *kind;
    void *const *data;
    int32_t value_dim, rows;
} parts;

static float *partial_row(const parts *p, int32_t head, int32_t row)
{
    return (float *)p->data[head] + (size_t)row * banyan_partial_floats(p->value_dim);
}

static int is_held(const parts *p, int32_t head)
{
    const banyan_plan *plan = p->c->plan;
    return banyan_holder_index(&p->kind->head[head / p->kind->shape.group].placed,
                               plan->rank) >= 0;
}

/* exp(m - M); 0 where nothing was seen, NaN where m is. */
static float shrink_by(float m, float largest)
{
    return m == -INFINITY ? 0 : m == largest ? 1 : expf(m - largest);
}

static void give_maxima(void *ctx, float *values)
{
    const parts *p = ctx;
    for (int32_t h = 0; h < p->c->plan->spec.heads; h++) {
        const int held = is_held(p, h);
        for (int32_t r = 0; r < p->rows; r++)
            *values++ = held ? partial_row(p, h, r)[p->value_dim] : -INFINITY;
    }
}

static void take_maxima(void *ctx, const float *values)
{
    const parts *p = ctx;
    const size_t count = (size_t)p->c->plan->spec.heads * (size_t)p->rows;
    for (size_t i = 0; i < count; i++) p->c->maxima[i] = values[i];
}

static void give_numerators(void *ctx, float *values)
{
    const parts *p = ctx;
    const float *largest = p->c->maxima;
    for (int32_t h = 0; h < p->c->plan->spec.heads; h++) {
        const int held = is_held(p, h);
        for (int32_t r = 0; r < p->rows; r++, largest++, values += p->value_dim) {
            const float *o = partial_row(p, h, r);
            const float scale = held ? shrink_by(o[p->value_dim], *largest) : 0;
            for (int32_t d = 0; d < p->value_dim; d++) values[d] = held ? o[d] * scale : 0;
        }
    }
}

static void take_numerators(void *ctx, const float *values)
{
    const parts *p = ctx;
    for (int32_t h = 0; h < p->c->plan->spec.heads; h++)
        for (int32_t r = 0; r < p->rows; r++, values += p->value_dim) {
            float *o = partial_row(p, h, r);
            for (int32_t d = 0; d < p->value_dim; d++) o[d] = values[d];
        }
}

static void give_denominators(void *ctx, float *values)
{
    const parts *p = ctx;
    const float *largest = p->c->maxima;
    for (int32_t h = 0; h < p->c->plan->spec.heads; h++) {
        const int held = is_held(p, h);
        for (int32_t r = 0; r < p->rows; r++, largest++) {
            const float *ml = partial_row(p, h, r) + p->value_dim;
            *values++ = held ? ml[1] * shrink_by(ml[0], *largest) : 0;
        }
    }
}

static void take_denominators(void *ctx, const float *values)
{
    const parts *p = ctx;
    const float *largest = p->c->maxima;
    for (int32_t h = 0; h < p->c->plan->spec.heads; h++)
        for (int32_t r = 0; r < p->rows; r++) {
            float *ml = partial_row(p, h, r) + p->value_dim;
            ml[0] = *largest++;
            ml[1] = *values++;
        }
}

void banyan_pass_floats(const banyan_plan *plan, int32_t value_dim, int32_t rows,
                        int64_t floats[BANYAN_PASSES])
{
    const int64_t vectors = (int64_t)plan->spec.heads * rows;
    floats[0] = vectors;
    floats[1] = vectors * value_dim;
    floats[2] = vectors;
}

banyan_status banyan_reduce_partials(banyan_cache *c, const banyan_kind *kind,
                                     void *const *data, int32_t value_dim, int32_t rows)
{
    const banyan_plan *plan = c->plan;
    parts p = {c, kind, data, value_dim, rows};
    int64_t floats[BANYAN_PASSES];
    banyan_pass_floats(plan, value_dim, rows, floats);
    const banyan_pass pass[BANYAN_PASSES] = {
        {BANYAN_MAX, floats[0], give_maxima, take_maxima},
        {BANYAN_SUM, floats[1], give_numerators, take_numerators},
        {BANYAN_SUM, floats[2], give_denominators, take_denominators},
    };
    const banyan_pass_room room = {.values = c->pass_room};
    return plan->merge->reduce(plan->comm, pass, BANYAN_PASSES, &p, &room, &c->stats.messages,
                               &c->stats.bytes_sent);
}

/* ---- strongest tokens -------------------------------------------------------------------- */

/* The largest score of all ranks, then among those that have it the lowest token: 24 bits at a
 * time, which a float holds. A rank whose token is out of it has none; in the end all know what
 * was found. */
enum { TOKEN_BITS = 24 };

typedef struct strongest_passes {
    parts p;
    int pass; /* 0: scores; 1 and 2: the token's upper and lower bits; each gives, takes */
} strongest_passes;

static float choice_of(const banyan_strongest *best, int pass)
{
    const int64_t low = best->token & ((INT64_C(1) << TOKEN_BITS) - 1);
    if (best->token < 0) return -INFINITY;
    if (pass == 0) return best->score;
    return -(float)(pass == 1 ? best->token >> TOKEN_BITS
                              : low); /* the largest is the lowest */
}

static void give_choice(void *ctx, float *values)
{
    const strongest_passes *x = ctx;
    for (int32_t h = 0; h < x->p.c->plan->spec.heads; h++) {
        banyan_strongest *best = x->p.data[h];
        if (x->pass == 0 && !is_held(&x->p, h)) banyan_strongest_clear(best, x->p.rows);
        for (int32_t r = 0; r < x->p.rows; r++) *values++ = choice_of(&best[r], x->pass);
    }
}

static void take_choice(void *ctx, const float *values)
{
    strongest_passes *x = ctx;
    for (int32_t h = 0; h < x->p.c->plan->spec.heads; h++) {
        banyan_strongest *best = x->p.data[h];
        for (int32_t r = 0; r < x->p.rows; r++, best++) {
            const float most = *values++;
            if (choice_of(best, x->pass) != most) best->token = -1;
            if (x->pass == 0) best->score = most;
            if (x->pass == 1) best->upper = most > -INFINITY ? (int32_t)-most : -1;
            if (x->pass < 2) continue;
            best->token =
                best->upper < 0 ? -1 : ((int64_t)best->upper << TOKEN_BITS) + (int64_t)-most;
            best->upper = 0;
        }
    }
    x->pass++;
}

banyan_status banyan_reduce_strongest(banyan_cache *c, const banyan_kind *kind,
                                      void *const *data, int32_t rows)
{
    const banyan_plan *plan = c->plan;
    strongest_passes x = {.p = {c, kind, data, 0, rows}};
    const int64_t floats = (int64_t)plan->spec.heads * rows;
    const banyan_pass choice = {BANYAN_MAX, floats, give_choice, take_choice};
    const banyan_pass pass[] = {choice, choice, choice};
    const banyan_pass_room room = {.values = c->pass_room};
    return plan->merge->reduce(plan->comm, pass, 3, &x, &room, &c->stats.messages,
                               &c->stats.bytes_sent);
}
