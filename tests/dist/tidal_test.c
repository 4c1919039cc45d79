/* SPDX-License-Identifier: Apache-2.0 */
/* Decoded rows that read single tokens which an earlier layer found best (selector tidal),
 * across ranks, against TidalDecode's definition in float64, written anew here: all scores of
 * the layer that chooses, the best tokens of each query head, and then a mask over all tokens
 * in the layers that follow. A prompt is prefilled in calls of random sizes, all layers of
 * each; then rows are decoded, one of them twice.
 *
 *     what is read   every token is a probe of its own: its mass says whether a decoded row
 *                    reads it
 *     whole numbers  the tokens must be the definition's, of equal scores the lower
 *     real data      a token that is read scores at least the k-th best less what rounding may
 *                    do, one that is not at most as much more
 *     results        within the oracle's bound
 *     ranks          the tokens of one rank alone; with `reproducible` its bits */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"

enum {
    LAYERS = 6,
    TOKENS = 80,
    PROMPT = 74,
    ROWS = 40,
    BLOCK = 16,
    HEADS = 8,
    KV_HEADS = 4,
    GROUP = 2,
    DIM = 40,
    VALUE_DIM = 24
};

typedef struct law {
    const char *use;
    int first, again, tokens;
    int heads; /* the rule is of the first so many, the others are dense */
} law;

static const law laws[] = {
    {"tidal first=1 again=3 tokens=9", 1, 3, 9, HEADS},
    {"tidal first=0 again=0 tokens=1t", 0, 0, 1, HEADS},
    {"tidal first=2 again=4 tokens=37", 2, 4, 37, 3},
    {"tidal first=1 again=5 tokens=100000", 1, 5, 100000, HEADS},
};

enum { WHOLE_NUMBERS, REAL, BITS, MODES };

typedef struct trial {
    sequence s;
    float *mass; /* [TOKENS][HEADS] of a decoded row */
    char read[LAYERS][TOKENS][HEADS][TOKENS];
    int rows[TOKENS]; /* of the call that a row was of */
} trial;

/* ---- the definition ---------------------------------------------------------------------- */

typedef struct definition {
    int all;
    char is_read[TOKENS];
    double score[TOKENS], limit, error;
    int apart; /* whatever rounding does */
} definition;

/* The layer whose choice is read, or -1. */
static int source_of(const law *l, int head, int layer)
{
    if (head >= l->heads || layer <= l->first || layer == l->again) return -1;
    return l->again && layer > l->again ? l->again : l->first;
}

static void define(const trial *t, const law *l, int layer, int head, int64_t row,
                   definition *d)
{
    const int source = source_of(l, head, layer);
    double most = 0, best_out = -INFINITY;
    *d = (definition){.all = source < 0 || t->rows[row] > 1 || row < l->tokens};
    for (int64_t j = 0; j <= row && !d->all; j++) {
        double size = 0;
        for (int i = 0; i < DIM; i++) {
            const double x =
                (double)t->s.q[((source * TOKENS + row) * HEADS + head) * DIM + i] *
                (double)t->s.k[((source * TOKENS + j) * KV_HEADS + head / GROUP) * DIM + i];
            d->score[j] += x, size += fabs(x);
        }
        most = fmax(most, size);
    }
    d->error = most * (DIM + 3) * 0x1p-24;
    d->limit = INFINITY;
    for (int n = 0; n < l->tokens && !d->all; n++) {
        int64_t best = -1;
        for (int64_t j = 0; j <= row; j++)
            if (!d->is_read[j] && (best < 0 || d->score[j] > d->score[best])) best = j;
        d->is_read[best] = 1;
        d->limit = d->score[best];
    }
    for (int64_t j = 0; j <= row && !d->all; j++)
        if (!d->is_read[j]) best_out = fmax(best_out, d->score[j]);
    d->apart = d->all || d->limit - best_out > 2 * d->error;
}

static int defined_reads(void *ctx, int head, int64_t row, int64_t token)
{
    const definition *d = ctx;
    (void)head, (void)row;
    return d->all || d->is_read[token];
}

/* ---- running ----------------------------------------------------------------------------- */

static banyan_status attend(trial *t, banyan_cache *cache, int layer, int64_t at, int32_t rows)
{
    sequence *s = &t->s;
    banyan_range probe[TOKENS];
    for (int64_t j = 0; j < TOKENS; j++) probe[j] = (banyan_range){j, j + 1};
    const banyan_rows part = {.sequence = cache->sequence,
                              .at = at,
                              .rows = rows,
                              .probes = probe,
                              .probe_count = (int32_t)(at + rows),
                              .mass = s->spec->reproducible || rows > 1 ? NULL : t->mass};
    const int64_t first = layer * TOKENS + at;
    return banyan_attend(cache, layer, &part, 1, (float *)(void *)s->q_in + first * HEADS * DIM,
                         (float *)(void *)s->k_in + first * KV_HEADS * DIM,
                         (float *)(void *)s->v_in + first * KV_HEADS * VALUE_DIM,
                         sequence_out(s, layer, at, 0), sequence_lse(s, layer, at, 0));
}

/* A call of all layers. */
static void call(trial *t, banyan_cache *cache, int64_t at, int32_t rows)
{
    const sequence *s = &t->s;
    for (int layer = 0; layer < LAYERS; layer++) {
        CHECK_MSG(attend(t, cache, layer, at, rows) == BANYAN_OK, "%s", banyan_error_message());
        for (int64_t r = at; r < at + rows; r++) {
            t->rows[r] = rows;
            for (int head = 0; head < HEADS && rows == 1 && !s->spec->reproducible; head++)
                for (int64_t j = 0; j <= r && sequence_is_written(s, head, layer); j++)
                    t->read[layer][r][head][j] = t->mass[j * HEADS + head] > 0;
        }
    }
}

static void run(trial *t, banyan_cache *cache)
{
    uint64_t seed = 9;
    for (int64_t at = 0, rows; at < PROMPT; at += rows) {
        rows = sequence_chunk(&seed, ROWS, PROMPT - at);
        call(t, cache, at, (int32_t)rows);
    }
    for (int64_t at = PROMPT; at < TOKENS; at++) {
        call(t, cache, at, 1);
        if (at == PROMPT + 5) call(t, cache, at, 1); /* once more */
    }
}

static void make_whole(sequence *s)
{
    uint64_t seed = 77;
    float *q = (float *)(void *)s->q_in, *k = (float *)(void *)s->k_in;
    for (int64_t i = 0; i < (int64_t)LAYERS * TOKENS * HEADS * DIM; i++)
        sequence_set(&q[i], &s->q[i], (float)test_below(&seed, 5) - 2);
    for (int64_t i = 0; i < (int64_t)LAYERS * TOKENS * KV_HEADS * DIM; i++)
        sequence_set(&k[i], &s->k[i], (float)test_below(&seed, 3) - 1);
}

static banyan_spec spec_of(const banyan_rule *rule, const char *placement)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = LAYERS;
    spec.heads = HEADS;
    spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.value_dim = VALUE_DIM;
    spec.max_tokens = TOKENS;
    spec.max_rows = ROWS;
    spec.block_tokens = BLOCK;
    spec.rollback_tokens = 4;
    spec.cache_dtype = BANYAN_F32;
    spec.rules = rule;
    spec.rule_count = 1;
    spec.placement = placement;
    spec.threads = 2;
    return spec;
}

static int run_trial(trial *t, const law *l, banyan_comm *comm, const char *placement, int mode,
                     banyan_plan **plan)
{
    const banyan_rule rule = {0, -1, 0, l->heads - 1, l->use};
    banyan_spec spec = spec_of(&rule, placement);
    if (mode == WHOLE_NUMBERS) spec.cache_dtype = BANYAN_BF16, spec.scale = 0.25f;
    spec.reproducible = mode == BITS;
    spec.threads = mode == BITS ? 2 : 1;
    *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = *plan ? sequence_cache(*plan) : NULL;
    if (!cache) return 0;
    sequence_make(&t->s, *plan, TOKENS, 3);
    if (mode == WHOLE_NUMBERS) make_whole(&t->s);
    t->mass = sequence_take((int64_t)TOKENS * HEADS, sizeof *t->mass);
    sequence_mark_results(&t->s);
    run(t, cache);
    banyan_cache_destroy(cache);
    return 1;
}

static void end_trial(trial *t, banyan_plan *plan)
{
    if (plan) sequence_free(&t->s), free(t->mass);
    t->mass = NULL;
    banyan_plan_destroy(plan);
}

/* ---- checks ------------------------------------------------------------------------------ */

static void check_result(const trial *t, const law *l, definition *d, int layer, int head,
                         int64_t row)
{
    const sequence *s = &t->s;
    double out[VALUE_DIM], lse;
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = VALUE_DIM,
                      .tokens = TOKENS,
                      .scale = (double)s->spec->scale,
                      .k = s->k + (int64_t)layer * TOKENS * KV_HEADS * DIM,
                      .v = s->v + (int64_t)layer * TOKENS * KV_HEADS * VALUE_DIM,
                      .reads = defined_reads,
                      .ctx = d};
    bound b = {.block_tokens = BLOCK, .combines = s->plan->ranks + 1};
    oracle_row(&o, s->q + ((layer * TOKENS + row) * HEADS + head) * DIM, head, row, out, &lse,
               &b);
    const double share =
        oracle_compare(out, lse, &b, VALUE_DIM, sequence_out(s, layer, row, head), BANYAN_F32,
                       sequence_lse(s, layer, row, head));
    CHECK_MSG(share <= 1, "%s: layer %d, head %d, row %lld: error is %.3g of its bound", l->use,
              layer, head, (long long)row, share);
}

static void check_tokens(const trial *t, const law *l, const definition *d, int layer, int head,
                         int64_t row, int mode)
{
    for (int64_t j = 0; j <= row; j++) {
        const int read = t->read[layer][row][head][j];
        const int right = d->all || mode == WHOLE_NUMBERS ? read == (d->all || d->is_read[j])
                          : read ? d->score[j] >= d->limit - 2 * d->error
                                 : d->score[j] <= d->limit + 2 * d->error;
        CHECK_MSG(right,
                  "%s: layer %d, head %d, row %lld: token %lld scores %.9g, the limit is %.9g: "
                  "%s",
                  l->use, layer, head, (long long)row, (long long)j, d->score[j], d->limit,
                  read ? "read" : "not read");
    }
}

static void check_alone(const trial *t, const trial *one, const law *l, int layer, int head,
                        int64_t row, int mode)
{
    CHECK_MSG(mode == BITS
                  ? !memcmp(sequence_out(&t->s, layer, row, head),
                            sequence_out(&one->s, layer, row, head), VALUE_DIM * sizeof(float))
                  : !memcmp(t->read[layer][row][head], one->read[layer][row][head], TOKENS),
              "%s: layer %d, head %d, row %lld: other %s than of one rank alone", l->use, layer,
              head, (long long)row, mode == BITS ? "bits" : "tokens");
}

static void test_law(const law *l, banyan_comm *comm, banyan_comm *self, const char *placement,
                     int mode)
{
    static trial t, one;
    banyan_plan *plan = NULL, *alone = NULL;
    int few = 0, apart = 0;
    const int ready = run_trial(&t, l, comm, placement, mode, &plan) &&
                      (comm->size == 1 || run_trial(&one, l, self, placement, mode, &alone));
    for (int64_t row = 0; row < TOKENS && ready; row++)
        for (int i = 0; i < LAYERS * HEADS; i++) {
            definition d;
            const int layer = i / HEADS, head = i % HEADS;
            if (!sequence_is_written(&t.s, head, layer)) continue;
            define(&t, l, layer, head, row, &d);
            few += !d.all, apart += !d.all && d.apart;
            if (mode != BITS && t.rows[row] == 1)
                check_tokens(&t, l, &d, layer, head, row, mode);
            if (mode == REAL && d.apart) check_result(&t, l, &d, layer, head, row);
            if (alone) check_alone(&t, &one, l, layer, head, row, mode);
        }
    CHECK_MSG(comm->size > 1 || l->tokens > TOKENS || few > 0, "%s: nobody has followed",
              l->use);
    CHECK_MSG(mode == WHOLE_NUMBERS || apart >= few * 9 / 10,
              "%s: of %d rows only %d are no near ties", l->use, few, apart);
    end_trial(&t, plan);
    end_trial(&one, alone);
}

/* ---- what is refused --------------------------------------------------------------------- */

static void refused(const char *use, int32_t first_layer, const char *words)
{
    const banyan_rule rule = {first_layer, -1, 0, -1, use};
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_spec spec = spec_of(&rule, "line");
    CHECK(banyan_comm_create("imaginary", "rank:3", &comm) == BANYAN_OK);
    const banyan_status status = banyan_plan_create(&spec, comm, &plan);
    CHECK_MSG(words ? status == BANYAN_ERR_CONFIG && strstr(banyan_error_message(), words)
                    : status == BANYAN_OK,
              "%s: %d, %s", use, (int)status, banyan_error_message());
    if (plan) {
        int64_t tokens = 0;
        CHECK(banyan_plan_follows(plan, 1, 3, &tokens) == -1 && tokens == 0);
        CHECK(banyan_plan_follows(plan, 2, 3, &tokens) == 1 && tokens == 256);
        CHECK(banyan_plan_follows(plan, 4, 3, NULL) == -1);
        CHECK(banyan_plan_follows(plan, 5, 3, NULL) == 4);
    }
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

static void test_refused(void)
{
    refused("tidal", 0, "layer 13 chooses, and the plan has layers 0..5");
    refused("tidal first=6 again=0", 0, "layer 6 chooses");
    refused("tidal first=3 again=2", 0, "again=2 comes no later than first=3");
    refused("tidal tokens=0", 0, "tokens=0 is out of range");
    refused("tidal first=1 again=0", 2, "it reads what layer 1 chose, which has other rules");
    refused("tidal first=1 again=4", 1, NULL);
}

/* A row for which nothing was chosen reads all: the last one of a prefill, asked alone; also
 * where the same token was decoded once, and was taken back. */
static void test_prefill(banyan_comm *comm)
{
    static trial t;
    const banyan_rule rule = {0, -1, 0, -1, "tidal first=1 again=3 tokens=9"};
    banyan_spec spec = spec_of(&rule, "line");
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
    if (!cache) return;
    sequence_make(&t.s, plan, TOKENS, 3);
    t.mass = sequence_take((int64_t)TOKENS * HEADS, sizeof *t.mass);
    call(&t, cache, 0, 30);
    call(&t, cache, 30, 1);
    for (int layer = 0; layer < 2; layer++) CHECK(attend(&t, cache, layer, 28, 3) == BANYAN_OK);
    CHECK(attend(&t, cache, 2, 28, 2) == BANYAN_OK);
    CHECK(attend(&t, cache, 2, 30, 1) == BANYAN_OK);
    for (int head = 0; head < HEADS; head++)
        for (int64_t j = 0; j <= 30 && sequence_is_written(&t.s, head, 2); j++)
            CHECK_MSG(t.mass[j * HEADS + head] > 0, "head %d: token %lld is not read", head,
                      (long long)j);
    sequence_free(&t.s);
    free(t.mass);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

int main(void)
{
    banyan_comm *comm = NULL, *self = NULL;
    if (banyan_comm_create(NULL, NULL, &comm) != BANYAN_OK ||
        banyan_comm_create("self", NULL, &self) != BANYAN_OK) {
        fprintf(stderr, "%s\n", banyan_error_message());
        return 1;
    }
    if (comm->size == 1) test_refused();
    test_prefill(comm);
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++)
        for (int mode = 0; mode < MODES; mode++)
            test_law(&laws[i], comm, self, (i + (size_t)mode) % 2 ? "line" : "spread", mode);
    banyan_comm_destroy(self);
    banyan_comm_destroy(comm);
    return test_end();
}
