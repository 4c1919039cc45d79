/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks chosen by data, across ranks, against their definition in float64, written anew here
 * from keys and queries alone. A prompt is prefilled in chunks of random sizes, then rows are
 * decoded; on the way tokens are appended that are not the sequence's, and taken back.
 *
 *     what is read   with a scale of almost 0 every token weighs alike, and values say which
 *                    block a token is of: the result gives how many tokens of each block are
 *                    read
 *     mass           with a share of the softmax over blocks, the fewest of the best that have
 *                    it: as many as in the definition, where the share is not too near to it
 *     whole numbers  the blocks must be the definition's, of equal scores the lower
 *     real data      a block that is read scores at least the k-th best less what rounding may
 *                    do, one that is not at most as much more; and the choice is that of one
 *                    rank alone
 *     results        within the oracle's bound, where no two scores are too near; with
 *                    `reproducible` the bits of one rank alone, also when the cache was saved
 *                    and opened on the way */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <unistd.h>

enum {
    TOKENS = 620,
    PROMPT = 560,
    ROWS = 90,
    BLOCK = 16,
    BLOCKS = 40,
    HEADS = 8,
    KV_HEADS = 4,
    GROUP = 2,
    DIM = 40,
    VALUE_DIM = 48
};

typedef struct law {
    const char *use;
    int bounds, per_query, sink, local, blocks;
    int heads; /* the rule is of the first so many, the others are dense */
    double mass, sharpness;
} law;

static const law laws[] = {
    {"top blocks=5", 0, 0, 1, 1, 5, HEADS, 0, 1},
    {"top by=minmax blocks=64t sink=0 local=2", 1, 0, 0, 2, 4, HEADS, 0, 1},
    {"top by=mean blocks=3 sink=20t local=3 per=query", 0, 1, 2, 3, 3, HEADS, 0, 1},
    {"top by=minmax blocks=7 per=query", 1, 1, 1, 1, 7, HEADS, 0, 1},
    {"top by=minmax blocks=60000", 1, 0, 1, 1, 60000, HEADS, 0, 1},
    {"top blocks=2", 0, 0, 1, 1, 2, GROUP, 0, 1}, /* some ranks choose nothing */
    {"top by=mean mass=0.63 blocks=60000", 0, 0, 1, 1, 60000, HEADS, 0.63, 1},
    {"top by=scaled_mean mass=0.87 blocks=9 per=query", 0, 1, 1, 1, 9, HEADS, 0.87, 4},
    {"top by=minmax mass=0.41 blocks=60000 local=2", 1, 0, 1, 2, 60000, GROUP, 0.41, 1},
};

enum { WHOLE_NUMBERS, REAL, RESULTS, BITS, MODES };

/* The first row of the call that each row was computed by. */
typedef struct trial {
    sequence s;
    int64_t call_at[TOKENS];
    int64_t call_end[TOKENS];
} trial;

/* ---- the definition ---------------------------------------------------------------------- */

/* Sum over the rows that choose together of q_d of one head. */
static double pooled(const trial *t, int head, int64_t row, int d)
{
    int64_t first = row / BLOCK * BLOCK, end = first + BLOCK;
    if (first < t->call_at[row]) first = t->call_at[row];
    if (end > t->call_end[row]) end = t->call_end[row];
    double sum = 0;
    for (int64_t r = first; r < end; r++) sum += (double)t->s.q[(r * HEADS + head) * DIM + d];
    return sum;
}

/* q [heads][DIM] of `heads` heads that choose together. *size: the score with magnitudes, for
 * the error bound. */
static double score_of(const trial *t, const law *l, int kv_head, const double *q, int heads,
                       int64_t block, double *size)
{
    double score = 0;
    *size = 0;
    for (int d = 0; d < DIM; d++) {
        double sum = 0, least = INFINITY, most = -INFINITY;
        for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK; i++) {
            const double k = (double)t->s.k[(i * KV_HEADS + kv_head) * DIM + d];
            sum += k;
            least = k < least ? k : least;
            most = k > most ? k : most;
        }
        for (int h = 0; h < heads; h++) {
            const double x = q[h * DIM + d];
            score += l->bounds ? fmax(x * least, x * most) : x * sum / BLOCK;
            *size += fabs(x) * fmax(fabs(least), fabs(most));
        }
    }
    return score;
}

/* Scores of all blocks; -inf of those that cannot be chosen. Returns the rounding error that a
 * score may have: of q, the summary, a product, and of a sum of DIM / 16 + 1 terms, twice as
 * many of two bounds. */
static double all_scores(const trial *t, const law *l, int head, int64_t row, double *score)
{
    const int kv_head = head / GROUP, heads = l->per_query ? 1 : GROUP;
    double most = 0, q[GROUP * DIM];
    for (int i = 0; i < heads * DIM; i++)
        q[i] = pooled(t, (l->per_query ? head : kv_head * GROUP) + i / DIM, row, i % DIM);
    for (int64_t b = 0; b < BLOCKS; b++) {
        double size = 0;
        const int is_candidate = b >= l->sink && b <= row / BLOCK - l->local;
        score[b] = is_candidate ? score_of(t, l, kv_head, q, heads, b, &size) : -INFINITY;
        most = fmax(most, size);
    }
    const int vectors = l->bounds ? 2 : 1;
    return most * (vectors * DIM / 16 + 1 + 3) * 0x1p-24 * 1.01;
}

/* How many are chosen: `blocks`, or the fewest of the best that have a share of the softmax
 * over all; of logits that may be off by `error` of a score. *decided: no such error makes them
 * more or fewer. */
static int64_t count_of(const trial *t, const law *l, int64_t row, const double *score,
                        double error, int *decided)
{
    int64_t first = row / BLOCK * BLOCK, end = first + BLOCK, count = 0;
    double sorted[BLOCKS], all = 0, reached = 0;
    if (first < t->call_at[row]) first = t->call_at[row];
    if (end > t->call_end[row]) end = t->call_end[row];
    const double factor = (double)t->s.spec->scale * l->sharpness /
                          (double)((end - first) * (l->per_query ? 1 : GROUP));
    *decided = 1;
    if (!(l->mass > 0)) return l->blocks;
    for (int64_t b = 0; b < BLOCKS; b++) { /* by insertion */
        int64_t i = count;
        if (!(score[b] > -INFINITY)) continue;
        for (; i > 0 && sorted[i - 1] < score[b]; i--) sorted[i] = sorted[i - 1];
        sorted[i] = score[b];
        count++;
    }
    for (int64_t i = 0; i < count; i++) all += exp(factor * (sorted[i] - sorted[0]));
    int64_t chosen = 0;
    const double near = 2 * factor * error + BLOCKS * 0x1p-38;
    while (chosen < count && chosen < l->blocks && (!chosen || reached < l->mass * all)) {
        reached += exp(factor * (sorted[chosen++] - sorted[0]));
        if (fabs(reached / all - l->mass) <= near) *decided = 0;
    }
    return chosen;
}

/* The k-th best; -inf: there are fewer. */
static double limit_of(const double *score, int64_t k)
{
    double limit = -INFINITY;
    for (int64_t b = 0; b < BLOCKS; b++) {
        int64_t better = 0;
        for (int64_t o = 0; o < BLOCKS; o++) better += score[o] > score[b];
        int64_t as_good = 0;
        for (int64_t o = 0; o < BLOCKS; o++) as_good += score[o] >= score[b];
        if (better < k && as_good >= k) limit = score[b];
    }
    return limit;
}

/* Is the block among the k best, of equal scores the lower one? */
static int is_best(const double *score, int64_t block, int64_t k)
{
    int64_t before = 0;
    for (int64_t o = 0; o < BLOCKS; o++)
        before += score[o] > score[block] || (score[o] >= score[block] && o < block);
    return score[block] > -INFINITY && before < k;
}

static int is_always(const law *l, int head, int64_t row, int64_t block)
{
    return head >= l->heads || block < l->sink ||
           (block <= row / BLOCK && block > row / BLOCK - l->local);
}

/* Are no two scores on both sides of the limit too near? */
static int is_decided(const double *score, int64_t k, double error)
{
    double worst_in = INFINITY, best_out = -INFINITY;
    for (int64_t b = 0; b < BLOCKS; b++)
        if (is_best(score, b, k))
            worst_in = fmin(worst_in, score[b]);
        else
            best_out = fmax(best_out, score[b]);
    return worst_in - best_out > 2 * error;
}

/* ---- running ----------------------------------------------------------------------------- */

static void call(trial *t, banyan_cache *cache, int64_t at, int32_t rows)
{
    CHECK_MSG(sequence_call(&t->s, cache, 0, at, rows, APPEND | ATTEND) == BANYAN_OK, "%s",
              banyan_error_message());
    for (int64_t r = at; r < at + rows; r++) t->call_at[r] = at, t->call_end[r] = at + rows;
}

/* Tokens `at` on get the first tokens' keys and values, and then they are taken back. */
static void detour(trial *t, banyan_cache *cache, int64_t at)
{
    CHECK_MSG(sequence_attend(cache, 0, at, 37, NULL, t->s.k_in, t->s.v_in, NULL, NULL) ==
                  BANYAN_OK,
              "%s", banyan_error_message());
}

/* The cache, saved to a folder and opened from there: full blocks, and one that is not. */
static banyan_cache *reopen(const trial *t, banyan_cache *cache)
{
    banyan_comm *comm = t->s.plan->comm;
    char folder[128], command[160];
    long id = (long)getpid();
    CHECK(banyan_comm_broadcast(comm, &id, sizeof id, 0) == BANYAN_OK);
    snprintf(folder, sizeof folder, "%s/choice_test.%ld",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", id);
    const banyan_status status = banyan_cache_save(cache, folder, NULL, 0);
    if (status == BANYAN_ERR_UNSUPPORTED) return cache; /* a build without checksums */
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    banyan_cache_destroy(cache);
    CHECK_MSG(banyan_cache_open(t->s.plan, NULL, folder, &cache) == BANYAN_OK, "%s",
              banyan_error_message());
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (comm->rank == 0) CHECK(system(command) == 0);
    return cache;
}

static banyan_cache *run(trial *t, banyan_cache *cache, int reopens)
{
    uint64_t seed = 5;
    for (int64_t at = 0, rows; at < PROMPT; at += rows) {
        rows = sequence_chunk(&seed, ROWS, PROMPT - at);
        if (at > 300 && at < 400) detour(t, cache, at);
        call(t, cache, at, (int32_t)rows);
    }
    if (reopens) cache = reopen(t, cache);
    for (int64_t at = PROMPT; at < TOKENS; at++) {
        if (at == PROMPT + 9) detour(t, cache, at);
        call(t, cache, at, 1);
    }
    return cache;
}

static void shape_data(sequence *s, int mode)
{
    uint64_t seed = 77;
    float *q = (float *)(void *)s->q_in, *k = (float *)(void *)s->k_in;
    float *v = (float *)(void *)s->v_in;
    for (int64_t i = 0; i < (int64_t)TOKENS * HEADS * DIM && mode == WHOLE_NUMBERS; i++)
        sequence_set(&q[i], &s->q[i], (float)test_below(&seed, 5) - 2);
    for (int64_t i = 0; i < (int64_t)TOKENS * KV_HEADS * DIM && mode == WHOLE_NUMBERS; i++)
        sequence_set(&k[i], &s->k[i], (float)test_below(&seed, 3) - 1);
    for (int64_t i = 0; i < (int64_t)TOKENS * KV_HEADS * VALUE_DIM && mode <= REAL; i++) {
        const int64_t token = i / (KV_HEADS * VALUE_DIM);
        sequence_set(&v[i], &s->v[i], (float)(token / BLOCK == i % VALUE_DIM));
    }
}

static int run_trial(trial *t, const law *l, banyan_comm *comm, const char *placement, int mode,
                     int reopens, banyan_plan **plan)
{
    const banyan_rule rule = {0, -1, 0, l->heads - 1, l->use};
    banyan_spec spec = test_spec(HEADS, KV_HEADS, DIM, BLOCK, TOKENS, &rule);
    spec.value_dim = VALUE_DIM;
    spec.max_rows = ROWS;
    spec.rollback_tokens = 40;
    if (mode == WHOLE_NUMBERS && l->per_query) spec.cache_dtype = BANYAN_BF16;
    spec.placement = placement;
    spec.threads = 2;
    spec.reproducible = mode == BITS;
    if (mode <= REAL) spec.scale = 1e-20f;
    *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = *plan ? sequence_cache(*plan) : NULL;
    if (!cache) return 0;
    sequence_make(&t->s, *plan, TOKENS, 3);
    shape_data(&t->s, mode);
    sequence_mark_results(&t->s);
    banyan_cache_destroy(run(t, cache, reopens));
    return 1;
}

static void end_trial(trial *t, banyan_plan *plan)
{
    if (plan) sequence_free(&t->s);
    banyan_plan_destroy(plan);
}

/* ---- checks ------------------------------------------------------------------------------ */

/* How many tokens of a block the row has read. */
static double tokens_read(const sequence *s, int head, int64_t row, int64_t block)
{
    float out;
    memcpy(&out, sequence_out(s, 0, row, head) + (size_t)block * sizeof out, sizeof out);
    return (double)out * exp((double)*sequence_lse(s, 0, row, head));
}

static void check_choice(const trial *t, const law *l, int head, int64_t row, int mode)
{
    double score[BLOCKS];
    const double error = all_scores(t, l, head, row, score);
    int decided;
    const int64_t most = count_of(t, l, row, score, error, &decided);
    if (!decided) return;
    const double limit = limit_of(score, most);
    int64_t chosen = 0;
    for (int64_t b = 0; b <= row / BLOCK; b++) {
        const int64_t tokens = b == row / BLOCK ? row % BLOCK + 1 : BLOCK;
        const double got = tokens_read(&t->s, head, row, b);
        const int read = got > 0.5;
        CHECK_MSG(fabs(got - (double)(read * tokens)) < 0.01,
                  "%s: head %d, row %lld: %.3f tokens of block %lld", l->use, head,
                  (long long)row, got, (long long)b);
        if (is_always(l, head, row, b)) {
            CHECK_MSG(read, "%s: head %d, row %lld: block %lld is always read", l->use, head,
                      (long long)row, (long long)b);
            continue;
        }
        chosen += read;
        const int right = mode == WHOLE_NUMBERS ? read == is_best(score, b, most)
                          : read                ? score[b] >= limit - 2 * error
                                                : score[b] <= limit + 2 * error;
        CHECK_MSG(right, "%s: head %d, row %lld: block %lld scores %.9g, the limit is %.9g: %s",
                  l->use, head, (long long)row, (long long)b, score[b], limit,
                  read ? "read" : "not read");
    }
    int64_t candidates = head >= l->heads ? 0 : row / BLOCK - l->local - l->sink + 1;
    if (candidates < 0) candidates = 0;
    CHECK_MSG(chosen == (candidates < most ? candidates : most),
              "%s: head %d, row %lld: %lld of %lld blocks", l->use, head, (long long)row,
              (long long)chosen, (long long)candidates);
}

typedef struct choice_of_row {
    const law *l;
    const double *score;
    int64_t count;
} choice_of_row;

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const choice_of_row *c = ctx;
    return is_always(c->l, head, row, token / BLOCK) ||
           is_best(c->score, token / BLOCK, c->count);
}

/* Returns 0 for a row whose choice is too near a tie. */
static int check_result(const trial *t, const law *l, int head, int64_t row)
{
    double score[BLOCKS], out[VALUE_DIM], lse;
    const double error = all_scores(t, l, head, row, score);
    int decided;
    choice_of_row c = {l, score, count_of(t, l, row, score, error, &decided)};
    if (!decided || !is_decided(score, c.count, error)) return 0;
    const sequence *s = &t->s;
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = VALUE_DIM,
                      .tokens = TOKENS,
                      .scale = (double)s->spec->scale,
                      .k = s->k,
                      .v = s->v,
                      .reads = reads,
                      .ctx = &c};
    bound b = {.block_tokens = BLOCK, .combines = s->plan->ranks + 1};
    oracle_row(&o, s->q + (row * HEADS + head) * DIM, head, row, out, &lse, &b);
    const double share = oracle_compare(out, lse, &b, VALUE_DIM, sequence_out(s, 0, row, head),
                                        BANYAN_F32, sequence_lse(s, 0, row, head));
    CHECK_MSG(share <= 1, "%s: head %d, row %lld: error is %.3g of its bound", l->use, head,
              (long long)row, share);
    return 1;
}

/* The same as one rank alone: in real data the blocks, with `reproducible` every bit. */
static void check_alone(const trial *t, const trial *one, const law *l, int head, int64_t row,
                        int mode)
{
    for (int64_t b = 0; b < BLOCKS && mode == REAL; b++)
        CHECK_MSG(fabs(tokens_read(&t->s, head, row, b) - tokens_read(&one->s, head, row, b)) <
                      0.01,
                  "%s: head %d, row %lld: block %lld is not read by one rank alone alike",
                  l->use, head, (long long)row, (long long)b);
    if (mode == BITS)
        CHECK_MSG(!memcmp(sequence_out(&t->s, 0, row, head),
                          sequence_out(&one->s, 0, row, head), VALUE_DIM * sizeof(float)),
                  "%s: head %d, row %lld: other bits than of one rank alone", l->use, head,
                  (long long)row);
}

static void test_law(const law *l, banyan_comm *comm, banyan_comm *self, const char *placement,
                     int mode)
{
    static trial t, one;
    banyan_plan *plan = NULL, *alone = NULL;
    int64_t rows = 0, compared = 0;
    int ready = run_trial(&t, l, comm, placement, mode, mode == BITS, &plan);
    if (ready && (mode == REAL || mode == BITS))
        ready = run_trial(&one, l, self, placement, mode, 0, &alone);
    for (int64_t row = 0; row < TOKENS && ready; row += row < PROMPT ? 3 : 1)
        for (int head = 0; head < HEADS; head++) {
            if (!sequence_is_written(&t.s, head, 0)) continue;
            rows++;
            if (mode <= REAL) check_choice(&t, l, head, row, mode);
            if (mode == RESULTS) compared += check_result(&t, l, head, row);
            if (alone) check_alone(&t, &one, l, head, row, mode);
        }
    if (mode == RESULTS)
        CHECK_MSG(compared >= rows * 99 / 100, "%s: of %lld rows only %lld are no near ties",
                  l->use, (long long)rows, (long long)compared);
    end_trial(&t, plan);
    end_trial(&one, alone);
}

/* Holders tell each other in one round what they found, and nobody does where heads are whole;
 * what is read of blocks and of summaries. */
static void test_plan(void)
{
    static const struct {
        const char *placement, *use;
        int rounds, vectors;
    } cases[] = {{"heads", "top blocks=64", 0, 1},
                 {"spread", "top blocks=64", 1, 1},
                 {"heads", "top by=minmax blocks=64", 0, 2},
                 {"spread", "top by=minmax blocks=64", 1, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const banyan_rule rule = {0, -1, 0, -1, cases[i].use};
        const int64_t summary = cases[i].vectors * 128 * (int64_t)sizeof(float);
        banyan_comm *comm = NULL;
        banyan_spec spec;
        CHECK(banyan_comm_create("imaginary", "rank:4", &comm) == BANYAN_OK);
        banyan_spec_init(&spec);
        spec.layers = 1;
        spec.heads = spec.kv_heads = 8;
        spec.key_dim = 128;
        spec.max_tokens = 1 << 20;
        spec.rules = &rule;
        spec.rule_count = 1;
        spec.placement = cases[i].placement;
        banyan_plan *plan = sequence_plan(&spec, comm);
        if (plan) {
            banyan_share share;
            int64_t read = 0, summaries = 0;
            banyan_choosing choosing;
            const banyan_kind *kind = &plan->kind[0];
            CHECK(kind->pick_schedule.rounds == cases[i].rounds && kind->pickers == 8);
            for (int r = 0; r < 4; r++) {
                CHECK(banyan_plan_share(plan, r, 1, (1 << 20) - 1, &share) == BANYAN_OK);
                read += share.read_blocks;
                summaries += share.summary_bytes;
            }
            CHECK_MSG(read == 8 * (64 + 2), "%lld blocks are read", (long long)read);
            CHECK(kind->shape.record_bytes - plan->kernel->record_bytes(&kind->shape.block) ==
                  (size_t)summary);
            /* own block 16383: all but it and the first one are judged */
            CHECK_MSG(summaries == 8 * 16382 * summary, "%lld bytes of summaries are read",
                      (long long)summaries);
            CHECK(banyan_plan_chooses(plan, 0, 7, &choosing) &&
                  choosing.summary_bytes == summary);
        }
        banyan_plan_destroy(plan);
        banyan_comm_destroy(comm);
    }
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL), *self = test_comm("self");
    if (comm->size == 1) test_plan();
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++)
        for (int mode = 0; mode < MODES; mode++)
            test_law(&laws[i], comm, self,
                     laws[i].heads < HEADS    ? "heads"
                     : (i + (size_t)mode) % 2 ? "spread"
                                              : "line",
                     mode);
    banyan_comm_destroy(self);
    banyan_comm_destroy(comm);
    return test_end();
}
