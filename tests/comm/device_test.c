/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges in a device's memory against the same in host memory, which exchange_test proves:
 * ranks are threads, and each has a stream that does later what is queued (stream.h). Several
 * exchanges go one after another before anyone waits, so that a buffer which is used again too
 * early shows. The combine is neither commutative nor associative:
 *
 *     combine(lo, hi) = rotl(lo * A, 23) ^ (hi + B) * C       on 64-bit words */
#include "tests/comm/local.h"
#include "tests/comm/stream.h"
#include "tests/test.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { most_items = 10, most_ranks = 7, in_a_row = 4, gap = 40 };
enum { on_host, queued, staged, ways };

typedef struct trial {
    const banyan_schedule *s;
    uint64_t seed;
    size_t item_bytes;
    int is_together; /* items one behind the other */
    unsigned char result[ways][most_ranks][most_items * 128];
    int64_t messages[ways][most_ranks], bytes[ways][most_ranks];
    int32_t combines[ways][most_ranks], folds[ways][most_ranks];
    int way;
} trial;

static void combine_words(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)ctx;
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t a, b;
        memcpy(&a, (const char *)lo + i, sizeof a);
        memcpy(&b, (const char *)hi + i, sizeof b);
        a *= 0x9e3779b97f4a7c15u;
        a = (a << 23 | a >> 41) ^ (b + 0x94d049bb133111ebu) * 0xbf58476d1ce4e5b9u;
        memcpy((char *)out + i, &a, sizeof a);
    }
}

/* What the ctx of combine, on the host, and of fold is. */
typedef struct combiner {
    stream *stream;
    void *const *data;
    size_t bytes;
    int32_t combines, folds;
} combiner;

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    ((combiner *)ctx)->combines++;
    combine_words(NULL, out, lo, hi, bytes);
}

static void fold(void *ctx, const banyan_arrivals *arrivals)
{
    combiner *c = ctx;
    c->folds++;
    c->combines += stream_fold(c->stream, arrivals, c->data, c->bytes, combine_words);
}

static size_t place_of(const trial *t, int item)
{
    return (size_t)item * (t->item_bytes + (t->is_together ? 0 : gap));
}

static void run_rank(banyan_comm *comm, void *arg)
{
    trial *t = arg;
    const int rank = banyan_comm_rank(comm);
    unsigned char memory[most_items * (128 + gap)];
    void *data[most_items];
    stream *s = t->way == on_host ? NULL : stream_open(t->seed + (uint64_t)rank);
    combiner c = {s, data, t->item_bytes, 0, 0};
    banyan_memory there = stream_memory(s, t->way == staged);
    banyan_exchange *x = NULL;
    uint64_t state = t->seed + 1000 * (uint64_t)rank;
    for (size_t i = 0; i < sizeof memory; i++) memory[i] = (unsigned char)test_random(&state);
    for (int i = 0; i < most_items; i++) data[i] = memory + place_of(t, i);
    CHECK(banyan_exchange_create(t->s, rank, 128, 7, s ? &there : NULL, &x) == BANYAN_OK);
    for (int i = 0; i < in_a_row; i++) {
        const banyan_exchange_args p = {.data = data,
                                        .item_bytes = t->item_bytes,
                                        .combine = combine,
                                        .fold = fold,
                                        .ctx = &c,
                                        .mark = {{"merge", i}}};
        const banyan_status status = banyan_exchange_run(
            x, comm, &p, &t->messages[t->way][rank], &t->bytes[t->way][rank]);
        CHECK_MSG(!status, "%s", banyan_error_message());
    }
    if (s) stream_wait(s);
    CHECK(banyan_exchange_look(x, comm) == BANYAN_OK);
    for (int i = 0; i < most_items; i++)
        memcpy(t->result[t->way][rank] + (size_t)i * t->item_bytes, data[i], t->item_bytes);
    t->combines[t->way][rank] = c.combines;
    t->folds[t->way][rank] = c.folds;
    banyan_exchange_destroy(x);
    if (s) stream_close(s);
}

static void run_everywhere(banyan_comm **comm, int32_t ranks, const banyan_schedule *s,
                           uint64_t seed, const char *name)
{
    trial *t = calloc(1, sizeof *t);
    *t = (trial){
        .s = s, .seed = seed, .item_bytes = seed % 3 ? 128 : 24, .is_together = seed % 2};
    for (t->way = 0; t->way < ways; t->way++) local_run(comm, ranks, run_rank, t);
    for (int way = 1; way < ways; way++)
        for (int32_t r = 0; r < ranks; r++) {
            CHECK_MSG(!memcmp(t->result[way][r], t->result[0][r], most_items * t->item_bytes),
                      "%s, %s, rank %d of %d, seed %d", name,
                      way == queued ? "queued" : "staged", (int)r, (int)ranks, (int)seed);
            CHECK(t->messages[way][r] == t->messages[0][r]);
            CHECK(t->bytes[way][r] == t->bytes[0][r]);
            CHECK(t->combines[way][r] == t->combines[0][r]);
        }
    free(t);
}

/* ---- schedules --------------------------------------------------------------------------- */

static void test_random_steps(banyan_comm **comm, int32_t ranks, uint64_t seed)
{
    banyan_schedule s = {0};
    uint64_t state = seed * 17 + (uint64_t)ranks;
    const int rounds = 1 + (int)test_below(&state, 4);
    const int64_t one_in = 1 + test_below(&state, 6), replaces = 1 + test_below(&state, 4);
    for (int round = 0; round < rounds; round++)
        for (int src = 0; src < ranks; src++)
            for (int dst = 0; dst < ranks; dst++)
                for (int item = 0; item < most_items; item++)
                    if (src != dst && !test_below(&state, one_in))
                        banyan_schedule_add(&s, round, src, dst, item,
                                            test_below(&state, replaces) != 0);
    banyan_schedule_sort(&s);
    run_everywhere(comm, ranks, &s, seed, "random steps");
    banyan_schedule_free(&s);
}

static void test_merges(banyan_comm **comm, int32_t ranks, uint64_t seed)
{
    int32_t holder[most_items][most_ranks];
    banyan_item item[most_items];
    uint64_t state = seed * 31 + (uint64_t)ranks;
    for (int i = 0; i < most_items; i++) {
        int32_t holders = 0;
        for (int32_t r = 0; r < ranks; r++)
            if (test_below(&state, 3)) holder[i][holders++] = r;
        if (!holders) holder[i][holders++] = ranks - 1;
        item[i] = (banyan_item){holder[i], holders, (int32_t)test_below(&state, ranks)};
    }
    for (int i = 0; banyan_merge_row(i); i++) {
        banyan_schedule s = {0};
        if (!banyan_merge_row(i)->build) continue;
        banyan_merge_row(i)->build(banyan_comm_topology(comm[0]), item, most_items,
                                   (int)(seed % 2), &s);
        banyan_schedule_sort(&s);
        run_everywhere(comm, ranks, &s, seed, banyan_merge_row(i)->name);
        banyan_schedule_free(&s);
    }
}

/* All items go from rank 1 to rank 0 together: one fold, wherever they lie. */
static void test_together(banyan_comm **comm)
{
    banyan_schedule s = {0};
    trial *t = calloc(1, sizeof *t);
    for (int item = 0; item < most_items; item++) banyan_schedule_add(&s, 0, 1, 0, item, 1);
    *t = (trial){.s = &s, .seed = 5, .item_bytes = 64, .is_together = 1, .way = queued};
    local_run(comm, 2, run_rank, t);
    CHECK(t->folds[queued][0] == in_a_row && t->folds[queued][1] == 0);
    CHECK(t->combines[queued][0] == in_a_row * most_items);
    t->is_together = 0;
    local_run(comm, 2, run_rank, t);
    CHECK(t->folds[queued][0] == in_a_row);
    CHECK(t->combines[queued][0] == in_a_row * most_items);
    free(t);
    banyan_schedule_free(&s);
}

/* ---- passes ------------------------------------------------------------------------------ */

enum { most_floats = 600 };

typedef struct passes_trial {
    int way, passes;
    int64_t floats;
    float result[ways][most_ranks][most_floats];
    int64_t messages[ways][most_ranks], bytes[ways][most_ranks];
} passes_trial;

/* What give and take's ctx is: this rank's values, from pass to pass. */
typedef struct giver {
    stream *stream;
    float *own;
    int64_t floats;
} giver;

static void move(const giver *g, void *to, const void *from)
{
    const size_t bytes = (size_t)g->floats * sizeof(float);
    const banyan_memory there = stream_memory(g->stream, 0);
    if (g->stream)
        banyan_memory_copy(&there, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

static void give(void *ctx, float *values)
{
    const giver *g = ctx;
    move(g, values, g->own);
}

static void take(void *ctx, const float *values)
{
    const giver *g = ctx;
    move(g, g->own, values);
}

/* Sums of whole numbers are the same in any order. */
static void run_passes(banyan_comm *comm, void *arg)
{
    passes_trial *t = arg;
    const int rank = banyan_comm_rank(comm);
    stream *s = t->way == on_host ? NULL : stream_open((uint64_t)rank);
    float own[most_floats], values[2 * most_floats], staging[2 * most_floats];
    const banyan_memory there = stream_memory(s, t->way == staged);
    const banyan_pass_room room = {values, s ? &there : NULL, staging};
    giver g = {s, own, t->floats};
    const banyan_pass pass[2] = {{BANYAN_SUM, t->floats, give, take},
                                 {BANYAN_MAX, t->floats, give, take}};
    for (int64_t i = 0; i < t->floats; i++) own[i] = (float)((i * 31 + rank * 17) % 23);
    const banyan_status status =
        banyan_merge_find("allreduce")
            ->reduce(comm, pass, 2, &g, &room, &t->messages[t->way][rank],
                     &t->bytes[t->way][rank]);
    CHECK_MSG(!status, "%s", banyan_error_message());
    if (s) stream_wait(s);
    memcpy(t->result[t->way][rank], own, (size_t)t->floats * sizeof *own);
    if (s) stream_close(s);
}

static void test_passes(banyan_comm **comm, int32_t ranks, int64_t floats)
{
    passes_trial *t = calloc(1, sizeof *t);
    t->floats = floats;
    for (t->way = 0; t->way < ways; t->way++) local_run(comm, ranks, run_passes, t);
    for (int way = 0; way < ways; way++)
        for (int32_t r = 0; r < ranks; r++) {
            for (int64_t i = 0; i < floats; i++) {
                float sum = 0;
                for (int32_t q = 0; q < ranks; q++) sum += (float)((i * 31 + q * 17) % 23);
                CHECK(t->result[way][r][i] == sum);
            }
            CHECK(t->messages[way][r] == t->messages[0][r]);
            CHECK(t->bytes[way][r] == t->bytes[0][r]);
        }
    free(t);
}

/* ---- faults ------------------------------------------------------------------------------ */

typedef struct fault_case {
    uint64_t plan[2];
    int64_t merge[2];
    const char *words;
} fault_case;

/* Rank 1 sends to rank 0 and believes something else. Rank 0's call only queues, and its next
 * one says what came. */
static void run_fault(banyan_comm *comm, void *arg)
{
    const fault_case *f = arg;
    const int rank = banyan_comm_rank(comm);
    stream *s = stream_open(1);
    combiner c = {.stream = s, .bytes = 2 * sizeof(uint64_t)};
    const banyan_memory there = stream_memory(s, 0);
    banyan_exchange *x = NULL;
    banyan_schedule steps = {0};
    int64_t messages = 0, bytes = 0;
    uint64_t value[2] = {0};
    void *data[] = {value};
    c.data = data;
    const banyan_exchange_args p = {
        .data = data,
        .item_bytes = sizeof value,
        .fold = fold,
        .ctx = &c,
        .mark = {{"merge", f->merge[rank]}, {NULL, 0}, {"layer", 3}}};
    banyan_schedule_add(&steps, 4, 1, 0, 0, 1);
    CHECK(banyan_exchange_create(&steps, rank, sizeof value, f->plan[rank], &there, &x) == 0);
    CHECK(banyan_exchange_run(x, comm, &p, &messages, &bytes) == BANYAN_OK);
    stream_wait(s);
    if (rank == 0) {
        CHECK(banyan_exchange_look(x, comm) == BANYAN_ERR_COMM);
        CHECK_MSG(!strcmp(banyan_error_message(), f->words), "got      %s\n    expected %s",
                  banyan_error_message(), f->words);
        CHECK(banyan_exchange_run(x, comm, &p, &messages, &bytes) == BANYAN_ERR_COMM);
        CHECK(strstr(banyan_error_message(), "broken"));
    } else {
        CHECK(banyan_exchange_look(x, comm) == BANYAN_OK);
    }
    banyan_exchange_destroy(x);
    banyan_schedule_free(&steps);
    stream_close(s);
}

static void test_faults(void)
{
    static fault_case cases[] = {
        {{7, 7},
         {20, 21},
         "rank 1 sends merge 21, but rank 0 expects 20 (merge 20, layer 3, round 4)"},
        {{7, 8},
         {20, 20},
         "rank 1 sends for plan 0000000000000008, but rank 0 has plan 0000000000000007 (merge "
         "20, "
         "layer 3, round 4)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        local_with(2, &stream_device, run_fault, &cases[i]);
}

/* ---- refusals and sizes ------------------------------------------------------------------ */

static void test_refusals(void)
{
    banyan_comm *comm = NULL;
    banyan_schedule s = {0};
    banyan_exchange *x = NULL;
    int64_t messages = 0, bytes = 0;
    uint64_t value = 0;
    void *data[] = {&value};
    const banyan_exchange_args p = {.data = data, .item_bytes = 8, .fold = fold};
    banyan_schedule_add(&s, 0, 0, 1, 0, 1);
    stream *later = stream_open(1);
    const banyan_memory there = stream_memory(later, 1);
    CHECK(local_create(1, NULL, NULL, &comm) == BANYAN_OK);
    CHECK(banyan_exchange_create(&s, 0, 8, 7, &there, &x) == BANYAN_OK);
    stream_begin_capture(later);
    CHECK(banyan_exchange_run(x, comm, &p, &messages, &bytes) == BANYAN_ERR_UNSUPPORTED);
    CHECK(strstr(banyan_error_message(),
                 "transport \"local\" moves host memory, so that a merge "
                 "waits for the device: it cannot be captured"));
    stream_forget(stream_end_capture(later));
    CHECK(banyan_comm_device_flush(comm, later) == BANYAN_ERR_UNSUPPORTED);
    CHECK(!strcmp(banyan_error_message(),
                  "transport \"local\" takes host memory, but a device's was given"));
    banyan_exchange_destroy(x);
    banyan_schedule_free(&s);
    banyan_comm_destroy(comm);
    stream_close(later);
}

/* What was measured is enough for what is made. */
static void test_sizes(void)
{
    banyan_schedule s = {0};
    stream *later = stream_open(1);
    for (int item = 0; item < 5; item++) {
        banyan_schedule_add(&s, 0, item % 2 ? 2 : 1, 0, item, 1);
        banyan_schedule_add(&s, 1, 0, 1 + item % 3, item, 0);
    }
    banyan_schedule_sort(&s);
    for (int is_staged = 0; is_staged < 2; is_staged++)
        for (int rank = 0; rank < 4; rank++) {
            const banyan_memory there = stream_memory(later, is_staged);
            banyan_exchange *x = NULL;
            size_t host = 0, device = 0;
            banyan_exchange_measure_device(&s, rank, 100, is_staged, &host, &device);
            CHECK(banyan_exchange_create(&s, rank, 100, 7, &there, &x) == BANYAN_OK);
            CHECK(banyan_exchange_bytes(x) == host &&
                  banyan_exchange_device_bytes(x) == device);
            CHECK(device > 0);
            banyan_exchange_destroy(x);
        }
    banyan_schedule_free(&s);
    stream_close(later);
}

static void check_split(banyan_comm *comm, void *arg)
{
    banyan_comm *part = NULL;
    (void)arg;
    const int rank = banyan_comm_rank(comm);
    CHECK(banyan_comm_split(comm, rank == 0 ? -1 : rank % 2, -rank, &part) == BANYAN_OK);
    CHECK(!part == (rank == 0));
    if (!part) return;
    double sum = rank;
    const int expected = rank % 2 ? 1 + 3 + 5 : 2 + 4 + 6;
    CHECK(banyan_comm_size(part) == 3 && part->transport->device);
    CHECK(banyan_comm_rank(part) == 2 - (rank - 1) / 2);
    CHECK(banyan_comm_allreduce(part, &sum, 1, BANYAN_SUM) == BANYAN_OK && sum == expected);
    banyan_comm_destroy(part);
}

/* Ranks that stand still with the whole process, as in a debugger, are not late: here for 2 s,
 * with a limit of 1 s; but one that does not come is. */
static void check_patience(banyan_comm *comm, void *arg)
{
    int word = 7, got = 0;
    const banyan_message sends = {1 - comm->rank, &word, sizeof word};
    const banyan_message recvs = {1 - comm->rank, &got, sizeof got};
    const struct timespec later = {0, 600000000};
    const int comes = arg != NULL;
    banyan_comm_timeout(comm, 1);
    if (comm->rank == 1 && !comes) return;
    if (comm->rank == 1) nanosleep(&later, NULL);
    const banyan_status status = banyan_comm_exchange(comm, &sends, 1, &recvs, 1);
    CHECK_MSG(status == (comes ? BANYAN_OK : BANYAN_ERR_COMM) && got == (comes ? 7 : 0), "%s",
              status ? banyan_error_message() : "a rank that did not come was not missed");
}

static void test_patience(int comes)
{
    banyan_comm *comm[2];
    CHECK(local_create(2, NULL, NULL, comm) == BANYAN_OK);
    const pid_t child = comes ? fork() : -1;
    if (child == 0) {
        usleep(300000);
        kill(getppid(), SIGSTOP);
        usleep(2000000);
        kill(getppid(), SIGCONT);
        _exit(0);
    }
    local_run(comm, 2, check_patience, comes ? &comes : NULL);
    if (comes) waitpid(child, NULL, 0);
    for (int r = 0; r < 2; r++) banyan_comm_destroy(comm[r]);
}

int main(void)
{
    static const int32_t sizes[] = {1, 2, 3, 4, 7}, node[] = {0, 0, 1, 0, 1, 1, 2};
    test_patience(1);
    test_patience(0);
    test_refusals();
    test_sizes();
    test_faults();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        banyan_comm *comm[most_ranks];
        CHECK(local_create(sizes[i], node, &stream_device, comm) == BANYAN_OK);
        for (uint64_t seed = 0; seed < 12; seed++) test_random_steps(comm, sizes[i], seed);
        for (uint64_t seed = 0; seed < 6; seed++) test_merges(comm, sizes[i], seed);
        if (sizes[i] == 2) test_together(comm);
        test_passes(comm, sizes[i], 1);
        test_passes(comm, sizes[i], most_floats);
        if (sizes[i] == 7) local_run(comm, 7, check_split, NULL);
        for (int32_t r = 0; r < sizes[i]; r++) banyan_comm_destroy(comm[r]);
    }
    return test_end();
}
