/* SPDX-License-Identifier: Apache-2.0 */
/* Columns and diagonals chosen by the last rows of a call (selector vertical_slash), across
 * ranks, against MInference's definition in float64, written anew here: the full softmax of the
 * observed rows, its sums along columns and diagonals, the best of each, and then a mask over
 * all tokens. A prompt is prefilled in calls of random sizes, of which short ones read all;
 * then rows are decoded.
 *
 *     what is read   every token is a probe of its own: its mass says whether a row reads it
 *     whole numbers  the tokens must be the definition's, where no two sums are too near
 *     real data      a column that is read has at least the k-th sum less what rounding may do,
 *                    one that is not at most as much more; likewise the diagonals of a block
 *     results        within the oracle's bound
 *     ranks          the tokens of one rank alone; with `reproducible` its bits; and those of
 *                    calls that are made alone, when several sequences share one */
#include "tests/dist/lined.h"

typedef struct law {
    const char *use;
    int columns, diagonals, last, sink, local;
    int heads; /* the rule is of the first so many, the others are dense */
} law;

static const law laws[] = {
    {"vertical_slash columns=20 diagonals=12 last=16 sink=3 local=5", 20, 12, 16, 3, 5, HEADS},
    {"vertical_slash columns=9t diagonals=1 sink=0 local=0", 9, 1, 64, 0, 0, HEADS},
    {"vertical_slash columns=70 diagonals=3 last=128 sink=2 local=2", 70, 3, 128, 2, 2, GROUP},
    {"vertical_slash columns=60000 diagonals=9 last=1 local=3", 60000, 9, 1, 30, 3, HEADS},
    {"vertical_slash columns=30 diagonals=60000 last=33", 30, 60000, 33, 30, 100, HEADS},
};

/* What one query head's rows of a call read. */
typedef struct definition {
    double column[TOKENS], diagonal[TOKENS]; /* sums of p */
    char is_column[TOKENS], is_diagonal[TOKENS];
    double column_limit, diagonal_limit; /* the k-th best */
    double error;                        /* relative, of a sum */
    int decided, all;
} definition;

/* ---- the definition ---------------------------------------------------------------------- */

/* Of n sums the k best, of equal ones the lower; forced ones first. ties: equal sums are of
 * equal scores, and so equal to the last bit. */
static void take_best(const double *sum, int64_t n, int64_t k, int64_t forced, char *is_best,
                      double *limit, double error, int ties, int *decided)
{
    double worst_in = INFINITY, best_out = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t before = i < forced ? i : forced < n ? forced : n;
        for (int64_t o = forced; o < n && i >= forced; o++)
            before += sum[o] > sum[i] || (sum[o] >= sum[i] && o < i);
        is_best[i] = before < k;
        if (i < forced) continue;
        if (is_best[i])
            worst_in = fmin(worst_in, sum[i]);
        else
            best_out = fmax(best_out, sum[i]);
    }
    *limit = worst_in;
    if (ties && best_out >= worst_in) return;
    if (best_out > 0 && worst_in < INFINITY && worst_in - best_out <= 2 * error * worst_in)
        *decided = 0;
}

static void define(const trial *t, const law *l, int head, int64_t at, int64_t end,
                   definition *d)
{
    const sequence *s = &t->s;
    double range = 0, size = 0;
    memset(d, 0, sizeof *d);
    d->decided = 1;
    d->all = head >= l->heads || end - at < l->last;
    for (int64_t row = end - l->last; row < end && !d->all; row++) {
        double score[TOKENS], most = -INFINITY, least = INFINITY, sum = 0;
        for (int64_t j = 0; j <= row; j++) {
            double dot = 0, sizes = 0;
            for (int i = 0; i < DIM; i++) {
                const double x = (double)s->q[(row * HEADS + head) * DIM + i] *
                                 (double)s->k[(j * KV_HEADS + head / GROUP) * DIM + i];
                dot += x, sizes += fabs(x);
            }
            score[j] = dot * (double)s->spec->scale;
            most = fmax(most, score[j]), least = fmin(least, score[j]);
            size = fmax(size, sizes * (double)s->spec->scale);
        }
        range = fmax(range, most - least);
        for (int64_t j = 0; j <= row; j++) sum += exp(score[j] - most);
        for (int64_t j = 0; j <= row; j++) {
            d->column[j] += exp(score[j] - most) / sum;
            d->diagonal[row - j] += exp(score[j] - most) / sum;
        }
    }
    if (d->all) return;
    /* fp32: a score, its difference to the largest, an exponential, and sums of up to 150 of
     * them */
    const int ties = l->last == 1 && s->spec->cache_dtype == BANYAN_BF16;
    d->error = (2 * (DIM + 3) * size + 4 * range + 400) * 0x1p-24;
    take_best(d->column, end, l->columns, l->sink, d->is_column, &d->column_limit, d->error,
              ties, &d->decided);
    take_best(d->diagonal, end, l->diagonals, l->local, d->is_diagonal, &d->diagonal_limit,
              d->error, ties, &d->decided);
}

static int is_in_band(const definition *d, int64_t block_distance)
{
    for (int64_t i = 0; i < TOKENS; i++)
        if (d->is_diagonal[i] && is_of_diagonal(i, block_distance)) return 1;
    return !block_distance;
}

static int defined_reads(void *ctx, int head, int64_t row, int64_t token)
{
    const definition *d = ctx;
    (void)head;
    return d->all || d->is_column[token] || is_in_band(d, row / BLOCK - token / BLOCK);
}

/* ---- checks ------------------------------------------------------------------------------ */

static void check_exact(const trial *t, const law *l, definition *d, int head, int64_t row)
{
    for (int64_t j = 0; j <= row; j++)
        CHECK_MSG(t->read[row][head][j] == defined_reads(d, head, row, j),
                  "%s: head %d, row %lld: token %lld is%s read", l->use, head, (long long)row,
                  (long long)j, t->read[row][head][j] ? "" : " not");
}

/* What a block may be for: are all diagonals that read it below the limit, or is one above? */
static void check_near(const trial *t, const law *l, const definition *d, int head, int64_t row)
{
    const double low = d->column_limit * (1 - 2 * d->error);
    const double high = d->column_limit * (1 + 2 * d->error);
    for (int64_t b = 0; b <= row / BLOCK; b++) {
        const int64_t distance = row / BLOCK - b;
        int all = 1, may = !distance, must = !distance;
        for (int64_t i = 0; i < TOKENS; i++) {
            if (!is_of_diagonal(i, distance)) continue;
            const int forced = i < l->local && i < l->diagonals;
            may |= forced || (d->is_diagonal[i] && i < l->local) ||
                   (d->diagonal[i] > 0 &&
                    d->diagonal[i] >= d->diagonal_limit * (1 - 2 * d->error));
            must |= forced || d->diagonal[i] > d->diagonal_limit * (1 + 2 * d->error);
        }
        for (int64_t j = b * BLOCK; j < (b + 1) * BLOCK && j <= row; j++)
            all &= t->read[row][head][j];
        CHECK_MSG(all || !must, "%s: head %d, row %lld: block %lld is not read", l->use, head,
                  (long long)row, (long long)b);
        for (int64_t j = b * BLOCK; j < (b + 1) * BLOCK && j <= row && !(all && may); j++)
            CHECK_MSG(j < l->sink             ? t->read[row][head][j] == (j < l->columns)
                      : t->read[row][head][j] ? d->column[j] >= low
                                              : d->column[j] <= high,
                      "%s: head %d, row %lld: token %lld has %.9g, the limit is %.9g: %s",
                      l->use, head, (long long)row, (long long)j, d->column[j], d->column_limit,
                      t->read[row][head][j] ? "read" : "not read");
    }
}

/* All rows of a call of one head. Returns 0 where the choice is too near a tie. */
static int check_call(const trial *t, const trial *one, const law *l, int head, int64_t at,
                      int64_t end, int mode)
{
    static definition d;
    define(t, l, head, at, end, &d);
    for (int64_t row = at; row < end; row++) {
        if (mode != BITS && (d.all || (mode == WHOLE_NUMBERS && d.decided)))
            check_exact(t, l, &d, head, row);
        if (mode != BITS && !d.all) check_near(t, l, &d, head, row);
        if (d.decided && mode != WHOLE_NUMBERS)
            check_result(t, defined_reads, &d, l->use, head, row);
        if (one) check_alone(t, one, l->use, head, row, mode);
    }
    return d.decided;
}

static void test_law(const law *l, banyan_comm *comm, banyan_comm *self, int mode)
{
    static trial t, one;
    banyan_plan *plan = NULL, *alone = NULL;
    int calls = 0, decided = 0;
    const int ready =
        run_trial(&t, l->use, l->heads, comm, mode, &plan) &&
        (comm->size == 1 || run_trial(&one, l->use, l->heads, self, mode, &alone));
    for (int64_t at = 0; at < TOKENS && ready; at = t.call_end[at])
        for (int head = 0; head < HEADS; head++) {
            if (!sequence_is_written(&t.s, head, 0)) continue;
            calls++;
            decided += check_call(&t, alone ? &one : NULL, l, head, at, t.call_end[at], mode);
        }
    CHECK_MSG(decided >= calls * 9 / 10, "%s: of %d calls only %d are no near ties", l->use,
              calls, decided);
    end_trial(&t, plan);
    end_trial(&one, alone);
}

/* ---- several sequences in a call --------------------------------------------------------- */

enum { PARTS = 4 };

static void attend_parts(const trial *t, banyan_cache *cache, banyan_sequence *const *of,
                         int first, int count, const int32_t *rows, float *out)
{
    banyan_rows part[PARTS];
    static float q[PARTS * ROWS * HEADS * DIM], k[PARTS * ROWS * KV_HEADS * DIM];
    static float v[PARTS * ROWS * KV_HEADS * VALUE_DIM];
    int64_t n = 0;
    for (int i = 0; i < count; i++) {
        part[i] = (banyan_rows){.sequence = of[i], .at = 0, .rows = rows[i]};
        for (int64_t r = 0; r < rows[i]; r++, n++) { /* each its own tokens */
            const int64_t from = 37 * (first + i) + r;
            memcpy(q + n * HEADS * DIM, (float *)(void *)t->s.q_in + from * HEADS * DIM,
                   HEADS * DIM * sizeof *q);
            memcpy(k + n * KV_HEADS * DIM, (float *)(void *)t->s.k_in + from * KV_HEADS * DIM,
                   KV_HEADS * DIM * sizeof *k);
            memcpy(v + n * KV_HEADS * VALUE_DIM,
                   (float *)(void *)t->s.v_in + from * KV_HEADS * VALUE_DIM,
                   KV_HEADS * VALUE_DIM * sizeof *v);
        }
    }
    CHECK_MSG(banyan_attend(cache, 0, part, count, q, k, v, out, NULL) == BANYAN_OK, "%s",
              banyan_error_message());
}

static void test_parts(banyan_comm *comm)
{
    static const int32_t rows[PARTS] = {50, 3, 40, 20};
    static float out[2][PARTS * ROWS * HEADS * VALUE_DIM];
    static trial t;
    const banyan_rule rule = {0, -1, 0, -1,
                              "vertical_slash columns=5 diagonals=4 last=30 sink=1 local=1"};
    banyan_spec spec = spec_of(&rule);
    spec.sequences = 2 * PARTS;
    spec.pool_tokens = 8 * TOKENS;
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = NULL;
    banyan_sequence *of[2 * PARTS];
    if (!plan) return;
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    for (int i = 0; i < 2 * PARTS; i++)
        CHECK(banyan_sequence_create(cache, 0, &of[i]) == BANYAN_OK);
    sequence_make(&t.s, plan, TOKENS, 3);
    attend_parts(&t, cache, of, 0, PARTS, rows, out[0]);
    for (int64_t i = 0, row = 0; i < PARTS; row += rows[i++])
        attend_parts(&t, cache, &of[PARTS + i], (int)i, 1, &rows[i],
                     out[1] + row * HEADS * VALUE_DIM);
    CHECK_MSG(!memcmp(out[0], out[1], sizeof out[0]),
              "parts of one call have other bits than calls of their own");
    sequence_free(&t.s);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

/* ---- what is refused --------------------------------------------------------------------- */

static void test_refused(void)
{
    const banyan_rule rule = {0, -1, 0, -1, "vertical_slash"};
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_spec spec = spec_of(&rule);
    CHECK(banyan_comm_create("imaginary", "rank:3", &comm) == BANYAN_OK);
    spec.placement = "spread";
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_CONFIG &&
          strstr(banyan_error_message(), "\"spread\"") &&
          strstr(banyan_error_message(), "\"vertical_slash\" needs it whole"));
    spec.placement = "heads";
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL), *self = test_comm("self");
    if (comm->size == 1) test_refused();
    test_parts(comm);
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++)
        for (int mode = 0; mode < MODES; mode++) test_law(&laws[i], comm, self, mode);
    banyan_comm_destroy(self);
    banyan_comm_destroy(comm);
    return test_end();
}
