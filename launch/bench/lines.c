/* SPDX-License-Identifier: Apache-2.0 */
/* What choosing columns and diagonals saves: one call of 4096 rows that ends at 65,536 tokens,
 * against the same call when all is read, in turns. Keys are made so that 1000 columns and one
 * band of diagonals carry the mass: of a query at token t and a key at token j
 *
 *     scale q.k = 11 if j is a column, + 10 F(t - j - centre) + noise
 *
 * with F the Fejer kernel of 12 harmonics of twice the context: 1 at the band's centre, 0 a
 * sixth of the context away. Columns are 65 tokens apart, so that no distance meets two of them
 * in 64 rows. */
#include "launch/bench/bench.h"

#include "launch/columns.h"
#include "launch/data.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, DIM = 128, HARMONICS = 12, ROWS = 4096, APART = 65, TURNS = 3 };

static const double pi = 3.14159265358979323846;
static const double least_gain = 3, most_choice = 0.03;

const char *const lines_names[] = {"prefill vertical_slash", "prefill flex",
                                   "prefill flex lines", NULL};
static const char *const uses[] = {"vertical_slash columns=1000 diagonals=6096",
                                   "flex gamma=0.95 tau=0.1 budget=1024",
                                   "flex gamma=0.95 tau=0 budget=1024"};

typedef struct lines_side {
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_rows part;
    float *out; /* [ROWS][HEADS][DIM] */
    double seconds[TURNS], choice[TURNS];
    double pairs; /* of a call */
} lines_side;

typedef struct lines {
    const bench *b;
    int64_t tokens;
    banyan_comm *comm;
    lines_side chosen, dense;
    float *q, *k, *v; /* [ROWS][HEADS][DIM] */
} lines;

/* A query (is_key 0) or a key, of length DIM. */
static void make_row(const lines *x, int is_key, int64_t token, int32_t head, float *row)
{
    const double root = sqrt((double)DIM), period = 2.0 * (double)x->tokens;
    const double at = (double)token + (is_key ? (double)x->tokens * 0.3 : 0);
    const int64_t column = token - 40;
    double sum = 0;
    data_row(row, 1, is_key ? DATA_K : DATA_Q, 0, token, head, DIM);
    for (int32_t d = 0; d < DIM; d++) row[d] *= 0.3f;
    for (int m = 1; m <= HARMONICS; m++) sum += 1 - (double)m / (HARMONICS + 1);
    for (int m = 1; m <= HARMONICS; m++) {
        const double weight = (1 - (double)m / (HARMONICS + 1)) / sum;
        const double size = sqrt(10 * root * weight), angle = 2 * pi * m * at / period;
        row[2 * m - 2] = (float)(size * cos(angle));
        row[2 * m - 1] = (float)(size * sin(angle));
    }
    row[DIM - 1] = (float)sqrt(11 * root);
    if (is_key && (column < 0 || column % APART || column / APART >= 1000)) row[DIM - 1] = 0;
}

static void make_lines_rows(const lines *x, int64_t at, int32_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int32_t h = 0; h < HEADS; h++) {
            const int64_t i = (r * HEADS + h) * DIM;
            make_row(x, 0, at + r, h, x->q + i);
            make_row(x, 1, at + r, h, x->k + i);
            data_row(x->v + i, 1, DATA_V, 0, at + r, h, DIM);
        }
}

static banyan_status open_lines_side(const lines *x, const char *use, int threads,
                                     lines_side *s)
{
    const banyan_rule rule = {.last_layer = -1, .last_head = -1, .use = use};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = spec.kv_heads = HEADS;
    spec.key_dim = DIM;
    spec.cache_dtype = BANYAN_BF16;
    spec.max_tokens = x->tokens;
    spec.max_rows = spec.rollback_tokens = ROWS;
    spec.threads = threads;
    spec.rules = &rule;
    spec.rule_count = 1;
    s->out = calloc((size_t)ROWS * HEADS * DIM, sizeof *s->out);
    if (!s->out) return BANYAN_ERR_MEMORY;
    banyan_status status = banyan_plan_create(&spec, x->comm, &s->plan);
    if (!status) status = banyan_cache_create(s->plan, NULL, &s->cache);
    return status ? status : banyan_sequence_create(s->cache, 0, &s->part.sequence);
}

static banyan_status open_all(lines *x, const char *use, int threads)
{
    const size_t bytes = (size_t)ROWS * HEADS * DIM * sizeof(float);
    x->q = malloc(bytes), x->k = malloc(bytes), x->v = malloc(bytes);
    if (!x->q || !x->k || !x->v) return BANYAN_ERR_MEMORY;
    banyan_status status = banyan_comm_create("self", NULL, &x->comm);
    if (!status) status = open_lines_side(x, use, threads, &x->chosen);
    return status ? status : open_lines_side(x, "dense", threads, &x->dense);
}

static void close_lines_side(lines_side *s)
{
    banyan_cache_destroy(s->cache);
    banyan_plan_destroy(s->plan);
    free(s->out);
}

static void close_all(lines *x)
{
    close_lines_side(&x->chosen);
    close_lines_side(&x->dense);
    banyan_comm_destroy(x->comm);
    free(x->q), free(x->k), free(x->v);
}

static banyan_status fill_both(lines *x)
{
    lines_side *both[] = {&x->chosen, &x->dense};
    banyan_status status = BANYAN_OK;
    for (int64_t at = 0; at < x->tokens && !status; at += ROWS) {
        make_lines_rows(x, at, ROWS);
        for (int i = 0; i < 2 && !status; i++) {
            both[i]->part.at = at;
            both[i]->part.rows = ROWS;
            status = banyan_attend(both[i]->cache, 0, &both[i]->part, 1, NULL, x->k, x->v, NULL,
                                   NULL);
        }
    }
    return status;
}

/* The last call once more: its rows are the last that were made. */
static banyan_status time_last_call(const lines *x, lines_side *s, int i, int threads)
{
    banyan_stats before, after;
    banyan_cache_stats(s->cache, &before);
    const double start = pace_seconds(&x->b->pace, threads);
    const banyan_status status =
        banyan_attend(s->cache, 0, &s->part, 1, x->q, NULL, NULL, s->out, NULL);
    s->seconds[i] = pace_seconds(&x->b->pace, threads) - start;
    banyan_cache_stats(s->cache, &after);
    s->choice[i] = after.choice_seconds - before.choice_seconds;
    s->pairs = (double)(after.pairs - before.pairs);
    return status;
}

static banyan_status measure_lines(lines *x, const char *name, int threads, int *turns)
{
    const int most = x->b->pace.quick ? 1 : TURNS;
    banyan_status status = fill_both(x);
    for (*turns = 0; !status && *turns < most; ++*turns) {
        progress(x->b->j, "%s: turn %d", name, *turns + 1);
        status = time_last_call(x, &x->chosen, *turns, threads);
        if (!status) status = time_last_call(x, &x->dense, *turns, threads);
    }
    return status;
}

/* Of the results: the root of squares of the difference over dense ones. */
static double error_of(const lines *x)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < (int64_t)ROWS * HEADS * DIM; i++) {
        const double a = (double)x->chosen.out[i], b = (double)x->dense.out[i];
        difference += (a - b) * (a - b), size += b * b;
    }
    return sqrt(difference / size);
}

static void print_lines_row(lines *x, const char *name, const char *use, int threads, int turns)
{
    double gain[TURNS], share[TURNS];
    for (int i = 0; i < turns; i++) {
        gain[i] = x->dense.seconds[i] / x->chosen.seconds[i];
        share[i] = x->chosen.choice[i] / x->dense.seconds[i];
    }
    const double chosen = numbers_median(x->chosen.seconds, turns);
    const double dense = numbers_median(x->dense.seconds, turns);
    const double times = numbers_median(gain, turns), choice = numbers_median(share, turns);
    const double kept = x->chosen.pairs / x->dense.pairs, error = error_of(x);
    const char *kernel = banyan_plan_spec(x->dense.plan)->kernel;
    const bool below = times < least_gain || choice > most_choice;
    wrapped(stdout, x->b->is_wide, BENCH_WORDS,
            "%-24s %-11s %7d | %.1f ms, dense %.1f ms: %.2f x faster (at least %.0f); choosing "
            "takes %.2f%% of dense (at most %.0f%%); keeps %.3f of the pairs, error %.2g%s",
            name, kernel, threads, chosen * 1e3, dense * 1e3, times, least_gain, choice * 100,
            most_choice * 100, kept, error, !x->b->pace.quick && below ? ": below" : "");
    if (!x->b->json) return;
    json_t *line = json_pack("{s:s,s:s,s:s,s:i,s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:i}", "row", name,
                             "use", use, "kernel", kernel, "threads", threads, "tokens",
                             (json_int_t)x->tokens, "median_seconds", chosen, "dense_seconds",
                             dense, "gain", times, "choice_share", choice, "kept_share", kept,
                             "error", error, "repetitions", turns);
    output_line(x->b->json, line);
}

int lines_run(const bench *b, int index, int threads)
{
    lines x = {.b = b, .tokens = b->pace.quick ? 2 * ROWS : 16 * ROWS};
    int turns = 0;
    banyan_status status = open_all(&x, uses[index], threads);
    if (!status) status = measure_lines(&x, lines_names[index], threads, &turns);
    progress_end(b->j);
    int code = status ? job_failed(b->j, status, lines_names[index]) : EXIT_OK;
    if (!code) print_lines_row(&x, lines_names[index], uses[index], threads, turns);
    close_all(&x);
    return code;
}
