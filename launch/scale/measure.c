/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring a case. Ranks begin each step together; a step has taken as long as its slowest
 * rank.
 *
 *     time           seconds of a step, the most over ranks
 *     compute        seconds in which a rank computed in it: most and mean over ranks
 *     communication  time - most compute: what computing does not explain, waiting included
 *
 * each the median over the steps. Warm-up steps are left out; the first of them, and in
 * decoding one more after the last, are watched: their outputs are hashed, and must have the
 * same bits. */
#include "launch/scale/scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct samples {
    double *seconds, *most,
        *sum; /* [steps]: of the step; of computing, this rank or most; and sum */
    int32_t count;
} samples;

/* Ranks begin together. `stop` is rank 0's word. */
static banyan_status begin_together(scale_case *c, bool *stop)
{
    double word = c->rank == 0 && *stop;
    banyan_status status = banyan_comm_allreduce(c->comm, &word, 1, BANYAN_MAX);
    *stop = word > 0;
    return status;
}

static banyan_status one_step(scale_case *c, bool watched, bool *stop, double *seconds,
                              double *compute)
{
    banyan_status status = c->runner->prepare ? c->runner->prepare(c) : BANYAN_OK;
    if (!status) status = begin_together(c, stop);
    if (status || *stop) return status;
    c->watched = watched;
    c->bits = watched ? 0 : c->bits;
    *compute = 0;
    double start = now_seconds();
    status = c->runner->step(c, compute);
    *seconds = now_seconds() - start;
    return status;
}

static banyan_status warm_up(scale_case *c, uint64_t *bits)
{
    bool stop = false;
    double seconds, compute;
    banyan_status status = one_step(c, true, &stop, &seconds, &compute);
    *bits = c->bits;
    for (int32_t i = 1; !status && i < c->t->warmup; i++)
        status = one_step(c, false, &stop, &seconds, &compute);
    return status;
}

static banyan_status take_steps(scale_case *c, samples *s)
{
    banyan_status status = BANYAN_OK;
    const double first = now_seconds();
    bool stop = false;
    while (!status && s->count < c->t->steps) {
        stop = s->count >= 3 && now_seconds() - first > c->t->seconds;
        status = one_step(c, false, &stop, &s->seconds[s->count], &s->most[s->count]);
        if (stop) break;
        s->count++;
    }
    if (status) return status;
    memcpy(s->sum, s->most, (size_t)s->count * sizeof *s->sum);
    status = banyan_comm_allreduce(c->comm, s->seconds, s->count, BANYAN_MAX);
    if (!status) status = banyan_comm_allreduce(c->comm, s->most, s->count, BANYAN_MAX);
    if (!status) status = banyan_comm_allreduce(c->comm, s->sum, s->count, BANYAN_SUM);
    return status;
}

static void summarise_samples(samples *s, scale_line *line)
{
    const int32_t n = s->count;
    double *other = s->sum;
    line->steps = n;
    line->compute_mean = numbers_median(s->sum, n) / line->ranks;
    for (int32_t i = 0; i < n; i++) other[i] = s->seconds[i] - s->most[i];
    line->communication = numbers_median(other, n);
    line->compute_most = numbers_median(s->most, n);
    line->median = numbers_median(s->seconds, n);
    line->p95 = numbers_percentile(s->seconds, n, 0.95);
    line->p99 = numbers_percentile(s->seconds, n, 0.99);
    line->spread = numbers_spread(s->seconds, n);
}

/* ---- memory ---- */

/* The most that was resident since the last reset. Where the kernel cannot reset it, since
 * ever. */
static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

static double peak_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char text[128];
    long long kib = 0;
    while (f && fgets(text, sizeof text, f))
        if (sscanf(text, "VmHWM: %lld", &kib) == 1) break;
    if (f) fclose(f);
    return (double)kib * 1024;
}

/* ---- over ranks ---- */

/* Bits travel as four numbers of 16 bits, so that sums of them are exact. */
static void spread_bits(uint64_t bits, double *out)
{
    for (int i = 0; i < 4; i++) out[i] = (double)(bits >> 16 * i & 0xffff);
}

static uint64_t gather_bits(const double *sum)
{
    uint64_t bits = 0;
    for (int i = 0; i < 4; i++) bits += (uint64_t)sum[i] << 16 * i;
    return bits;
}

static banyan_status gather_line(scale_case *c, const scale_count *done, uint64_t first,
                                 scale_line *line)
{
    double error = 0, share = 0;
    int32_t checked = 0;
    banyan_status status = scale_check(c, &error, &share, &checked);
    status = banyan_comm_agree(c->comm, status);
    if (status) return status;
    double sum[13] = {done->messages, done->bytes, done->pairs, c->kv_bytes, checked};
    spread_bits(first, sum + 5);
    spread_bits(c->bits, sum + 9);
    double most[5] = {done->messages, done->bytes, error, share, peak_bytes()};
    status = banyan_comm_allreduce(c->comm, sum, 13, BANYAN_SUM);
    if (!status) status = banyan_comm_allreduce(c->comm, most, 5, BANYAN_MAX);
    if (status) return status;
    const double steps = line->steps;
    line->messages = llround(sum[0] / steps);
    line->bytes = llround(sum[1] / steps);
    line->pairs = sum[2] / steps;
    line->kv_bytes = sum[3];
    line->bits = gather_bits(sum + 5);
    line->same_bits = gather_bits(sum + 9) == line->bits;
    line->most_messages = llround(most[0] / steps);
    line->most_bytes = llround(most[1] / steps);
    line->error = most[2];
    line->error_share = (int32_t)sum[4] == c->samples ? most[3] : INFINITY;
    line->peak_memory = llround(most[4]);
    return BANYAN_OK;
}

static void describe_case(const scale_case *c, scale_line *line)
{
    const banyan_spec *s = c->spec;
    snprintf(line->kernel, sizeof line->kernel, "%s", s->kernel ? s->kernel : "?");
    snprintf(line->merge, sizeof line->merge, "%s",
             line->method->dense_only ? "-" : banyan_plan_merge_name(c->plan));
    line->plan_hash = banyan_plan_hash(c->plan);
    line->measured = true;
}

static banyan_status run_case(scale_case *c, samples *s, scale_line *line)
{
    uint64_t first = 0;
    scale_count before, after;
    banyan_status status = c->runner->open(c);
    if (!status) status = warm_up(c, &first);
    if (status) return status;
    c->runner->count(c, &before);
    status = take_steps(c, s);
    c->runner->count(c, &after);
    if (!status && !c->t->prefill) {
        double seconds, compute;
        bool stop = false;
        status = one_step(c, true, &stop, &seconds, &compute);
    }
    if (status) return status;
    summarise_samples(s, line);
    after.messages -= before.messages;
    after.bytes -= before.bytes;
    after.pairs -= before.pairs;
    status = gather_line(c, &after, first, line);
    if (!status) status = c->runner->predict(c, &line->predicted);
    if (!status) describe_case(c, line);
    return status;
}

banyan_status scale_measure(const scale_task *t, scale_line *line, banyan_comm *comm)
{
    scale_case c = {.t = t,
                    .line = line,
                    .runner = t->prefill ? line->method->prefill : line->method->decode,
                    .comm = comm,
                    .rank = banyan_comm_rank(comm),
                    .tokens = line->tokens};
    const size_t steps = (size_t)t->steps;
    samples s = {.seconds = calloc(3 * steps, sizeof(double))};
    banyan_status status = banyan_comm_agree(comm, s.seconds ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) {
        s.most = s.seconds + steps;
        s.sum = s.most + steps;
        reset_peak();
        status = run_case(&c, &s, line);
        c.runner->close(&c);
    }
    for (int32_t n = 0; c.sample && n < c.samples; n++) free(c.sample[n].out);
    free(c.sample);
    for (int i = 0; i < SCALE_ARRAYS; i++) device_array_free(t->j->device, &c.on[i]);
    free(s.seconds);
    return status;
}
