/* SPDX-License-Identifier: Apache-2.0 */
/* Published head patterns, across ranks: each row of the table against its definition, written
 * anew here token by token, as a mask on the full scores. A prompt is prefilled in chunks of
 * random sizes, then rows are decoded, with eviction.
 *
 *     the same tokens   q = 0 weighs all tokens that are read alike, so that lse is the
 *                       logarithm of their number, and a value of random bits gives how many of
 *                       them have each bit: whole numbers, which must be the mask's
 *     real data         random q, k and v, within the oracle's bound */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"
#include "tests/world.h"

enum { TOKENS = 700, PROMPT = 601, ROWS = 150, BLOCK = 16, HEADS = 8, KV_HEADS = 4, DIM = 32 };

typedef int (*law_fn)(void *ctx, int head, int64_t row, int64_t token);

/* DuoAttention's streaming heads: sink + recent, at every row. */
static int duo(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx, (void)head;
    return token < 64 || row - token < 256;
}

/* MoA, alpha -100, beta 0.375: size = int(alpha + beta N), min N, max 128, up to a multiple of
 * 64; of it 64 sinks, and the rest is a ring buffer. */
static int moa(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx, (void)head;
    int size = (int)(-100 + 0.375 * TOKENS);
    if (size > TOKENS) size = TOKENS;
    if (size < 128) size = 128;
    while (size % 64) size++;
    return token < 64 || token >= row + 1 - (size - 64);
}

/* MInference's A-shape: n_init 40, n_local 150, in the prefill; decode is dense. */
static int a_shape(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx, (void)head;
    return row >= PROMPT || token < 40 || token > row - 150;
}

/* Tri-shape: the last 100 rows of the prompt are dense as well. */
static int tri_shape(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx, (void)head;
    return row >= PROMPT - 100 || token < 64 || token > row - 90;
}

/* Three blocks, then one in 2 of the next 6, one in 4 of the next 12, one in 8 beyond: shifted
 * by the KV head. */
static int strided(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx;
    const int64_t i = row / BLOCK, j = token / BLOCK, h = head / (HEADS / KV_HEADS);
    if (i - j < 3) return 1;
    if (i - j < 9) return (j + h) % 2 == 0;
    if (i - j < 21) return (j + h) % 4 == 0;
    return (j + h) % 8 == 0;
}

/* .. that do not divide one another, by query heads, and nothing beyond 30 blocks. */
static int ragged(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx;
    const int64_t i = row / BLOCK, j = token / BLOCK, shift = 2 * head + 1;
    if (i - j < 1) return 1;
    if (i - j < 12) return (j + shift) % 5 == 0;
    return i - j < 30 && (j + shift) % 3 == 0;
}

/* vLLM's blocksparse attention, per query head. */
static int vllm(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx;
    return token / BLOCK > row / BLOCK - 3 || (token / BLOCK + head + 1) % 4 == 0;
}

/* RazorAttention: 40 sinks, the last max(60, N // 8) tokens, in whole blocks of 16: 6 of them.
 * What lies between counts by its means. */
static int razor(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx, (void)head;
    return token < 40 || row / BLOCK - token / BLOCK < 6;
}

static int razor_short(void *ctx, int head, int64_t row, int64_t token)
{
    (void)ctx, (void)head;
    return token < 32 || row / BLOCK == token / BLOCK;
}

typedef struct law_case {
    const char *use;
    law_fn reads;
    int joins; /* tokens that are not read count by the means of their keys and values */
} law_case;

static const law_case laws[] = {
    {"sink_window sink=64t window=256t", duo, 0},
    {"span alpha=-100 beta=0.375", moa, 0},
    {"razor sink=40t recent=60t part=8", razor, 1},
    {"razor sink=2 recent=1 part=0", razor_short, 1},
    {"a_shape prompt=601 sink=40t window=150t", a_shape, 0},
    {"tri_shape prompt=601t sink=64t window=90t", tri_shape, 0},
    {"strided local=3 stride1=2 range1=6 stride2=4 range2=12 stride3=8 range3=0", strided, 0},
    {"strided local=1 stride1=5 range1=11 stride2=3 range2=18 step=2 offset=1 per=query",
     ragged, 0},
    {"s2 stride=4 local=3 offset=1 per=query", vllm, 0},
};

/* ---- running ----------------------------------------------------------------------------- */

static void call(sequence *s, banyan_cache *cache, int64_t at, int32_t rows)
{
    CHECK_MSG(sequence_call(s, cache, 0, at, rows, APPEND | ATTEND) == BANYAN_OK, "%s",
              banyan_error_message());
}

static void run(sequence *s, banyan_cache *cache)
{
    uint64_t seed = 5;
    for (int64_t at = 0, rows; at < PROMPT; at += rows) {
        rows = sequence_chunk(&seed, ROWS, PROMPT - at);
        call(s, cache, at, (int32_t)rows);
    }
    for (int64_t at = PROMPT; at < TOKENS; at++) call(s, cache, at, 1);
}

static void make_countable(sequence *s)
{
    uint64_t seed = 77;
    float *q = (float *)(void *)s->q_in, *v = (float *)(void *)s->v_in;
    for (int64_t i = 0; i < (int64_t)TOKENS * HEADS * DIM; i++)
        sequence_set(&q[i], &s->q[i], 0);
    for (int64_t i = 0; i < (int64_t)TOKENS * KV_HEADS * DIM; i++)
        sequence_set(&v[i], &s->v[i], (float)test_below(&seed, 2));
}

static void check_tokens(const sequence *s, const law_case *law, int head, int64_t row)
{
    const float *v = s->v + head / (HEADS / KV_HEADS) * DIM;
    int64_t tokens = 0, bits[DIM] = {0};
    for (int64_t t = 0; t <= row; t++) {
        if (!law->joins && !law->reads(NULL, head, row, t)) continue;
        tokens++;
        for (int d = 0; d < DIM; d++) bits[d] += v[t * KV_HEADS * DIM + d] > 0;
    }
    const double read = exp((double)*sequence_lse(s, 0, row, head));
    CHECK_MSG(fabs(read - (double)tokens) < 0.01, "%s: head %d, row %lld reads %.3f, not %lld",
              law->use, head, (long long)row, read, (long long)tokens);
    for (int d = 0; d < DIM; d++) {
        float out;
        memcpy(&out, sequence_out(s, 0, row, head) + (size_t)d * sizeof out, sizeof out);
        CHECK_MSG(fabs((double)out * (double)tokens - (double)bits[d]) < 0.01,
                  "%s: head %d, row %lld: bit %d of %.3f tokens, not %lld", law->use, head,
                  (long long)row, d, (double)out * (double)tokens, (long long)bits[d]);
    }
}

/* n tokens that count by their means are n tokens with these for keys and values. */
static float *with_means(const law_case *law, const float *given, int64_t row)
{
    const int64_t numbers = KV_HEADS * DIM;
    float *x = sequence_take((row + 1) * numbers, sizeof *x);
    memcpy(x, given, (size_t)((row + 1) * numbers) * sizeof *x);
    for (int64_t d = 0; d < numbers; d++) {
        double sum = 0;
        int64_t count = 0;
        for (int64_t t = 0; t <= row; t++)
            if (!law->reads(NULL, 0, row, t)) sum += (double)given[t * numbers + d], count++;
        for (int64_t t = 0; t <= row; t++)
            if (!law->reads(NULL, 0, row, t)) x[t * numbers + d] = (float)(sum / (double)count);
    }
    return x;
}

static void check_result(const sequence *s, const law_case *law, int head, int64_t row)
{
    float *k = law->joins ? with_means(law, s->k, row) : s->k;
    float *v = law->joins ? with_means(law, s->v, row) : s->v;
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = DIM,
                      .tokens = TOKENS,
                      .scale = (double)s->spec->scale,
                      .k = k,
                      .v = v,
                      .reads = law->joins ? NULL : law->reads};
    double out[DIM], lse;
    bound b = {.block_tokens = BLOCK, .combines = s->plan->ranks + 1};
    oracle_row(&o, s->q + (row * HEADS + head) * DIM, head, row, out, &lse, &b);
    const double error = oracle_compare(out, lse, &b, DIM, sequence_out(s, 0, row, head),
                                        BANYAN_F32, sequence_lse(s, 0, row, head));
    CHECK_MSG(error <= 1, "%s: head %d, row %lld: error is %.3g of its bound", law->use, head,
              (long long)row, error);
    if (law->joins) free(k), free(v);
}

static void test_law(const law_case *law, banyan_comm *comm, const char *placement, int counts)
{
    const banyan_rule rule = {0, -1, 0, -1, law->use};
    banyan_spec spec = test_spec(HEADS, KV_HEADS, DIM, BLOCK, TOKENS, &rule);
    spec.max_rows = ROWS;
    spec.placement = law->joins ? "heads" : placement; /* which are whole */
    spec.threads = 2;
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
    if (cache) {
        sequence s;
        sequence_make(&s, plan, TOKENS, 3);
        if (counts) make_countable(&s);
        sequence_mark_results(&s);
        run(&s, cache);
        for (int64_t row = 0; row < TOKENS; row++)
            for (int head = 0; head < HEADS && (row % 3 || !law->joins || counts); head++)
                if (sequence_is_written(&s, head, 0))
                    (counts ? check_tokens : check_result)(&s, law, head, row);
        sequence_free(&s);
    }
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL);
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++)
        for (int counts = 0; counts < 2; counts++)
            test_law(&laws[i], comm, (i + (size_t)counts) % 2 ? "spread" : "line", counts);
    banyan_comm_destroy(comm);
    return test_end();
}
