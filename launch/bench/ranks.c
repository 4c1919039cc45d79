/* SPDX-License-Identifier: Apache-2.0 */
/* Rows under mpirun. A batch against its parts called one by one: the same ranks, in turns.
 *
 * What splitting a rank costs: under mpirun, N ranks with one thread each against rank 0 alone
 * with N threads, on the same cores and the same work. They take turns, and each turn of one is
 * compared with the next turn of the other. A rank that waits polls, and would take a core from
 * the threads of rank 0, so for its turn the others sleep a little longer than the turn before
 * took. */
#include "launch/bench/bench.h"

#include "launch/columns.h"

#include <jansson.h>
#include <omp.h>
#include <time.h>

#define LLAMA .heads = 32, .kv_heads = 8, .key_dim = 128, .value_dim = 128, .dtype = BANYAN_BF16

static const bench_row rows[] = {
    {"ranks: decode dense bf16", LLAMA, .tokens = 128 * 1024, .rows = 1},
    {"ranks: prefill dense bf16", LLAMA, .tokens = 8 * 1024},
    {"ranks: decode 64 sequences", LLAMA, .tokens = 64, .rows = 1, .sequences = 64,
     .placement = "spread", .bar = 3}};
const char *const ranks_names[] = {"ranks: decode dense bf16", "ranks: prefill dense bf16",
                                   "ranks: decode 64 sequences", NULL};
static const double bar = 1.10;

enum { most_turns = 31 };

typedef struct race {
    const bench *b;
    const bench_row *row;
    sequence together, alone; /* alone: on rank 0 */
    double together_seconds[most_turns], alone_seconds[most_turns], ratio[most_turns];
} race;

static banyan_status time_sequence(const bench *b, sequence *s, int threads, double *seconds)
{
    banyan_status status = s->row->rows ? BANYAN_OK : sequence_new_cache(s);
    double start = pace_seconds(&b->pace, threads);
    if (s->row->rows)
        status = sequence_call(s, s->tokens - s->row->rows, s->row->rows, false, true);
    for (int64_t at = 0; !status && !s->row->rows && at < s->tokens; at += SEQUENCE_CHUNK) {
        int64_t left = s->tokens - at;
        status = sequence_call(s, at, (int32_t)(left < SEQUENCE_CHUNK ? left : SEQUENCE_CHUNK),
                               true, true);
    }
    *seconds = pace_seconds(&b->pace, threads) - start;
    return status;
}

static void sleep_for(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
}

/* Both, once. `expected`: how long rank 0 will take alone. The slowest rank's time counts. */
static banyan_status time_together_and_alone(race *r, double expected, double *together,
                                             double *alone)
{
    const job *j = r->b->j;
    *together = *alone = 0;
    banyan_status status = banyan_comm_agree(j->comm, BANYAN_OK);
    if (!status) status = time_sequence(r->b, &r->together, 1, together);
    status = banyan_comm_agree(j->comm, status); /* one rank alone may have failed */
    if (!status) status = banyan_comm_allreduce(j->comm, together, 1, BANYAN_MAX);
    if (status) return status;
    if (j->rank == 0)
        status = time_sequence(r->b, &r->alone, j->ranks, alone);
    else
        sleep_for(1.2 * expected + 2e-3);
    status = banyan_comm_agree(j->comm, status);
    if (!status) status = banyan_comm_allreduce(j->comm, alone, 1, BANYAN_MAX);
    return status;
}

static banyan_status open_race(race *r)
{
    const job *j = r->b->j;
    int64_t tokens = r->b->pace.quick ? r->row->tokens / 64 : r->row->tokens;
    banyan_status status = sequence_open(&r->together, r->row, tokens, j->comm, 1);
    if (!status && r->row->rows) status = sequence_fill(&r->together);
    if (status) return status;
    if (j->rank == 0) {
        status = sequence_open(&r->alone, r->row, tokens, NULL, j->ranks);
        if (!status && r->row->rows) status = sequence_fill(&r->alone);
    }
    return banyan_comm_agree(j->comm, status);
}

static banyan_status measure_race(race *r, int *count)
{
    const int most = r->b->pace.quick ? 1 : r->row->rows ? most_turns : 3;
    double warm, expected;
    banyan_status status = open_race(r);
    if (!status) status = time_together_and_alone(r, 0, &warm, &expected);
    for (int i = 0; !status && i < most; i++) {
        status =
            time_together_and_alone(r, expected, &r->together_seconds[i], &r->alone_seconds[i]);
        expected = r->alone_seconds[i];
        r->ratio[i] = r->together_seconds[i] / expected;
        *count = i + 1;
    }
    return status;
}

static void print_race(race *r, int count)
{
    const int ranks = r->b->j->ranks;
    double together = numbers_median(r->together_seconds, count);
    double alone = numbers_median(r->alone_seconds, count),
           ratio = numbers_median(r->ratio, count);
    double spread = numbers_spread(r->ratio, count);
    wrapped(stdout, r->b->is_wide, 29,
            "%-26s | %d ranks x 1 thread %.3f ms, 1 rank x %d threads %.3f ms: %.3f x as long "
            "+-%.1f%% (at most %.2f)",
            r->row->name, ranks, together * 1e3, ranks, alone * 1e3, ratio, spread * 100, bar);
    if (!r->b->json) return;
    json_t *line =
        json_pack("{s:s,s:i,s:f,s:f,s:f,s:f,s:i,s:f}", "row", r->row->name, "ranks", ranks,
                  "together_seconds", together, "alone_seconds", alone, "ratio", ratio,
                  "spread", spread, "repetitions", count, "bar", bar);
    output_line(r->b->json, line);
}

/* A step of all sequences, as one batch or one by one; the slowest rank's time counts. */
static banyan_status step_sequences(race *r, bool as_batch, double *seconds)
{
    sequence *s = &r->together;
    banyan_status status = banyan_comm_agree(r->b->j->comm, BANYAN_OK);
    if (status) return status;
    const double start = pace_seconds(&r->b->pace, 1);
    status = as_batch ? sequence_call(s, s->tokens - 1, 1, false, true)
                      : sequence_calls(s, s->tokens - 1, 1, false, true);
    *seconds = pace_seconds(&r->b->pace, 1) - start;
    status = banyan_comm_agree(r->b->j->comm, status);
    return status ? status : banyan_comm_allreduce(r->b->j->comm, seconds, 1, BANYAN_MAX);
}

static void print_batch(race *r, int count)
{
    const double batch = numbers_median(r->together_seconds, count);
    const double calls = numbers_median(r->alone_seconds, count);
    const double ratio = numbers_median(r->ratio, count),
                 spread = numbers_spread(r->ratio, count);
    wrapped(
        stdout, r->b->is_wide, 29,
        "%-26s | %d ranks x 1 thread: a batch %.0f tokens/s, calls one by one %.0f: %.2f x as "
        "many +-%.1f%% (at least %.2f)",
        r->row->name, r->b->j->ranks, r->row->sequences / batch, r->row->sequences / calls,
        ratio, spread * 100, r->row->bar);
    if (!r->b->json) return;
    json_t *line =
        json_pack("{s:s,s:i,s:f,s:f,s:f,s:f,s:i,s:f}", "row", r->row->name, "ranks",
                  r->b->j->ranks, "batch_seconds", batch, "calls_seconds", calls, "ratio",
                  ratio, "spread", spread, "repetitions", count, "bar", r->row->bar);
    output_line(r->b->json, line);
}

static int batch_run(race *r)
{
    const int most = r->b->pace.quick ? 1 : most_turns;
    const job *j = r->b->j;
    double warm;
    banyan_status status = sequence_open(&r->together, r->row, r->row->tokens, j->comm, 1);
    if (!status) status = sequence_fill(&r->together);
    if (!status) status = step_sequences(r, true, &warm);
    if (!status) status = step_sequences(r, false, &warm);
    for (int i = 0; i < most && !status; i++) {
        status = step_sequences(r, true, &r->together_seconds[i]);
        if (!status) status = step_sequences(r, false, &r->alone_seconds[i]);
        r->ratio[i] = r->alone_seconds[i] / r->together_seconds[i];
    }
    if (!status && j->rank == 0) print_batch(r, most);
    sequence_close(&r->together);
    return status ? job_failed(j, status, r->row->name) : EXIT_OK;
}

int ranks_run(const bench *b, int index)
{
    const job *j = b->j;
    race r = {.b = b, .row = &rows[index]};
    int count = 0;
    if (r.row->sequences) return batch_run(&r);
    if (j->rank == 0 && omp_get_num_procs() < j->ranks)
        say_warning(j,
                    "rank 0 may use %d core%s for %d threads; if there are more, start "
                    "mpirun with --bind-to none",
                    omp_get_num_procs(), omp_get_num_procs() == 1 ? "" : "s", j->ranks);
    banyan_status status = measure_race(&r, &count);
    int code = status ? job_failed(j, status, r.row->name) : EXIT_OK;
    if (!code && j->rank == 0) print_race(&r, count);
    sequence_close(&r.alone);
    sequence_close(&r.together);
    return code;
}
