/* SPDX-License-Identifier: Apache-2.0 */
/* The graded split. A sharp needle is blind to a wrong merge: a rank that counts twice, or a
 * halved lse, still leaves all mass on the one match. So the same key is put n_r times into
 * blocks that rank r keeps, with a value of its own per rank, and asked for once. All copies
 * match equally, and the head's output must be
 *
 *     out = sum_r mass_r code(value_r)        mass_r = n_r / sum n
 *
 * The masses are read off the fp32 output of each head by least squares over the value codes
 * (LAPACK's). One rank counted twice, lse halved or rounded to bf16 shift them by 0.07 and
 * more; the bar is 2e-3. A far copy matches a little less, since its content pairs have turned:
 * the logit of distance x is sum over content pairs i of (beta/16) cos(theta_i x), theta_i =
 * Theta^(-i/64) (needle's 48 pairs 15..62, beta = 4 (ln N + 6.9)), at most 0.1 below the full
 * match. What is expected is n_r weighted so; `plain_error` is the distance from n_r / sum n
 * itself.
 *
 * Keys are kept in fp32 here: rounding them to bf16 moves a logit of 250 by some 0.03. */
#include "launch/needle/evaluate.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    COPY_TOKENS = 7, /* <K> k1 k2 k3 <V> v . */
    COPY_ROOM = 8,   /* tokens set aside for a copy */
    CLASSES = 64,    /* most ranks of one KV head that are told apart */
    COPIES = 512
};

/* One key: its copies on the holders of one KV head. */
typedef struct graded_key {
    uint32_t key[3];
    uint32_t value[CLASSES];
    int32_t rank[CLASSES], classes;
    int64_t answer[COPIES]; /* where each copy's value stands */
    int32_t class_of[COPIES], copies;
} graded_key;

/* LAPACK's least squares by QR with column pivoting (part of OpenBLAS, whose headers do not
 * declare it). */
void dgelsy_(const blasint *rows, const blasint *columns, const blasint *rights, double *a,
             const blasint *a_stride, double *b, const blasint *b_stride, blasint *pivot,
             const double *least_condition, blasint *rank, double *work,
             const blasint *work_count, blasint *info);

bool graded_solve(const int8_t *code, int32_t columns, const float *y, double *x)
{
    enum { WORK = 4096 }; /* of doubles: for blocks of 32 columns */
    double a[CLASSES * CONSTRUCTED_CODE], b[CONSTRUCTED_CODE], work[WORK];
    const blasint rows = CONSTRUCTED_CODE, count = columns, one = 1, work_count = WORK;
    const double least_condition = 1e-6; /* codes of +-1: alike, or far from it */
    blasint pivot[CLASSES] = {0}, rank = 0, info = 0;
    if (columns < 1 || columns > CLASSES) return false;
    for (int32_t i = 0; i < columns * CONSTRUCTED_CODE; i++) a[i] = code[i];
    for (int32_t i = 0; i < CONSTRUCTED_CODE; i++) b[i] = (double)y[i];
    dgelsy_(&rows, &count, &one, a, &rows, b, &rows, pivot, &least_condition, &rank, work,
            &work_count, &info);
    memcpy(x, b, (size_t)columns * sizeof *x);
    return info == 0 && rank == columns;
}

/* What a copy at distance x gets relative to a full match. */
static double weight(const evaluation *e, int64_t distance)
{
    double beta = 4 * (log((double)e->constructed.max_tokens) + 6.9), loss = 0;
    for (int i = 15; i < 63; i++) {
        double theta = pow(e->shape.rope_theta, -(double)i / (e->shape.head_dim / 2));
        loss += beta / 16 * (1 - cos(theta * (double)distance));
    }
    return exp(-loss);
}

/* Draws n first tokens of copies, in blocks that `rank` keeps of this KV head: reservoir
 * sampling over all of them. */
static int32_t draw_places(const evaluation *e, const prompt *p, int32_t kv_head, int rank,
                           int32_t n, uint64_t *random, int64_t *first)
{
    const banyan_plan *plan = model_plan(e->m);
    int32_t block_tokens = banyan_plan_spec(plan)->block_tokens, layer = e->shape.layers - 1;
    int64_t seen = 0;
    for (int64_t t = block_tokens; t + COPY_ROOM <= p->count; t += COPY_ROOM) {
        if (p->fixed[t] || p->fixed[t + COPY_TOKENS - 1]) continue;
        if (banyan_plan_owner(plan, 0, layer, kv_head, t / block_tokens) != rank) continue;
        int64_t at = seen++;
        if (at >= n) at = needle_below(random, seen);
        if (at < n) first[at] = t;
    }
    return seen < n ? (int32_t)seen : n;
}

/* Copies of one key into the prompt: 1, 2, 3, 5, 8, .. on the head's ranks. */
static void write_copies(const evaluation *e, prompt *p, int32_t kv_head, graded_key *k,
                         uint64_t *random)
{
    static const int32_t many[8] = {1, 2, 3, 5, 8, 13, 21, 34};
    int64_t first[34];
    k->copies = k->classes = 0;
    for (int rank = 0; rank < e->j->ranks && k->classes < CLASSES; rank++) {
        if (!banyan_plan_holds(model_plan(e->m), e->shape.layers - 1, kv_head, rank)) continue;
        int32_t c = k->classes, want = many[c % 8];
        if (k->copies + want > COPIES) break;
        int32_t got = draw_places(e, p, kv_head, rank, want, random, first);
        if (!got) continue; /* it holds a part, but no block of so short a context */
        for (int32_t i = 0; i < got; i++) {
            uint32_t ids[COPY_TOKENS] = {CONSTRUCTED_KEY, k->key[0],         k->key[1],
                                         k->key[2],       CONSTRUCTED_VALUE, k->value[c],
                                         CONSTRUCTED_DOT};
            prompt_splice(p, first[i], ids, COPY_TOKENS);
            k->answer[k->copies] = first[i] + NEEDLE_ANSWER;
            k->class_of[k->copies++] = c;
        }
        k->rank[k->classes++] = rank;
    }
}

static bool build_graded(const evaluation *e, int64_t count, uint64_t seed, graded_key *key,
                         prompt *p, char *why, size_t why_bytes)
{
    int32_t heads = e->shape.kv_heads, each = 3 + CLASSES;
    uint64_t random = seed;
    if (!prompt_begin(count, &random, p, why, why_bytes)) return false;
    uint32_t *words = malloc((size_t)heads * (size_t)each * sizeof *words);
    trigram *set = malloc((size_t)heads * sizeof *set);
    bool ok = words && set;
    if (!ok) snprintf(why, why_bytes, "out of memory for %d keys", heads);
    ok = ok && prompt_words(&random, words, heads * each, why, why_bytes);
    for (int32_t g = 0; ok && g < heads; g++) {
        memcpy(key[g].key, words + g * each, sizeof key[g].key);
        memcpy(key[g].value, words + g * each + 3, sizeof key[g].value);
        write_copies(e, p, g, &key[g], &random);
        set[g].code = trigram_code(key[g].key[1], key[g].key[2], CONSTRUCTED_VALUE);
        set[g].at = TRIGRAM_FIXED;
    }
    if (ok) {
        trigram_sort(set, heads);
        ok = prompt_settle(p, set, heads, &random, why, why_bytes);
    }
    free(words);
    free(set);
    if (!ok) prompt_free(p);
    return ok;
}

/* expected, plain [classes] of one head. Returns the copies that it sees. */
static int32_t expect(const evaluation *e, const predictor *v, const graded_key *k,
                      int32_t head, int64_t row, double *expected, double *plain)
{
    double sum = 0;
    int32_t visible = 0;
    for (int32_t c = 0; c < k->classes; c++) expected[c] = plain[c] = 0;
    for (int32_t i = 0; i < k->copies; i++) {
        if (!predictor_sees(v, head, row, k->answer[i])) continue;
        double w = weight(e, row - k->answer[i]);
        expected[k->class_of[i]] += w;
        plain[k->class_of[i]] += 1;
        sum += w;
        visible++;
    }
    for (int32_t c = 0; c < k->classes && visible; c++) {
        expected[c] /= sum;
        plain[c] /= visible;
    }
    return visible;
}

static json_t *measure_graded(const evaluation *e, const prompt *p, const uint32_t *ids,
                              const graded_key *k, int32_t asked, int64_t row, const float *out,
                              const float *lse, json_t *record)
{
    predictor v;
    predictor_init(&v, model_plan(e->m), &e->constructed);
    predictor_read(&v, p, ids);
    int8_t code[CLASSES * CONSTRUCTED_CODE];
    double mass[CLASSES], expected[CLASSES], plain[CLASSES], worst = 0, worst_plain = 0;
    for (int32_t c = 0; c < k->classes; c++)
        constructed_code(k->value[c], code + c * CONSTRUCTED_CODE);
    json_t *ranks = json_array(), *copies = json_array(), *masses = json_array(),
           *lses = json_array();
    for (int32_t c = 0; c < k->classes; c++) {
        int32_t n = 0;
        for (int32_t i = 0; i < k->copies; i++) n += k->class_of[i] == c;
        json_array_append_new(ranks, json_integer(k->rank[c]));
        json_array_append_new(copies, json_integer(n));
    }
    for (int32_t h = 0; h < e->shape.heads; h++) {
        json_t *of_head = json_array();
        bool solved =
            graded_solve(code, k->classes, out + (int64_t)h * e->shape.head_dim, mass);
        expect(e, &v, k, h, row, expected, plain);
        for (int32_t c = 0; c < k->classes; c++) {
            double error = solved ? fabs(mass[c] - expected[c]) : INFINITY;
            if (!(error <= worst)) worst = error;
            if (solved && fabs(mass[c] - plain[c]) > worst_plain)
                worst_plain = fabs(mass[c] - plain[c]);
            json_array_append_new(of_head, json_real(solved ? mass[c] : -1));
        }
        json_array_append_new(masses, of_head);
        json_array_append_new(lses, json_finite(lse[h]));
    }
    const double bar = 2e-3;
    json_object_set_new(record, "kv_head", json_integer(asked));
    json_object_set_new(record, "ranks", ranks);
    json_object_set_new(record, "copies", copies);
    json_object_set_new(record, "masses", masses);
    json_object_set_new(record, "lse", lses);
    json_object_set_new(record, "error", json_finite(worst));
    json_object_set_new(record, "plain_error", json_real(worst_plain));
    json_object_set_new(record, "equal", json_boolean(worst <= bar));
    return record;
}

static int ask_key(evaluation *e, int64_t length, int32_t trial, int32_t kv_head,
                   const graded_key *k, const prompt *p, double prefill)
{
    int32_t heads = e->shape.heads, dim = e->shape.head_dim;
    float *out = calloc((size_t)heads * (size_t)dim, sizeof *out);
    float *lse = calloc((size_t)heads, sizeof *lse);
    int code = evaluation_agree(e, out && lse ? BANYAN_OK : BANYAN_ERR_MEMORY, "graded split");
    if (!code) {
        uint32_t ids[NEEDLE_QUESTION] = {CONSTRUCTED_QUESTION, k->key[0], k->key[1], k->key[2],
                                         CONSTRUCTED_VALUE};
        model_probe probe = {.layer = e->shape.layers - 1, .out = out, .lse = lse};
        double start = now_seconds();
        banyan_status status = model_fork(e->m, p->count, BANYAN_OK);
        if (!status)
            status = model_forward(e->m, p->count, ids, NEEDLE_QUESTION, 1, NULL, NULL, &probe,
                                   NULL, NULL);
        model_back(e->m);
        code = evaluation_forward(e, status, "graded split");
        double decode = now_seconds() - start;
        usage used;
        if (!code) code = evaluation_usage(e, &used);
        if (!code) {
            json_t *record = NULL;
            if (e->j->rank == 0) {
                record = record_begin(e, "graded", length, trial, kv_head);
                measure_graded(e, p, ids, k, kv_head, p->count + NEEDLE_QUESTION - 1, out, lse,
                               record);
                record_usage(record, &used, prefill, decode);
            }
            code = evaluation_keep(e, record);
        }
    }
    free(out);
    free(lse);
    return code;
}

int evaluate_graded(evaluation *e, int64_t length, int32_t trial)
{
    int32_t heads = e->shape.kv_heads, total;
    bool *missing = calloc((size_t)heads, sizeof *missing);
    graded_key *key = calloc((size_t)heads, sizeof *key);
    int code =
        evaluation_agree(e, missing && key ? BANYAN_OK : BANYAN_ERR_MEMORY, "graded split");
    if (!code) code = evaluation_missing(e, "graded", length, trial, 0, heads, missing, &total);
    if (code || !total) goto done;
    code = evaluation_reset(e, length, BANYAN_F32);
    if (code) goto done;
    prompt p;
    char why[NEEDLE_WHY];
    double prefill = 0;
    int64_t count = length - NEEDLE_QUESTION;
    bool built = build_graded(e, count, needle_seed(e->wish->seed, length, trial, TASK_GRADED),
                              key, &p, why, sizeof why);
    if (agree_words(e->j->comm, built ? BANYAN_OK : BANYAN_ERR_CONFIG, why, sizeof why)) {
        progress_end(e->j);
        say_error(e->j, "graded split at %lld tokens: %s", (long long)length, why);
        if (built) prompt_free(&p);
        code = EXIT_USAGE;
        goto done;
    }
    code = evaluation_prefill(e, &p, "graded", &prefill);
    for (int32_t g = 0; !code && g < heads; g++)
        if (missing[g]) code = ask_key(e, length, trial, g, &key[g], &p, prefill);
    prompt_free(&p);
done:
    free(missing);
    free(key);
    return code;
}
