/* SPDX-License-Identifier: Apache-2.0 */
/* Heads that read as little as has enough of the attention (selector flex), across ranks,
 * against FlexPrefill's definition in float64, written anew here: the full softmax of the
 * observed rows; its sums on blocks, beside the softmax of pooled queries and keys, and how far
 * they diverge; then the fewest blocks of each own block, or the fewest columns and diagonals,
 * and a mask over all tokens.
 *
 *     what is read   every token is a probe of its own: its mass says whether a row reads it
 *     whole numbers  the tokens must be the definition's, where no two sums are too near
 *     real data      a token that is read has at least the last sum that is needed less what
 *                    rounding may do, one that is not at most as much more; likewise diagonals
 *                    and blocks
 *     results        within the oracle's bound
 *     ranks          the tokens of one rank alone; with `reproducible` its bits */
#include "tests/dist/lined.h"

enum { BLOCKS = (TOKENS + BLOCK - 1) / BLOCK };

typedef struct law {
    const char *use;
    double gamma, tau;
    int budget, last;
    int heads; /* the rule is of the first so many, the others are dense */
    /* What is to be met with: calls that read blocks, or lines; of those, some whose columns
     * are more than there is room to gather, or fewer. */
    int blocks, lines, many, few;
} law;

static const law laws[] = {
    {"flex gamma=0.2 tau=0 budget=4 last=16", 0.2, 0, 4, 16, HEADS, 0, 1, 0, 1},
    {"flex gamma=0.6 tau=0 budget=0 last=48", 0.6, 0, 0, 48, HEADS, 0, 1, 1, 0},
    {"flex gamma=0.5 tau=1 budget=0 last=1", 0.5, 1, 0, 1, HEADS, 1, 0, 0, 0},
    {"flex gamma=0.3 tau=0.19 budget=33t last=20", 0.3, 0.19, 33, 20, HEADS, 1, 1, 0, 1},
    {"flex gamma=0.9 tau=0.2 budget=1 last=128", 0.9, 0.2, 1, 128, GROUP, 0, 0, 0, 0},
    {"flex gamma=0.05 tau=0.14 budget=2 last=7", 0.05, 0.14, 2, 7, HEADS, 0, 1, 0, 1},
    {"flex", 0.95, 0.1, 1024, 64, HEADS, 0, 0, 0, 0},
};

/* Of n sums the fewest that have a share. */
typedef struct fewest {
    double sum[TOKENS];
    char is_in[TOKENS];
    int64_t count;
    double limit, error; /* the least that is in; relative, of a sum */
    int decided, apart;  /* how many they are, and which, whatever rounding does */
} fewest;

/* What one query head's rows of a call read. */
typedef struct definition {
    fewest column, diagonal, block[BLOCKS]; /* of each own block of the call */
    int all, pooled;
    int known; /* whether it is pooled */
} definition;

/* ---- the definition ---------------------------------------------------------------------- */

static void take_fewest(fewest *f, int64_t n, double gamma, int64_t least, double error)
{
    double all = 0, reached = 0, best_out = 0;
    f->error = error;
    f->decided = 1;
    f->limit = INFINITY;
    for (int64_t i = 0; i < n; i++) all += f->sum[i];
    while (f->count < n && (f->count < least || reached < gamma * all)) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (!f->is_in[i] && (best < 0 || f->sum[i] > f->sum[best])) best = i;
        f->is_in[best] = 1;
        f->limit = f->sum[best];
        reached += f->sum[best];
        if (++f->count >= least && fabs(reached - gamma * all) <= 2 * error * gamma * all)
            f->decided = 0;
    }
    for (int64_t i = 0; i < n; i++)
        if (!f->is_in[i]) best_out = fmax(best_out, f->sum[i]);
    f->apart = f->count == n || f->limit - best_out > 2 * error * f->limit;
}

/* scale q . k; *size: the same with magnitudes. */
static double product(const double *q, const double *k, double scale, double *size)
{
    double dot = 0;
    *size = 0;
    for (int i = 0; i < DIM; i++) dot += q[i] * k[i], *size += fabs(q[i] * k[i]);
    *size *= scale;
    return dot * scale;
}

/* The mean of rows first .. end-1 of `of` heads' rows. */
static void mean_of(const float *x, int of, int head, int64_t first, int64_t end, double *out)
{
    for (int i = 0; i < DIM; i++) {
        out[i] = 0;
        for (int64_t r = first; r < end; r++)
            out[i] += (double)x[(r * of + head) * DIM + i] / (double)(end - first);
    }
}

/* softmax of n scores. */
static void softmax(double *score, int64_t n)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, score[i]);
    for (int64_t i = 0; i < n; i++) sum += score[i] = exp(score[i] - most);
    for (int64_t i = 0; i < n; i++) score[i] /= sum;
}

/* The pooled softmax of rows first .. end-1 over all blocks. Returns its relative error: twice
 * that of a score, of fp32 queries, means, products and a sum of DIM / 16 + 1 terms. */
static double pool(const trial *t, int head, int64_t first, int64_t end, double *out)
{
    double q[DIM], k[DIM], most = 0;
    const int64_t blocks = (end + BLOCK - 1) / BLOCK;
    mean_of(t->s.q, HEADS, head, first, end, q);
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t last = (b + 1) * BLOCK < end ? (b + 1) * BLOCK : end;
        double size;
        mean_of(t->s.k, KV_HEADS, head / GROUP, b * BLOCK, last, k);
        out[b] = product(q, k, (double)t->s.spec->scale, &size);
        most = fmax(most, size);
    }
    softmax(out, blocks);
    return 2 * most * (DIM / 16 + 1 + 4) * 0x1p-24 + 0x1p-40;
}

/* p of the observed rows, along columns and diagonals. Returns the relative error of a sum, in
 * fp32. */
static double observe(const trial *t, const law *l, int head, int64_t end, definition *d)
{
    double range = 0, size = 0;
    for (int64_t row = end - l->last; row < end; row++) {
        double p[TOKENS], q[DIM], k[DIM], most = -INFINITY, least = INFINITY;
        mean_of(t->s.q, HEADS, head, row, row + 1, q);
        for (int64_t j = 0; j <= row; j++) {
            double sizes;
            mean_of(t->s.k, KV_HEADS, head / GROUP, j, j + 1, k);
            p[j] = product(q, k, (double)t->s.spec->scale, &sizes);
            most = fmax(most, p[j]), least = fmin(least, p[j]), size = fmax(size, sizes);
        }
        range = fmax(range, most - least);
        softmax(p, row + 1);
        for (int64_t j = 0; j <= row; j++)
            d->column.sum[j] += p[j], d->diagonal.sum[row - j] += p[j];
    }
    return (2 * (DIM + 3) * size + 4 * range + 400) * 0x1p-24;
}

/* Does what is pooled tell of what is true? */
static int tells(const trial *t, const law *l, int head, int64_t end, double error, int *known)
{
    double true_mass[BLOCKS] = {0}, pooled[BLOCKS], sum = 0;
    static definition d;
    memset(&d, 0, sizeof d);
    observe(t, l, head, end, &d);
    error += pool(t, head, end - l->last, end, pooled);
    for (int64_t j = 0; j < end; j++) true_mass[j / BLOCK] += d.column.sum[j] / l->last;
    for (int64_t b = 0; b < (end + BLOCK - 1) / BLOCK; b++) {
        const double p = true_mass[b], q = pooled[b], middle = (p + q) / 2;
        if (p > 0) sum += p * log(p / middle) / 2;
        if (q > 0) sum += q * log(q / middle) / 2;
    }
    /* of two distributions whose numbers are off by a share, that of each logarithm, twice */
    *known = l->tau <= 0 || fabs(sum - l->tau * l->tau) > 2 * error;
    return sqrt(fmax(sum, 0)) < l->tau;
}

static void define(const trial *t, const law *l, int head, int64_t at, int64_t end,
                   definition *d)
{
    memset(d, 0, sizeof *d);
    d->known = 1;
    d->all = head >= l->heads || end - at < l->last;
    if (d->all) return;
    const double error = observe(t, l, head, end, d);
    d->pooled = tells(t, l, head, end, error, &d->known);
    take_fewest(&d->column, end, l->gamma, l->budget, error);
    take_fewest(&d->diagonal, end, l->gamma, l->budget, error);
    for (int64_t own = at / BLOCK; own <= (end - 1) / BLOCK; own++) {
        const int64_t first = own * BLOCK > at ? own * BLOCK : at;
        const int64_t last = (own + 1) * BLOCK < end ? (own + 1) * BLOCK : end;
        const double off = pool(t, head, first, last, d->block[own].sum);
        take_fewest(&d->block[own], own + 1, l->gamma, (l->budget + BLOCK - 1) / BLOCK, off);
    }
}

static int defined_reads(void *ctx, int head, int64_t row, int64_t token)
{
    const definition *d = ctx;
    const int64_t own = row / BLOCK, block = token / BLOCK;
    (void)head;
    if (d->all || !block || block == own) return 1;
    if (d->pooled) return d->block[own].is_in[block];
    for (int64_t i = 0; i < TOKENS; i++)
        if (d->diagonal.is_in[i] && is_of_diagonal(i, own - block)) return 1;
    return d->column.is_in[token];
}

/* How many are read, and with `which` which, whatever rounding does? */
static int is_decided(const definition *d, int64_t row, int which)
{
    const fewest *block = &d->block[row / BLOCK], *c = &d->column, *g = &d->diagonal;
    if (d->all || !d->known) return d->all;
    if (d->pooled) return block->decided && (!which || block->apart);
    return c->decided && g->decided && (!which || (c->apart && g->apart));
}

/* ---- checks ------------------------------------------------------------------------------ */

static void check_exact(const trial *t, const law *l, definition *d, int head, int64_t row)
{
    for (int64_t j = 0; j <= row; j++)
        CHECK_MSG(t->read[row][head][j] == defined_reads(d, head, row, j),
                  "%s: head %d, row %lld: token %lld is%s read", l->use, head, (long long)row,
                  (long long)j, t->read[row][head][j] ? "" : " not");
}

static int may_be_in(const fewest *f, int64_t i)
{
    return f->sum[i] >= f->limit * (1 - 2 * f->error);
}

static int must_be_in(const fewest *f, int64_t i)
{
    return f->sum[i] > f->limit * (1 + 2 * f->error);
}

/* A token of a block that may be read for its distance, and must be. */
static void check_token(const trial *t, const law *l, const definition *d, int head,
                        int64_t row, int64_t j, int may, int must)
{
    const fewest *f = d->pooled ? &d->block[row / BLOCK] : &d->column;
    const int64_t i = d->pooled ? j / BLOCK : j;
    const int read = t->read[row][head][j];
    CHECK_MSG(read ? may || may_be_in(f, i) : !must && !must_be_in(f, i),
              "%s: head %d, row %lld: token %lld has %.9g, the limit is %.9g: %s", l->use, head,
              (long long)row, (long long)j, f->sum[i], f->limit, read ? "read" : "not read");
}

static void check_near(const trial *t, const law *l, const definition *d, int head, int64_t row)
{
    const int64_t own = row / BLOCK;
    for (int64_t b = 0; b <= own; b++) {
        int may = !b || b == own, must = may, all = 1, some = 0;
        for (int64_t i = 0; i < TOKENS && !d->pooled; i++)
            if (d->diagonal.sum[i] > 0 && is_of_diagonal(i, own - b))
                may |= may_be_in(&d->diagonal, i), must |= must_be_in(&d->diagonal, i);
        for (int64_t j = b * BLOCK; j < (b + 1) * BLOCK && j <= row; j++) {
            all &= t->read[row][head][j], some |= t->read[row][head][j];
            check_token(t, l, d, head, row, j, may, must);
        }
        CHECK_MSG(!d->pooled || all == some, "%s: head %d, row %lld: a part of block %lld",
                  l->use, head, (long long)row, (long long)b);
    }
}

typedef struct met {
    int rows, decided, blocks, lines, many, few;
} met;

/* All rows of a call of one head. */
static void check_call(const trial *t, const trial *one, const law *l, int head, int64_t at,
                       int64_t end, int mode, met *m)
{
    static definition d;
    define(t, l, head, at, end, &d);
    if (!d.all && d.pooled) m->blocks++;
    if (!d.all && !d.pooled) m->lines++, d.column.count > TOKENS / 8 ? m->many++ : m->few++;
    for (int64_t row = at; row < end; row++) {
        const int which = is_decided(&d, row, 1);
        m->rows++, m->decided += which;
        if (mode != BITS && which && (d.all || mode == WHOLE_NUMBERS))
            check_exact(t, l, &d, head, row);
        if (mode == REAL && !d.all && is_decided(&d, row, 0)) check_near(t, l, &d, head, row);
        if (mode != WHOLE_NUMBERS && which)
            check_result(t, defined_reads, &d, l->use, head, row);
        if (one) check_alone(t, one, l->use, head, row, mode);
    }
}

static void test_law(const law *l, banyan_comm *comm, banyan_comm *self, int mode)
{
    static trial t, one;
    banyan_plan *plan = NULL, *alone = NULL;
    met m = {0};
    const int ready =
        run_trial(&t, l->use, l->heads, comm, mode, &plan) &&
        (comm->size == 1 || run_trial(&one, l->use, l->heads, self, mode, &alone));
    for (int64_t at = 0; at < TOKENS && ready; at = t.call_end[at])
        for (int head = 0; head < HEADS; head++)
            if (sequence_is_written(&t.s, head, 0))
                check_call(&t, alone ? &one : NULL, l, head, at, t.call_end[at], mode, &m);
    CHECK_MSG(m.decided >= m.rows / 2, "%s: of %d rows only %d are no near ties", l->use,
              m.rows, m.decided);
    CHECK_MSG(comm->size > 1 || mode == WHOLE_NUMBERS ||
                  ((!l->blocks || m.blocks) && (!l->lines || m.lines) && (!l->many || m.many) &&
                   (!l->few || m.few)),
              "%s: %d calls of blocks, %d of lines, of which %d many and %d few", l->use,
              m.blocks, m.lines, m.many, m.few);
    end_trial(&t, plan);
    end_trial(&one, alone);
}

/* ---- what is refused --------------------------------------------------------------------- */

static void refused(const char *use, const char *placement, const char *device,
                    banyan_status status, const char *words)
{
    const banyan_rule rule = {0, -1, 0, -1, use};
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_spec spec = spec_of(&rule);
    CHECK(banyan_comm_create("imaginary", "rank:3", &comm) == BANYAN_OK);
    spec.placement = placement;
    spec.device = device;
    if (strcmp(device, "cpu") != 0) spec.key_dim = spec.value_dim = 128, spec.block_tokens = 64;
    const banyan_status got = banyan_plan_create(&spec, comm, &plan);
    CHECK_MSG(got == status && (!words || strstr(banyan_error_message(), words)), "%s: %d, %s",
              use, (int)got, banyan_error_message());
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

static void test_refused(void)
{
    refused("flex", "spread", "cpu", BANYAN_ERR_CONFIG, "\"flex\" needs it whole");
    refused("flex gamma=0", "heads", "cpu", BANYAN_ERR_CONFIG, "gamma=0 reads nothing");
    refused("flex gamma=1.5", "heads", "cpu", BANYAN_ERR_CONFIG, "gamma=1.5 is out of range");
    refused("flex tau=-1", "heads", "cpu", BANYAN_ERR_CONFIG, "tau=-1 is not a number");
    refused("flex last=129", "heads", "cpu", BANYAN_ERR_CONFIG, "last=129 is out of range");
    refused("flex taU=1", "heads", "cpu", BANYAN_ERR_CONFIG, "did you mean \"tau\"");
    refused("flex", "heads", "cpu", BANYAN_OK, NULL);
}

/* Blocks of a rank that is lost are not read, nor are their columns. */
static void test_lost(banyan_comm *self)
{
    const banyan_rule rule = {0, -1, 0, -1, "flex gamma=0.2 tau=0 budget=4 last=16"};
    banyan_spec spec = spec_of(&rule);
    spec.lost_rank = 0;
    banyan_plan *plan = sequence_plan(&spec, self);
    banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
    if (cache) {
        sequence s;
        sequence_make(&s, plan, TOKENS, 3);
        CHECK(sequence_call(&s, cache, 0, 0, ROWS, APPEND | ATTEND) == BANYAN_OK);
        CHECK(sequence_call(&s, cache, 0, ROWS, ROWS, APPEND | ATTEND) == BANYAN_OK);
        for (int64_t row = 0; row < 2 * ROWS; row++)
            CHECK_MSG(isinf(*sequence_lse(&s, 0, row, 1)), "row %lld of a lost rank has read",
                      (long long)row);
        sequence_free(&s);
    }
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL), *self = test_comm("self");
    if (comm->size == 1) test_refused(), test_lost(self);
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++)
        for (int mode = 0; mode < MODES; mode++) test_law(&laws[i], comm, self, mode);
    banyan_comm_destroy(self);
    banyan_comm_destroy(comm);
    return test_end();
}
