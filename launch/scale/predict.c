/* SPDX-License-Identifier: Apache-2.0 */
/* What a step should take: the slowest rank's computing by what the kernel was measured to do,
 * and the merge by the plan's own cost model with the measured links,
 *
 *     decode    layers x t(bytes of a layer)      t(): measured at some sizes, else linear
 *     prefill   pairs x seconds of a pair + bytes appended x seconds of a byte, chunk by chunk
 *
 * Ranks of a machine share its memory: figures of one rank alone and of all at once are
 * measured, and what lies between is taken on the line through both. */
#include "launch/scale/scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Were the kernel's figures measured at this shape? */
static bool is_of(const Banyan__Machine *m, const banyan_spec *s)
{
    const Banyan__Measured *k = m ? m->measured : NULL;
    static const int dtype[] = {[BANYAN_F32] = BANYAN__DTYPE__FP32,
                                [BANYAN_BF16] = BANYAN__DTYPE__BF16,
                                [BANYAN_F16] = BANYAN__DTYPE__FP16,
                                [BANYAN_E4M3] = BANYAN__DTYPE__FP8};
    return k && k->kernel && (!s->kernel || !strcmp(k->kernel, s->kernel)) &&
           (int)k->dtype == dtype[s->cache_dtype] && k->group == s->heads / s->kv_heads &&
           k->key_dim == s->key_dim && k->value_dim == s->value_dim &&
           k->value_in_key == spec_value_in_key(s) && k->n_bytes > 1 &&
           k->n_seconds == k->n_bytes && k->n_seconds_together == k->n_bytes;
}

/* Of `together` ranks, when one alone takes `alone` and `all` at once `crowded`. */
static double shared(const Banyan__Machine *m, double alone, double crowded, int32_t together)
{
    if (m->together < 2 || together < 2) return alone;
    return alone + (crowded - alone) * (together - 1) / (m->together - 1);
}

static double on_curve(const double *x, const double *y, size_t count, double at)
{
    size_t i = 1;
    if (at <= x[0]) return y[0];
    while (i + 1 < count && x[i] < at) i++;
    return y[i - 1] + (y[i] - y[i - 1]) * (at - x[i - 1]) / (x[i] - x[i - 1]);
}

double predict_read(const Banyan__Machine *m, const banyan_spec *s, double bytes,
                    int32_t together)
{
    if (is_of(m, s)) {
        const Banyan__Measured *k = m->measured;
        return shared(m, on_curve(k->bytes, k->seconds, k->n_bytes, bytes),
                      on_curve(k->bytes, k->seconds_together, k->n_bytes, bytes), together);
    }
    if (!m || !m->has_read || m->read <= 0) return INFINITY;
    const double crowded = m->read_together > 0 ? m->read_together : m->read;
    return shared(m, bytes / m->read, bytes / crowded, together);
}

double predict_pairs(const Banyan__Machine *m, const banyan_spec *s, double pairs,
                     int32_t together)
{
    if (!is_of(m, s)) return INFINITY;
    return pairs * shared(m, m->measured->pair, m->measured->pair_together, together);
}

double predict_append(const Banyan__Machine *m, const banyan_spec *s, double bytes)
{
    return is_of(m, s) ? bytes * m->measured->append : INFINITY;
}

static double decode_seconds(const banyan_plan *plan, const Banyan__Machine *m, int32_t ranks,
                             int32_t together, int64_t tokens)
{
    const banyan_spec *s = banyan_plan_spec(plan);
    double most = 0;
    for (int32_t r = 0; r < ranks; r++) {
        banyan_share share;
        if (banyan_plan_share(plan, r, 1, tokens - 1, &share)) return INFINITY;
        double bytes = (double)share.read_blocks * s->block_tokens * spec_token_bytes(s) +
                       (double)share.summary_bytes;
        double seconds = s->layers * predict_read(m, s, bytes / s->layers, together);
        if (share.read_blocks > 0) most = fmax(most, seconds);
    }
    return most + banyan_plan_merge_time(plan, 1);
}

/* Chunks alike are taken together: a few of them stand for all. */
static double prefill_seconds(const banyan_plan *plan, const Banyan__Machine *m, int32_t ranks,
                              int32_t together, int64_t tokens)
{
    enum { most_points = 16 };
    const banyan_spec *s = banyan_plan_spec(plan);
    const int64_t chunks = (tokens + s->max_rows - 1) / s->max_rows;
    const int64_t points = chunks < most_points ? chunks : most_points;
    double sum = 0;
    for (int64_t i = 0; i < points; i++) {
        const int64_t from = tokens * i / points, to = tokens * (i + 1) / points;
        double most = 0;
        for (int32_t r = 0; r < ranks; r++) {
            banyan_share share;
            if (banyan_plan_share(plan, r, 1, (from + to) / 2, &share)) return INFINITY;
            const double pairs = (double)share.pairs * (double)(to - from);
            most = fmax(most, predict_pairs(m, s, pairs, together));
        }
        const int64_t calls = (to - from + s->max_rows - 1) / s->max_rows;
        const int32_t rows = (int32_t)((to - from + calls - 1) / calls);
        sum += most + (double)calls * banyan_plan_merge_time(plan, rows);
    }
    const double appended =
        (double)tokens * s->kv_heads * s->layers * spec_token_bytes(s) / ranks;
    return sum + predict_append(m, s, appended);
}

double predict_step(const banyan_plan *plan, const Banyan__Machine *m, int32_t ranks,
                    int32_t together, int64_t tokens, bool prefill)
{
    return prefill ? prefill_seconds(plan, m, ranks, together, tokens)
                   : decode_seconds(plan, m, ranks, together, tokens);
}

/* ---- how many ranks ---- */

typedef struct advice {
    const banyan_spec *spec;
    const Banyan__Machine *machine;
    const banyan_comm *comm;
    bool prefill, one_machine;
    int32_t count[40], counts; /* of ranks, ascending */
} advice;

/* The first `ranks` ranks of the machine, node by node. */
static char *machine_part(const advice *a, int32_t ranks, int32_t *fullest)
{
    const int32_t all = banyan_comm_nodes(a->comm);
    size_t bytes = 64 + 12 * (size_t)all, used;
    char *text = malloc(bytes);
    if (!text) return NULL;
    int32_t nodes = 0;
    for (int32_t r = 0; r < ranks; r++)
        if (banyan_comm_node(a->comm, r) >= nodes) nodes = banyan_comm_node(a->comm, r) + 1;
    used = (size_t)snprintf(text, bytes, "node:%d rank:", nodes);
    *fullest = 0;
    for (int32_t n = 0; n < nodes; n++) {
        int32_t here = 0;
        for (int32_t r = 0; r < ranks; r++) here += banyan_comm_node(a->comm, r) == n;
        *fullest = here > *fullest ? here : *fullest;
        used += (size_t)snprintf(text + used, bytes - used, "%s%d", n ? "," : "", here);
    }
    return text;
}

/* Figures of one device say nothing of another. */
static bool is_of_device(const char *kernel, const char *device)
{
    const bool on_gpu = kernel && (!strcmp(kernel, "cuda") || !strcmp(kernel, "hopper"));
    return on_gpu == (device && !strcmp(device, "cuda"));
}

static banyan_status seconds_on(const advice *a, int32_t ranks, int64_t tokens, double *seconds)
{
    int32_t fullest;
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_spec s = *a->spec;
    s.max_tokens = s.planned_tokens = tokens;
    if (s.max_rows > tokens) s.max_rows = (int32_t)tokens;
    s.bandwidth = NULL;
    s.memory_limit = INT64_MAX / 4;
    if (a->machine->measured && is_of_device(a->machine->measured->kernel, s.device))
        s.kernel = a->machine->measured->kernel;
    char *text = machine_part(a, ranks, &fullest);
    banyan_status status =
        text ? banyan_comm_create("imaginary", text, &comm) : BANYAN_ERR_MEMORY;
    if (!status) status = machine_links(a->machine, comm);
    if (!status) status = banyan_plan_create(&s, comm, &plan);
    if (a->one_machine) fullest = ranks;
    if (!status) *seconds = predict_step(plan, a->machine, ranks, fullest, tokens, a->prefill);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    free(text);
    return status;
}

/* Is count[i] faster than every smaller one? */
static banyan_status is_worth(const advice *a, int32_t i, int64_t tokens, bool *worth)
{
    double more, less;
    banyan_status status = seconds_on(a, a->count[i], tokens, &more);
    *worth = true;
    for (int32_t k = 0; k < i && !status && *worth; k++) {
        status = seconds_on(a, a->count[k], tokens, &less);
        if (!status) *worth = more < less;
    }
    return status;
}

/* From which context on, to about 10 %, count[i] is worth having at every length up to the
 * longest that is looked at. 0: not at the longest. */
static banyan_status worth_from(const advice *a, int32_t i, int64_t *tokens)
{
    const int64_t longest = a->prefill ? 1 << 20 : 1 << 26;
    int64_t low = 0, high = 0; /* not worth it, and worth it from there on */
    bool worth = false;
    banyan_status status = BANYAN_OK;
    for (int64_t t = a->spec->block_tokens; t <= longest && !status; t *= 2) {
        status = is_worth(a, i, t, &worth);
        if (!worth)
            low = t;
        else if (high <= low)
            high = t;
    }
    *tokens = worth ? high : 0;
    while (!status && worth && low > 0 && (double)*tokens / (double)low > 1.1) {
        int64_t middle = (int64_t)sqrt((double)low * (double)*tokens);
        bool is_enough;
        status = is_worth(a, i, middle, &is_enough);
        if (is_enough)
            *tokens = middle;
        else
            low = middle;
    }
    return status;
}

static banyan_status print_now(const advice *a, int64_t tokens, FILE *out)
{
    double least = INFINITY;
    int32_t best = 0;
    fprintf(out, "predicted, %s at %lld tokens:", a->prefill ? "prefill" : "decode",
            (long long)tokens);
    for (int32_t i = 0; i < a->counts; i++) {
        double seconds;
        banyan_status status = seconds_on(a, a->count[i], tokens, &seconds);
        if (status) return status;
        if (seconds < least) {
            least = seconds;
            best = a->count[i];
        }
        fprintf(out, "%s %d %s %.4g ms", i ? "," : "", a->count[i],
                a->count[i] == 1 ? "rank" : "ranks", 1e3 * seconds);
    }
    if (isinf(least))
        fprintf(out, "; nothing was measured at this shape\n");
    else if (best < a->count[a->counts - 1])
        fprintf(out, "; fewer ranks are faster: %d\n", best);
    else
        fprintf(out, "; all of them are fastest\n");
    return isinf(least) ? BANYAN_ERR_UNSUPPORTED : BANYAN_OK;
}

banyan_status predict_advise(const banyan_spec *spec, const Banyan__Machine *m,
                             const banyan_comm *comm, bool one_machine, int64_t tokens,
                             bool prefill, FILE *out)
{
    advice a = {.spec = spec,
                .machine = m,
                .comm = comm,
                .prefill = prefill,
                .one_machine = one_machine};
    const int32_t ranks = banyan_comm_size(comm);
    for (int32_t n = 1; n < ranks; n *= 2) a.count[a.counts++] = n;
    a.count[a.counts++] = ranks;
    banyan_status status = print_now(&a, tokens, out);
    if (status == BANYAN_ERR_UNSUPPORTED) return BANYAN_OK; /* it said so */
    for (int32_t i = 1; !status && i < a.counts; i++) {
        int64_t from = 0;
        status = worth_from(&a, i, &from);
        if (status) break;
        fprintf(out, "%s%d ranks ", i == 1 ? "worth having: " : ", ", a.count[i]);
        if (!from)
            fprintf(out, "at no length");
        else if (from <= spec->block_tokens)
            fprintf(out, "at any length");
        else
            fprintf(out, "from about %lld tokens on", (long long)from);
    }
    if (!status && a.counts > 1) fputc('\n', out);
    return status;
}
