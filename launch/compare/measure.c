/* SPDX-License-Identifier: Apache-2.0 */
/* What is measured of each pattern. First, one after another: the haystack is read, and every
 * needle asked for on a fork of it. Then tokens are decoded, one of each pattern in turn, so
 * that what else the machine does meanwhile falls on all of them alike. */
#include "launch/compare/compare.h"

#include <stdlib.h>
#include <string.h>

enum { WARM = 2 }; /* decoded tokens that are not counted */

/* ---- the haystack and its needles --------------------- */

static int prepare_compared(comparison *c, compared *p)
{
    compared *first = &c->of[0];
    char why[NEEDLE_WHY] = "";
    banyan_status status = BANYAN_OK;
    p->e = c->s->e;
    p->e.wish = &c->s->wish;
    p->e.spec.rules = p->rules;
    p->e.spec.rule_count = p->rule_count;
    p->e.outputs = &p->outputs;
    p->e.decoded = WARM + COMPARE_STEPS;
    if (p->placement) p->e.spec.placement = p->placement;
    if (p != first) p->outputs.reference = &first->outputs;
    if (p != first) status = model_twin(first->e.m, &p->e.m);
    if (!status && c->j->rank == 0) {
        p->e.results = results_open(NULL, why, sizeof why);
        if (!p->e.results) status = BANYAN_ERR_MEMORY;
    }
    return evaluation_agree(&p->e, status, "a pattern");
}

/* A haystack without needles, which took `prefill`: what a checkpoint's cells leave is no whole
 * one. */
static int read_plain(comparison *c, compared *p)
{
    const foreign_ids *f = c->s->wish.foreign;
    uint32_t *ids = malloc((size_t)c->length * sizeof *ids);
    int code = evaluation_agree(&p->e, ids ? BANYAN_OK : BANYAN_ERR_MEMORY, "a haystack");
    for (int64_t t = 0; !code && t < c->length; t++) ids[t] = foreign_id(f, t);
    if (!code) code = evaluation_reset(&p->e, c->length, p->e.spec.cache_dtype);
    const prompt whole = {.ids = ids, .count = c->length};
    if (!code) code = evaluation_prefill(&p->e, &whole, p->name, &p->prefill);
    free(ids);
    return code;
}

static int ask_all(comparison *c, compared *p)
{
    const needle_wish *w = &c->s->wish;
    if (w->foreign) {
        int code = evaluate_texts(&p->e, c->length);
        return code ? code : read_plain(c, p);
    }
    int code = evaluate_prompt(&p->e, "single", c->length, 0, 0, w->depths, true);
    if (!code && c->j->rank == 0)
        p->prefill =
            summary_tally(results_all(p->e.results), w, "single", c->length).prefill_seconds;
    return code;
}

/* ---- the cache, and what the plan says of it --------------------- */

/* After tokens were decoded, which let go of what only the rows of the haystack read. */
static int count_cache(comparison *c, compared *p)
{
    const banyan_plan *plan = model_plan(p->e.m);
    const banyan_spec *spec = banyan_plan_spec(plan);
    const int64_t tokens = model_length(p->e.m);
    banyan_stats stats;
    banyan_share share;
    banyan_cache_stats(model_cache(p->e.m), &stats);
    banyan_status status = banyan_plan_share(plan, c->j->rank, 1, tokens, &share);
    double sums[3] = {(double)stats.bytes, (double)share.kept_bytes, (double)share.read_blocks};
    if (!status) status = banyan_comm_allreduce(c->j->comm, sums, 3, BANYAN_SUM);
    p->kept_bytes = (int64_t)sums[0];
    p->planned_bytes = (int64_t)sums[1];
    p->read = sums[2] * spec->block_tokens / ((double)spec->layers * spec->kv_heads);
    return evaluation_agree(&p->e, status, "statistics");
}

/* ---- decoded tokens --------------------- */

static uint32_t any_id(const comparison *c, int32_t step)
{
    const foreign_ids *f = c->s->wish.foreign;
    if (f) return foreign_id(f, f->prefix.count + step);
    return CONSTRUCTED_WORDS + (uint32_t)step;
}

static banyan_status decode_compared(const comparison *c, compared *p, int32_t step,
                                     double *seconds)
{
    const uint32_t id = any_id(c, step);
    uint32_t got;
    banyan_stats before, after;
    banyan_cache_stats(model_cache(p->e.m), &before);
    const double start = now_seconds();
    banyan_status status =
        model_forward(p->e.m, model_length(p->e.m), &id, 1, 1, NULL, &got, NULL, NULL, NULL);
    *seconds = now_seconds() - start;
    banyan_cache_stats(model_cache(p->e.m), &after);
    p->messages += (double)(after.messages - before.messages);
    p->bytes_sent += (double)(after.bytes_sent - before.bytes_sent);
    return status;
}

static int decode_all(comparison *c)
{
    int code = EXIT_OK;
    for (int32_t step = 0; !code && step < WARM + COMPARE_STEPS; step++) {
        progress(c->j, "decoding, token %d of %d", step + 1, WARM + COMPARE_STEPS);
        for (int32_t i = 0; !code && i < c->count; i++) {
            compared *p = &c->of[i];
            double seconds;
            if (step == WARM) p->messages = p->bytes_sent = 0;
            code = evaluation_forward(&p->e, decode_compared(c, p, step, &seconds), "decoding");
            if (!code && step >= WARM) p->step[p->steps++] = seconds;
        }
    }
    return code;
}

/* Over all ranks: a token's messages and bytes. */
static int sum_traffic(comparison *c)
{
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; !status && i < c->count; i++) {
        compared *p = &c->of[i];
        double sums[2] = {p->messages / COMPARE_STEPS, p->bytes_sent / COMPARE_STEPS};
        status = banyan_comm_allreduce(c->j->comm, sums, 2, BANYAN_SUM);
        p->messages = sums[0];
        p->bytes_sent = sums[1];
    }
    return evaluation_agree(&c->of[0].e, status, "statistics");
}

int compare_measure(comparison *c)
{
    int code = EXIT_OK;
    for (int32_t i = 0; !code && i < c->count; i++) {
        code = prepare_compared(c, &c->of[i]);
        if (!code) code = ask_all(c, &c->of[i]);
    }
    if (!code) code = decode_all(c);
    for (int32_t i = 0; !code && i < c->count; i++) code = count_cache(c, &c->of[i]);
    if (!code) code = sum_traffic(c);
    if (!code && model_unchanged(c->of[0].e.m)) {
        say_error(c->j, "%s", model_message(c->of[0].e.m));
        code = EXIT_FAILED;
    }
    progress_end(c->j);
    return code;
}
