/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of tokens: one row's keys in three parts with three queries, combined (dual chunk
 * attention); sinks, which join once; the mass of several probes, and the strongest token.
 * Against float64, for every merge, on any number of ranks. */
#include "dist/plan.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <math.h>

enum {
    HEADS = 6,
    KV_HEADS = 3,
    DIM = 32,
    TOKENS = 300,
    BLOCK = 16,
    CHUNK = 100, /* of dual chunk attention; not whole blocks */
    ROWS = 24,
    PROBES = 3
};

typedef struct way {
    const char *placement, *merge;
    banyan_home home;
    banyan_out out;
    int reproducible;
    int32_t threads;
    banyan_dtype dtype;
    const char *use; /* of query heads 2..5 */
} way;

static const way ways[] = {
    {"line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0, 1, BANYAN_F32, "dense"},
    {"spread", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_ALL, 0, 2, BANYAN_BF16,
     "s2 stride=3 local=2"},
    {"spread", "butterfly", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 1, 2, BANYAN_F16,
     "sink_window sink=1 window=90t"},
    {"spread", "gather", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0, 1, BANYAN_F32,
     "sink_window sink=20t window=3"},
    {"spread", "allreduce", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 0, 2, BANYAN_BF16, "dense"},
};
enum { WAYS = (int)(sizeof ways / sizeof *ways) };

/* Three versions of each row's query: within its chunk, to the chunk before, to all earlier
 * ones. */
enum { VERSIONS = 3 };

static float q[VERSIONS][TOKENS][HEADS][DIM];
static float k[TOKENS][KV_HEADS][DIM], v[TOKENS][KV_HEADS][DIM];
static float sinks[HEADS] = {-INFINITY, 0, 5, -10, 30, 1};

typedef struct scene {
    banyan_plan *plan;
    const banyan_spec *spec;
    banyan_cache *cache;
    banyan_sequence *sequence;
    const char *name;
} scene;

static int is_written(const scene *s, int head)
{
    return s->spec->out == BANYAN_OUT_ALL ||
           banyan_plan_home(s->plan, 0, head) == s->plan->rank;
}

static int open_scene(scene *s, const way *w, banyan_comm *comm, int has_sinks)
{
    const banyan_rule rule = {0, -1, 2, 5, w->use};
    banyan_spec spec = test_spec(HEADS, KV_HEADS, DIM, BLOCK, TOKENS, &rule);
    spec.evict = 0;
    spec.cache_dtype = w->dtype;
    spec.placement = w->placement;
    spec.merge = w->merge;
    spec.home = w->home;
    spec.out = w->out;
    spec.reproducible = w->reproducible;
    spec.threads = w->threads;
    if (has_sinks) spec.sinks = sinks;
    *s = (scene){.name = w->merge};
    CHECK_MSG(banyan_plan_create(&spec, comm, &s->plan) == BANYAN_OK, "%s",
              banyan_error_message());
    if (!s->plan) return 0;
    s->spec = banyan_plan_spec(s->plan);
    CHECK(banyan_cache_create(s->plan, NULL, &s->cache) == BANYAN_OK);
    CHECK(banyan_sequence_create(s->cache, 1, &s->sequence) == BANYAN_OK);
    const banyan_rows all = {.sequence = s->sequence, .rows = TOKENS};
    CHECK_MSG(banyan_attend(s->cache, 0, &all, 1, NULL, k, v, NULL, NULL) == BANYAN_OK, "%s",
              banyan_error_message());
    return 1;
}

static void close_scene(scene *s)
{
    banyan_cache_destroy(s->cache);
    banyan_plan_destroy(s->plan);
}

/* ---- the oracle of query versions -------------------------------------------------------- */

/* Which version of row `row` reads a token. */
static int version_of(int64_t row, int64_t token)
{
    const int64_t apart = row / CHUNK - token / CHUNK;
    return apart > 2 ? 2 : (int)apart;
}

static double score_of(const scene *s, int version, int64_t row, int head, int64_t token)
{
    const float *key = k[token][head / (HEADS / KV_HEADS)];
    double sum = 0;
    for (int d = 0; d < DIM; d++) sum += (double)q[version][row][head][d] * (double)key[d];
    return sum * (double)s->spec->scale;
}

/* All of a row's tokens, each against its version, and the sink, in one softmax. */
static void expect_row(const scene *s, int64_t row, int head, double *out, double *lse,
                       bound *b)
{
    const double sink = s->spec->sinks ? (double)sinks[head] : -INFINITY;
    double score[TOKENS], top = sink, sum = 0, squares = 0;
    *b = (bound){.key_dim = DIM,
                 .block_tokens = BLOCK,
                 .combines = s->plan->ranks + s->spec->threads + VERSIONS,
                 .rounds = bound_rounds(s->plan->kernel->name, s->spec->cache_dtype)};
    for (int64_t t = 0; t <= row; t++) {
        score[t] = -INFINITY;
        if (!banyan_plan_reads(s->plan, 0, head, row, t)) continue;
        score[t] = score_of(s, version_of(row, t), row, head, t);
        double size = 0;
        for (int d = 0; d < DIM; d++)
            size += fabs((double)q[version_of(row, t)][row][head][d] *
                         (double)k[t][head / (HEADS / KV_HEADS)][d]) *
                    (double)s->spec->scale;
        if (size > b->score) b->score = size;
        if (score[t] > top) top = score[t];
        b->tokens++;
    }
    if (sink > -INFINITY) {
        sum = exp(sink - top);
        squares = sum * sum;
        if (fabs(sink) > b->score) b->score = fabs(sink);
    }
    for (int d = 0; d < DIM; d++) out[d] = 0;
    for (int64_t t = 0; t <= row; t++) {
        const float *value = v[t][head / (HEADS / KV_HEADS)];
        const double weight = score[t] > -INFINITY ? exp(score[t] - top) : 0;
        sum += weight;
        squares += weight * weight;
        for (int d = 0; d < DIM; d++) {
            out[d] += weight * (double)value[d];
            if (fabs((double)value[d]) > b->value) b->value = fabs((double)value[d]);
        }
    }
    for (int d = 0; d < DIM; d++) out[d] /= sum;
    *lse = top + log(sum);
    b->spread = sqrt(squares) / sum;
}

/* ---- dual chunk attention ---------------------------------------------------------------- */

/* Rows at .. at+rows-1 of one chunk: a part for each version that has tokens, and all of them
 * joined. */
static void attend_chunks(const scene *s, int64_t at, int32_t rows, float *out, float *lse)
{
    static float q_in[VERSIONS * ROWS][HEADS][DIM], outs[VERSIONS * ROWS][HEADS][DIM],
        lses[VERSIONS * ROWS][HEADS];
    const int64_t begin = at / CHUNK * CHUNK;
    banyan_rows part[VERSIONS];
    const void *out_of[VERSIONS];
    const float *lse_of[VERSIONS];
    int32_t count = 0;
    for (int version = 0; version < VERSIONS; version++) {
        const int64_t first = version == 2 ? 0 : begin - version * CHUNK;
        const int64_t end = version == 0 ? TOKENS : begin - (version - 1) * CHUNK;
        if (first < 0 || end <= first) continue; /* the chunk has none */
        part[count] = (banyan_rows){
            .sequence = s->sequence, .at = at, .rows = rows, .first = first, .end = end};
        memcpy(q_in[count * rows], q[version][at], (size_t)rows * sizeof q[0][0]);
        out_of[count] = outs[count * rows];
        lse_of[count] = lses[count * rows];
        count++;
    }
    CHECK_MSG(banyan_attend(s->cache, 0, part, count, q_in, NULL, NULL, outs, lses[0]) ==
                  BANYAN_OK,
              "%s: %s", s->name, banyan_error_message());
    CHECK_MSG(banyan_combine(s->cache, 0, rows, count, out_of, lse_of, out, lse) == BANYAN_OK,
              "%s: %s", s->name, banyan_error_message());
}

static void test_chunks(const way *w, banyan_comm *comm, int has_sinks)
{
    /* of the first, second and third chunk, and of the first rows of one */
    static const int64_t places[] = {0, 70, 100, 163, 200, 276};
    static float out[ROWS][HEADS][DIM], lse[ROWS][HEADS];
    scene s;
    if (!open_scene(&s, w, comm, has_sinks)) return;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        attend_chunks(&s, places[i], ROWS, out[0][0], lse[0]);
        for (int row = 0; row < ROWS; row += 5)
            for (int h = 0; h < HEADS; h++) {
                double expect[DIM], expect_lse;
                bound b;
                if (!is_written(&s, h)) continue;
                expect_row(&s, places[i] + row, h, expect, &expect_lse, &b);
                const double error = oracle_compare(expect, expect_lse, &b, DIM, out[row][h],
                                                    BANYAN_F32, &lse[row][h]);
                CHECK_MSG(error <= 1, "%s%s: row %lld head %d: %g times the bound", s.name,
                          has_sinks ? ", sinks" : "", (long long)places[i] + row, h, error);
            }
    }
    close_scene(&s);
}

/* ---- probes ------------------------------------------------------------------------------ */

static const banyan_range probes[PROBES] = {{0, 40}, {33, 161}, {150, 150}};

/* The share of a row's softmax that a range of tokens has, and its bound: sums of weights. */
static double mass_of(const scene *s, int64_t row, int head, banyan_range range)
{
    const double sink = s->spec->sinks ? (double)sinks[head] : -INFINITY;
    double all = exp(sink - 20), part = 0; /* scores are far below 20 + 709 */
    for (int64_t t = 0; t <= row; t++) {
        if (!banyan_plan_reads(s->plan, 0, head, row, t)) continue;
        const double weight = exp(score_of(s, 0, row, head, t) - 20);
        all += weight;
        if (t >= range.first && t < range.end) part += weight;
    }
    return part / all;
}

/* The best score, of tokens that are read, less what rounding may hide. */
static void check_strongest(const scene *s, int64_t row, int head, int64_t token,
                            banyan_range range)
{
    double best = -INFINITY, size = 0;
    for (int64_t t = 0; t <= row; t++) {
        if (!banyan_plan_reads(s->plan, 0, head, row, t)) continue;
        if (t < range.first || t >= range.end) continue;
        const double score = score_of(s, 0, row, head, t);
        if (score > best) best = score;
        if (fabs(score) > size) size = fabs(score);
    }
    if (best == -INFINITY) {
        CHECK_MSG(token == -1, "row %lld head %d: token %lld of none", (long long)row, head,
                  (long long)token);
        return;
    }
    const int is_read = token >= range.first && token < range.end &&
                        banyan_plan_reads(s->plan, 0, head, row, token);
    CHECK_MSG(is_read, "%s: row %lld head %d: token %lld is not read", s->name, (long long)row,
              head, (long long)token);
    if (!is_read) return;
    const double rounds = bound_rounds(s->plan->kernel->name, s->spec->cache_dtype);
    const double e = (size + 8) * (rounds + 100 * 0x1p-24);
    CHECK_MSG(score_of(s, 0, row, head, token) >= best - 2 * e,
              "%s: row %lld head %d: token %lld has %g, the best %g", s->name, (long long)row,
              head, (long long)token, score_of(s, 0, row, head, token), best);
}

static void test_probes(const way *w, banyan_comm *comm, int has_sinks)
{
    static float out[2 * ROWS][HEADS][DIM], lse[2 * ROWS][HEADS], mass[2][PROBES][ROWS][HEADS];
    static float alone[ROWS][HEADS][DIM], q_in[2 * ROWS][HEADS][DIM];
    static int64_t strongest[2][ROWS][HEADS];
    scene s;
    if (!open_scene(&s, w, comm, has_sinks)) return;
    const int64_t at[2] = {40, 270};
    const banyan_range ranges[2] = {{0, TOKENS}, {64, 201}};
    banyan_rows part[2] = {{.sequence = s.sequence, .at = at[0], .rows = ROWS},
                           {.sequence = s.sequence, .at = at[1], .rows = ROWS}};
    for (int i = 0; i < 2; i++) memcpy(q_in[i * ROWS], q[0][at[i]], ROWS * sizeof q[0][0]);
    CHECK(banyan_attend(s.cache, 0, &part[0], 1, q_in, NULL, NULL, alone, NULL) == BANYAN_OK);
    for (int i = 0; i < 2; i++) {
        part[i].probes = probes;
        part[i].probe_count = i ? 1 : PROBES;
        part[i].mass = mass[i][0][0];
        part[i].strongest = strongest[i][0];
    }
    part[1].first = ranges[1].first;
    part[1].end = ranges[1].end;
    part[1].mass = NULL;
    CHECK_MSG(banyan_attend(s.cache, 0, part, 2, q_in, NULL, NULL, out, lse[0]) == BANYAN_OK,
              "%s: %s", s.name, banyan_error_message());
    for (int row = 0; row < ROWS; row++)
        for (int h = 0; h < HEADS; h++) {
            if (!is_written(&s, h)) continue;
            CHECK_MSG(!memcmp(out[row][h], alone[row][h], sizeof out[row][h]),
                      "%s: looking changed row %d head %d", s.name, row, h);
            for (int i = 0; i < 2; i++)
                check_strongest(&s, at[i] + row, h, strongest[i][row][h], ranges[i]);
            for (int p = 0; p < PROBES; p++) {
                const double expect = mass_of(&s, at[0] + row, h, probes[p]);
                const double e = 40 * (bound_rounds(s.plan->kernel->name, w->dtype) + 0x1p-20);
                CHECK_MSG(fabs((double)mass[0][p][row][h] - expect) <= e * expect + 1e-12,
                          "%s: probe %d row %d head %d: %g, expected %g", s.name, p, row, h,
                          (double)mass[0][p][row][h], expect);
            }
        }
    close_scene(&s);
}

/* Small whole numbers are exact in every format: the very token, the lowest of equal ones. */
static void test_exact_strongest(const way *w, banyan_comm *comm)
{
    static float out[ROWS][HEADS][DIM];
    static int64_t strongest[ROWS][HEADS];
    uint64_t seed = 9;
    scene s;
    for (int i = 0; i < TOKENS * KV_HEADS * DIM; i++)
        (&k[0][0][0])[i] = (float)(test_below(&seed, 3) - 1);
    for (int i = 0; i < TOKENS * HEADS * DIM; i++)
        (&q[0][0][0][0])[i] = i % DIM < 3 ? (float)(test_below(&seed, 5) - 2) : 0;
    if (!open_scene(&s, w, comm, 0)) return;
    const banyan_rows part = {
        .sequence = s.sequence, .at = 250, .rows = ROWS, .strongest = strongest[0]};
    CHECK(banyan_attend(s.cache, 0, &part, 1, q[0][250], NULL, NULL, out, NULL) == BANYAN_OK);
    for (int64_t row = 250; row < 250 + ROWS; row++)
        for (int h = 0; h < HEADS; h++) {
            int64_t expect = -1;
            if (!is_written(&s, h)) continue;
            for (int64_t t = 0; t <= row; t++)
                if (banyan_plan_reads(s.plan, 0, h, row, t) &&
                    (expect < 0 ||
                     score_of(&s, 0, row, h, t) > score_of(&s, 0, row, h, expect)))
                    expect = t;
            CHECK_MSG(strongest[row - 250][h] == expect, "%s: row %lld head %d: %lld, not %lld",
                      s.name, (long long)row, h, (long long)strongest[row - 250][h],
                      (long long)expect);
        }
    close_scene(&s);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void refused(const scene *s, const banyan_rows *part, const char *words)
{
    static float out[ROWS][HEADS][DIM];
    const banyan_status status =
        banyan_attend(s->cache, 0, part, 1, q[0], NULL, NULL, out, NULL);
    CHECK_MSG(status == BANYAN_ERR_ARGUMENT && strstr(banyan_error_message(), words), "%d: %s",
              status, banyan_error_message());
}

static void test_refusals(banyan_comm *comm)
{
    static float out[ROWS][HEADS][DIM], lse[ROWS][HEADS];
    const void *outs[2] = {out, NULL};
    const float *lses[2] = {lse[0], lse[0]};
    scene s;
    if (!open_scene(&s, &ways[0], comm, 0)) return;
    banyan_rows part = {.sequence = s.sequence, .rows = 1, .first = 5, .end = 5};
    refused(&s, &part, "first 5, end 5: expected 0 <= first < end, or 0 and 0 for all");
    part.first = -1, part.end = 7;
    refused(&s, &part, "first -1, end 7: expected 0 <= first < end");
    part.first = 0, part.end = INT64_MIN;
    refused(&s, &part, "first 0, end -9223372036854775808: expected 0 <= first < end");
    part.first = part.end = 0;
    part.mass = lse[0];
    refused(&s, &part, "mass without probes: expected 1 or more");
    const banyan_range beyond = {3, TOKENS + 1};
    part.probes = &beyond, part.probe_count = 1;
    refused(&s, &part, "probe 0: first 3, end 301: expected a range within 0..299");
    CHECK(banyan_combine(s.cache, 1, 1, 1, outs, lses, out, NULL) == BANYAN_ERR_ARGUMENT);
    CHECK_MSG(strstr(banyan_error_message(), "combine: layer 1: the plan has layers 0..0"),
              "%s", banyan_error_message());
    CHECK(banyan_combine(s.cache, 0, 0, 1, outs, lses, out, NULL) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_combine(s.cache, 0, 1, 2, outs, lses, out, NULL) == BANYAN_ERR_ARGUMENT);
    CHECK_MSG(strstr(banyan_error_message(), "result 1 has no out"), "%s",
              banyan_error_message());
    CHECK(banyan_combine(NULL, 0, 1, 1, outs, lses, out, NULL) == BANYAN_ERR_ARGUMENT);
    close_scene(&s);
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL);
    uint64_t seed = 21;
    for (int i = 0; i < VERSIONS * TOKENS * HEADS * DIM; i++)
        (&q[0][0][0][0])[i] = test_normal(&seed);
    for (int i = 0; i < TOKENS * KV_HEADS * DIM; i++) {
        (&k[0][0][0])[i] = test_normal(&seed);
        (&v[0][0][0])[i] = test_normal(&seed);
    }
    oracle_round(k[0][0], TOKENS * KV_HEADS * DIM, BANYAN_BF16); /* what each cache holds */
    oracle_round(v[0][0], TOKENS * KV_HEADS * DIM, BANYAN_BF16);
    oracle_round(k[0][0], TOKENS * KV_HEADS * DIM, BANYAN_F16);
    oracle_round(v[0][0], TOKENS * KV_HEADS * DIM, BANYAN_F16);
    test_refusals(comm);
    for (int w = 0; w < WAYS; w++) {
        test_chunks(&ways[w], comm, w % 2);
        test_chunks(&ways[w], comm, 1 - w % 2);
        test_probes(&ways[w], comm, w % 2);
    }
    for (int w = 0; w < WAYS; w++) test_exact_strongest(&ways[w], comm);
    banyan_comm_destroy(comm);
    return test_end();
}
