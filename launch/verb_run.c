/* SPDX-License-Identifier: Apache-2.0 */
/* banyan run: append, prefill and decode at a given shape on seeded random data, with sampled
 * rows compared with a float64 oracle. Exit code 1 when a row is beyond its error bound. */
#include "launch/run/run.h"

#include "launch/data.h"
#include "launch/pattern/pattern.h"

#include <stdlib.h>
#include <string.h>

#define TAKE(part, field, otherwise)                                                           \
    ((part) && (part)->has_##field ? (part)->field : (otherwise))

enum { most_samples = 1 << 20 };

/* What is asked for, checked: what the library would refuse only in the middle of the run. */
static int ask_run(run_task *t)
{
    const job *j = t->j;
    const Banyan__Run *r = j->config->run;
    const Banyan__Cache *c = j->config->cache;
    banyan_spec *s = &t->asked.spec;
    t->decode = TAKE(r, decode, 8);
    t->rows = TAKE(r, rows, 1);
    t->at = TAKE(r, at, 0);
    t->seed = TAKE(r, seed, 1);
    t->samples = TAKE(r, samples, 16);
    if (t->decode < 0 || t->rows < 1 || t->samples < 0 || t->at < 0) {
        say_error(
            j,
            "run: decode %d, rows %d, samples %d, at %lld: none may be negative, and rows "
            "not 0",
            t->decode, t->rows, t->samples, (long long)t->at);
        return EXIT_USAGE;
    }
    if (t->samples > most_samples || t->decode > most_samples) {
        say_error(j, "run: decode %d, samples %d: expected at most %d of each", t->decode,
                  t->samples, most_samples);
        return EXIT_USAGE;
    }
    if (s->max_tokens < 0) {
        say_error(j, "cache.max_tokens %lld: expected 1 or more", (long long)s->max_tokens);
        return EXIT_USAGE;
    }
    if (s->max_tokens == 0 && !(r && r->has_tokens)) {
        say_error(j, "run: --tokens N is needed: how many to prefill (or cache.max_tokens)");
        return EXIT_USAGE;
    }
    int64_t decoded = (int64_t)t->decode * t->rows;
    t->tokens = TAKE(r, tokens, s->max_tokens - decoded);
    if (s->max_tokens == 0 && t->tokens <= INT64_MAX - decoded)
        s->max_tokens = t->tokens + decoded;
    if (!(c && c->has_max_rows) && t->rows > s->max_rows) s->max_rows = t->rows;
    if (t->tokens < 0 || t->tokens > s->max_tokens - decoded || t->tokens + decoded < 1) {
        say_error(j,
                  "run.tokens %lld and %d steps of %d rows: expected 1..%lld tokens in all "
                  "(cache.max_tokens)",
                  (long long)t->tokens, t->decode, t->rows, (long long)s->max_tokens);
        return EXIT_USAGE;
    }
    if (t->at > t->tokens) {
        say_error(j, "run.at %lld: expected 0..%lld (run.tokens)", (long long)t->at,
                  (long long)t->tokens);
        return EXIT_USAGE;
    }
    if (t->rows > s->max_rows) {
        say_error(j, "run.rows %d: expected 1..%d (cache.max_rows)", t->rows, s->max_rows);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* Heads and layers in turn, tokens at random among those that attend, half of them in the
 * decode steps; always the first such row and the very last. */
static bool choose_run_samples(run_task *t)
{
    const banyan_spec *s = t->spec;
    int64_t decoded = (int64_t)t->decode * t->rows, end = t->tokens + decoded;
    if (end == t->at) t->samples = 0;
    t->sample = calloc((size_t)t->samples + 1, sizeof *t->sample);
    if (!t->sample) return false;
    for (int32_t n = 0; n < t->samples; n++) {
        run_sample *sample = &t->sample[n];
        uint64_t draw = data_mix(data_mix(t->seed + 7) + (uint64_t)n);
        int64_t from = n % 2 && decoded ? t->tokens : t->at;
        sample->token = from + (int64_t)(draw % (uint64_t)(end - from));
        if (n == 0) sample->token = end - 1;
        if (n == 1) sample->token = t->at;
        sample->layer = (int32_t)(n % s->layers);
        sample->head =
            (int32_t)(((int64_t)n * s->heads / t->samples + (int64_t)(draw >> 40)) % s->heads);
        sample->checker =
            t->all ? n % t->j->ranks : banyan_plan_home(t->plan, sample->layer, sample->head);
        sample->out = malloc((size_t)s->value_dim * sizeof(float));
        if (!sample->out) return false;
    }
    return true;
}

static banyan_status make_run_array(run_task *t, int64_t heads, int64_t dim, device_array *out)
{
    int64_t floats = t->spec->max_rows * heads * dim;
    return device_array_make(t->j->device, (size_t)floats * sizeof(float), DEVICE_NAN, out);
}

static bool has_room(const run_task *t)
{
    const banyan_spec *s = t->spec;
    char why[512], what[64];
    int64_t row = (int64_t)(s->heads + s->kv_heads) * (s->key_dim + s->value_dim) + s->heads;
    snprintf(what, sizeof what, "q, k, v and out of %d rows (cache.max_rows)", s->max_rows);
    bool good = !agree_room(t->j->comm, s->max_rows * row * (int64_t)sizeof(float), what, why,
                            sizeof why);
    if (!good) say_error(t->j, "%s", why);
    return good;
}

static banyan_status make_arrays(run_task *t)
{
    const banyan_spec *s = t->spec;
    t->all = s->out == BANYAN_OUT_ALL;
    banyan_status status = make_run_array(t, s->heads, s->key_dim, &t->q);
    if (!status) status = make_run_array(t, s->kv_heads, s->key_dim, &t->k);
    if (!status && !spec_value_in_key(s))
        status = make_run_array(t, s->kv_heads, s->value_dim, &t->v);
    if (!status) status = make_run_array(t, s->heads, s->value_dim, &t->out);
    if (!status) status = make_run_array(t, s->heads, 1, &t->lse);
    if (status) return status;
    t->step_seconds = calloc((size_t)t->decode + 1, sizeof *t->step_seconds);
    return t->step_seconds && choose_run_samples(t) ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

static void take_figures(run_task *t, int64_t resident_before)
{
    banyan_stats stats;
    banyan_share share;
    banyan_cache_stats(t->cache, &stats);
    t->mine.rss_growth = (double)(memory_resident() - resident_before);
    t->mine.kept_bytes = stats.bytes;
    t->mine.workspace_bytes = stats.workspace_bytes;
    t->mine.messages = stats.messages;
    t->mine.bytes_sent = stats.bytes_sent;
    if (!banyan_plan_share(t->plan, t->j->rank, 1, stats.tokens, &share))
        t->mine.planned_bytes = share.kept_bytes;
}

static int run_task_all(run_task *t)
{
    const job *j = t->j;
    banyan_status status = banyan_plan_create(&t->asked.spec, j->comm, &t->plan);
    if (status) return job_failed(j, status, NULL);
    t->spec = banyan_plan_spec(t->plan);
    if (!has_room(t)) return EXIT_USAGE;
    status = job_agree(j, make_arrays(t));
    if (status) return job_failed(j, status, "arrays of q, k, v and out");
    int64_t resident_before = memory_resident();
    int code = run_load(t);
    if (code) return code;
    status = run_steps(t);
    if (!status) take_figures(t, resident_before);
    if (!status) status = run_check(t);
    if (status != BANYAN_ERR_COMM) status = job_agree(j, status);
    if (status) return job_failed(j, status, t->step);
    code = run_save(t);
    return code ? code : run_report(t);
}

static int run_run(job *j)
{
    char why[512];
    run_task t = {.j = j};
    int code = pattern_apply_config(j);
    if (code) return code;
    banyan_status status = spec_from_config(j->config, &t.asked, why, sizeof why);
    if (status) {
        say_error(j, "%s", why);
        return EXIT_USAGE;
    }
    code = ask_run(&t);
    if (!code) code = run_load_figures(&t);
    if (!code && !pattern_prompt(j->config, t.tokens, t.asked.rules)) {
        say_error(j, "out of memory for the rules");
        code = EXIT_USAGE;
    }
    if (!code) code = run_task_all(&t);
    banyan_cache_destroy(t.cache);
    banyan_plan_destroy(t.plan);
    for (int32_t n = 0; t.sample && n < t.samples; n++) free(t.sample[n].out);
    free(t.sample);
    free(t.step_seconds);
    device_array *array[] = {&t.q, &t.k, &t.v, &t.out, &t.lse};
    for (size_t i = 0; i < sizeof array / sizeof *array; i++)
        device_array_free(j->device, array[i]);
    spec_free(&t.asked);
    return code;
}

static const flag flags[] = {
    {"tokens", "N", "run.tokens", "tokens to prefill"},
    {"at", "N", "run.at", "append this many of them without attending"},
    {"decode", "N", "run.decode", "decode steps after the prefill, default 8"},
    {"rows", "N", "run.rows", "rows per decode step, default 1"},
    {"samples", "N", "run.samples", "rows compared with the oracle, default 16"},
    {"seed", "N", "run.seed", "of the random data, default 1"},
    {"save", "DIR", NULL, "write a snapshot of the cache in the end"},
    {"load", "DIR", NULL, "go on from a snapshot, on as many ranks as there are"},
    {"layers", "N", "shape.layers", "layers, default 1"},
    {"heads", "N", "shape.heads", "query heads"},
    {"kv-heads", "N", "shape.kv_heads", "key/value heads, default: heads"},
    {"key-dim", "N", "shape.key_dim", "width of a key"},
    {"value-dim", "N", "shape.value_dim", "width of a value, default: key-dim"},
    {"value-in-key", NULL, "shape.value_in_key",
     "values are the first numbers of their keys (latent attention)"},
    {"max-tokens", "N", "cache.max_tokens", "longest sequence, default: what the run needs"},
    {"max-rows", "N", "cache.max_rows", "rows per call in append and prefill, default 512"},
    {"dtype", "NAME", "cache.dtype", "format of the cache: fp32, bf16, fp16, fp8"},
    {"use", "RULE", "rule[0].use",
     "what the first rule's heads read, \"s2 stride=8 local=16\"; selectors: {selectors}"},
    PATTERN_FLAGS,
    {"placement", "NAME", "execution.placement", "{placements}; default: line"},
    {"merge", "NAME", "execution.merge", "{merges}; default: the cheapest"},
    {"kernel", "NAME", "execution.kernel",
     "of those that `banyan list` names; default: the fastest"},
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"reproducible", NULL, "execution.reproducible",
     "the same bits for any ranks, placement, merge and threads"},
    {"threads", "N", "execution.threads", "per rank"},
    {"strict", NULL, "execution.strict", "refuse patterns that leave context unseen"},
    {"out", "WHERE", "execution.out", "home or all: where outputs are written"},
    {NULL, NULL, NULL, NULL}};

const verb verb_run = {
    .name = "run",
    .doc = "Appends, prefills and decodes at a given shape on seeded random data. Sampled rows "
           "are\n"
           "compared with a float64 oracle; the exit code is 1 when one is beyond its error "
           "bound\n"
           "(derived in launch/bounds.h), or when ranks hold different outputs.",
    .flags = flags,
    .needs_comm = 1,
    .run = run_run};
