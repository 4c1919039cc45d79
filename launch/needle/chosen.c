/* SPDX-License-Identifier: Apache-2.0 */
/* What heads choose by data, foreseen: the blocks of `top`, the tokens of `tidal`, from their
 * definitions (attention/select_top.c, select_tidal.c) and the constructed model's own queries
 * and keys, in float64 and without the engine. All heads from layer 1 on have the same (see
 * constructed.c), and so choose alike where their rules are alike:
 *
 *     query of t    e(x_t) e(x_t-1) e(x_t-2) on pairs 15 .. 62, the null's on pair 63
 *     key of s      e(x_s-1) e(x_s-2) e(x_s-3), or a null token's; both turned by their place
 *
 * What the checkpoint and the cache round is rounded here as well: the bounds of all blocks
 * differ by little more. Where fp32 may round a number to the other side, or adds up to
 * something else, two scores are too near to tell: CHOSEN_NEAR. */
#include "launch/needle/chosen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAIRS = 49, NUMBERS = 2 * PAIRS, WORDS = 3, DIM = 128, FIRST_PAIR = 15 };

/* What is chosen from: a block's mean or bounds, or a token's key. */
typedef struct option {
    float low[NUMBERS], high[NUMBERS]; /* the same, but for bounds */
    float doubt[NUMBERS];              /* by how much a number may be another */
} option;

struct chosen {
    const predictor *v;
    double turn[PAIRS], query_size, null_size;
    double word_size[1 + WORDS]; /* of the own word, and of those that layer 0 copies */
    int model_bits, cache_bits;
    option *all; /* of the haystack, for the law; NULL: not made yet */
    choice_law law;
    /* the row of the last choice, and how good each option is to it */
    int64_t row, first, count;
    int64_t least, most;   /* so many are chosen */
    double *score, *doubt; /* [room] */
    const option **which;  /* [room] */
    option *own;           /* [own_room]: those that have some of the question */
    int64_t room, own_room;
};

/* ---- numbers ----------------------------------------------------------------------------- */

static int bits_of(banyan_dtype dtype)
{
    return dtype == BANYAN_BF16 ? 8 : dtype == BANYAN_F16 ? 11 : dtype == BANYAN_F32 ? 24 : 4;
}

/* To so many bits, nearest, ties to even. doubt, or NULL: the step to the other neighbour, if
 * fp32, a few 1e-7 off, may have taken it; else 0. */
static double round_to(double x, int bits, float *doubt)
{
    int power;
    const double scaled = ldexp(frexp(x, &power), bits), step = ldexp(1, power - bits);
    const double between = fabs(scaled - floor(scaled) - 0.5);
    if (doubt) *doubt = between < 1e-3 + ldexp(1e-6, bits) ? (float)step : 0;
    return nearbyint(scaled) * step;
}

/* The sizes of words behind layer 0: three heads' thirds are no whole. */
static void set_word_sizes(chosen *c)
{
    const double norm = 1 / sqrt(0.5 + 1e-5);
    const double value =
        round_to(norm * round_to(sqrt(0.5), c->model_bits, NULL), c->cache_bits, NULL);
    c->word_size[0] = 1;
    for (int j = 1; j <= WORDS; j++) {
        int32_t heads = 0;
        for (int32_t h = 0; h < c->v->heads; h++) heads += constructed_offset(h) == j;
        c->word_size[j] =
            heads ? value * heads * round_to(1.0 / heads, c->model_bits, NULL) : 0;
    }
}

chosen *chosen_open(const predictor *v)
{
    const banyan_spec *spec = banyan_plan_spec(v->plan);
    chosen *c = calloc(1, sizeof *c);
    double theta, beta, null;
    if (!c || !constructed_numbers(&v->constructed, &theta, &beta, &null)) {
        free(c);
        return NULL;
    }
    c->v = v;
    c->model_bits = bits_of(v->constructed.dtype);
    c->cache_bits = bits_of(spec->cache_dtype);
    for (int p = 0; p < PAIRS; p++)
        c->turn[p] = pow(theta, -(double)(FIRST_PAIR + p) / (DIM / 2));
    c->query_size = round_to(beta / CONSTRUCTED_WORD * sqrt(DIM), c->model_bits, NULL);
    c->null_size = null * WORDS * beta * sqrt(DIM);
    c->row = -1;
    set_word_sizes(c);
    return c;
}

void chosen_ask(chosen *c)
{
    c->row = -1;
}

void chosen_close(chosen *c)
{
    if (!c) return;
    free(c->all);
    free(c->own);
    free(c->score);
    free(c->doubt);
    free(c->which);
    free(c);
}

/* ---- queries and keys -------------------------------------------------------------------- */

/* Three words from the first-th on, and the number of the null's pair, turned by the place. */
static void make_vector(const chosen *c, int64_t token, int first, double size, double null,
                        double *out)
{
    token_signs signs;
    double x[NUMBERS] = {0}, square = 0.5;
    predictor_signs(c->v, token, &signs);
    for (int j = 1; j <= WORDS; j++) /* what there is of each word, as it is */
        for (int i = 0; i < CONSTRUCTED_WORD; i++)
            square += pow(c->word_size[j] * (double)signs.word[j][i], 2) /
                      (2 * WORDS * CONSTRUCTED_WORD);
    const double norm = 1 / sqrt(square + 1e-5);
    for (int j = 0; j < WORDS; j++)
        for (int i = 0; i < CONSTRUCTED_WORD; i++)
            x[j * CONSTRUCTED_WORD + i] =
                norm * size * c->word_size[first + j] * (double)signs.word[first + j][i];
    x[NUMBERS - 2] = norm * null;
    for (int p = 0; p < PAIRS; p++) {
        const double angle = c->turn[p] * (double)token;
        out[2 * p] = x[2 * p] * cos(angle) - x[2 * p + 1] * sin(angle);
        out[2 * p + 1] = x[2 * p + 1] * cos(angle) + x[2 * p] * sin(angle);
    }
}

static void make_key(const chosen *c, int64_t token, option *out)
{
    double key[NUMBERS];
    /* a null token's flag of 8 is normalised to sqrt(1/2) and back */
    make_vector(c, token, 1, 1, predictor_is_null(c->v, token) ? sqrt(0.5) : 0, key);
    for (int n = 0; n < NUMBERS; n++)
        out->low[n] = out->high[n] = (float)round_to(key[n], c->cache_bits, &out->doubt[n]);
}

static void make_block(const chosen *c, int64_t block, option *out)
{
    const int32_t tokens = c->v->block_tokens;
    double mean[NUMBERS] = {0};
    option key;
    for (int32_t i = 0; i < tokens; i++) {
        make_key(c, block * tokens + i, &key);
        for (int n = 0; n < NUMBERS; n++) {
            const float doubt = c->law.bounds ? key.doubt[n] : key.doubt[n] / (float)tokens;
            mean[n] += (double)key.low[n] / tokens;
            if (i == 0 || key.low[n] < out->low[n]) out->low[n] = key.low[n];
            if (i == 0 || key.low[n] > out->high[n]) out->high[n] = key.low[n];
            out->doubt[n] = (i ? out->doubt[n] : 0) + doubt;
        }
    }
    for (int n = 0; n < NUMBERS && !c->law.bounds; n++)
        out->low[n] = out->high[n] = (float)mean[n];
}

static void make_option(const chosen *c, int64_t i, option *out)
{
    (c->law.tokens ? make_key : make_block)(c, i, out);
}

static void add_query(const chosen *c, int64_t row, double *sum)
{
    double q[NUMBERS];
    make_vector(c, row, 0, c->query_size, c->null_size, q);
    for (int n = 0; n < NUMBERS; n++) sum[n] += q[n];
}

/* ---- what there is to choose from -------------------------------------------------------- */

static int64_t options_of(const chosen *c, int64_t tokens)
{
    return c->law.tokens ? tokens : tokens / c->v->block_tokens;
}

/* Those of the haystack, which stays as it is while questions come and go. */
static bool make_all(chosen *c)
{
    const int64_t count = options_of(c, c->v->p->count);
    if (c->all) return true;
    c->all = malloc((size_t)(count + 1) * sizeof *c->all);
    for (int64_t i = 0; c->all && i < count; i++) make_option(c, i, &c->all[i]);
    return c->all != NULL;
}

static bool make_room(chosen *c, int64_t count, int64_t own)
{
    if (count > c->room) {
        free(c->score);
        free(c->doubt);
        free(c->which);
        c->score = malloc((size_t)count * sizeof *c->score);
        c->doubt = malloc((size_t)count * sizeof *c->doubt);
        c->which = malloc((size_t)count * sizeof *c->which);
        c->room = c->score && c->doubt && c->which ? count : 0;
    }
    if (own > c->own_room) {
        free(c->own);
        c->own = malloc((size_t)own * sizeof *c->own);
        c->own_room = c->own ? own : 0;
    }
    return count <= c->room && own <= c->own_room;
}

static void score_option(chosen *c, int64_t i, const double *q)
{
    const option *k = c->which[i];
    double sum = 0, doubt = 0, size = 0;
    for (int n = 0; n < NUMBERS; n++) {
        const double x = fmax(q[n] * (double)k->low[n], q[n] * (double)k->high[n]);
        sum += x;
        size += fabs(x);
        doubt += fabs(q[n]) * (double)k->doubt[n];
    }
    c->score[i] = sum;
    c->doubt[i] = doubt + 1e-6 * size; /* of fp32 sums */
}

/* first .. end-1 of the options, for a query. */
static bool score_options(chosen *c, int64_t first, int64_t end, const double *q)
{
    const int64_t known = options_of(c, c->v->p->count);
    c->first = first;
    c->count = end > first ? end - first : 0;
    if (!make_all(c) || !make_room(c, c->count + 1, end > known ? end - known : 0))
        return false;
    for (int64_t i = known; i < end; i++) make_option(c, i, &c->own[i - known]);
    for (int64_t i = first; i < end; i++) {
        c->which[i - first] = i < known ? &c->all[i] : &c->own[i - known];
        score_option(c, i - first, q);
    }
    return true;
}

/* ---- the choice -------------------------------------------------------------------------- */

/* Is a better than b? -1: no; 0: too near to tell. Of equal ones the lower is. */
static int is_surely_better(const chosen *c, int64_t a, int64_t b)
{
    const double d = c->score[a] - c->score[b];
    if (fabs(d) > c->doubt[a] + c->doubt[b]) return d > 0 ? 1 : -1;
    const bool equal =
        memcmp(c->which[a]->low, c->which[b]->low, sizeof c->which[a]->low) == 0 &&
        memcmp(c->which[a]->high, c->which[b]->high, sizeof c->which[a]->high) == 0;
    double doubt = 0;
    for (int n = 0; n < NUMBERS; n++)
        doubt += (double)c->which[a]->doubt[n] + (double)c->which[b]->doubt[n];
    return !equal || doubt > 0 ? 0 : a < b ? 1 : -1;
}

static int falling(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* How many of the best, at most law.count, have a share of the softmax over all of factor times
 * their scores; sorted: best first. */
static int64_t reach_mass(const chosen *c, const double *sorted, double factor)
{
    double all = 0, sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < c->count; i++) all += exp(factor * (sorted[i] - sorted[0]));
    while (n < c->law.count && n < c->count && (n == 0 || sum < c->law.mass * all))
        sum += exp(factor * (sorted[n++] - sorted[0]));
    return n;
}

static bool set_mass(chosen *c, double factor)
{
    double *sorted = malloc((size_t)c->count * sizeof *sorted);
    if (!sorted) return false;
    memcpy(sorted, c->score, (size_t)c->count * sizeof *sorted);
    qsort(sorted, (size_t)c->count, sizeof *sorted, falling);
    const int64_t a = reach_mass(c, sorted, factor * 1.001);
    const int64_t b = reach_mass(c, sorted, factor / 1.001);
    c->least = a < b ? a : b;
    c->most = a < b ? b : a;
    free(sorted);
    return true;
}

/* Rows of a call that lie in one own block choose blocks together: those of the question, which
 * are read at once, or one that is decoded. The model's last layer has no rows but those that
 * are asked for. */
static void own_rows(const predictor *v, int64_t row, int64_t *first, int64_t *end)
{
    const int64_t begin = v->p->count, question = begin + NEEDLE_QUESTION;
    const int64_t block = row / v->block_tokens * v->block_tokens,
                  next = block + v->block_tokens;
    *first = row;
    *end = row + 1;
    if (row >= question || v->constructed.retrieval + 1 >= v->constructed.layers) return;
    *first = block > begin ? block : begin;
    *end = next < question ? next : question;
}

static bool choose(chosen *c, int64_t row)
{
    double q[NUMBERS] = {0};
    int64_t first, end;
    own_rows(c->v, row, &first, &end);
    for (int64_t r = first; r < end; r++) add_query(c, r, q);
    const int64_t behind =
        c->law.tokens ? row + 1 : row / c->v->block_tokens - c->law.local + 1;
    if (!score_options(c, c->law.first, behind, q)) return false;
    c->least = c->most = c->law.count;
    return c->law.mass <= 0 || c->count == 0 ||
           set_mass(c, c->law.sharpness / sqrt(DIM) / (double)(end - first));
}

static bool is_same_law(const choice_law *a, const choice_law *b)
{
    return a->tokens == b->tokens && a->bounds == b->bounds && a->first == b->first &&
           a->local == b->local && a->count == b->count && a->mass == b->mass &&
           a->sharpness == b->sharpness;
}

chosen_result chosen_reads(chosen *c, const choice_law *law, int64_t row, int64_t token)
{
    const predictor *v = c->v;
    if (law->tokens && row < v->p->count + NEEDLE_QUESTION)
        return CHOSEN_READ; /* not decoded */
    if (!is_same_law(&c->law, law)) {
        free(c->all);
        c->all = NULL;
        c->law = *law;
        c->row = -1;
    }
    if (c->row != row) {
        c->row = -1;
        if (!choose(c, row)) return CHOSEN_NEAR;
        c->row = row;
    }
    const int64_t i = (law->tokens ? token : token / v->block_tokens) - c->first;
    int64_t before = 0, near = 0;
    if (i < 0 || i >= c->count) return CHOSEN_NOT_READ;
    for (int64_t j = 0; j < c->count; j++) {
        const int better = j == i ? -1 : is_surely_better(c, j, i);
        before += better > 0;
        near += better == 0;
    }
    if (before + near < c->least) return CHOSEN_READ;
    return before >= c->most ? CHOSEN_NOT_READ : CHOSEN_NEAR;
}
