/* SPDX-License-Identifier: Apache-2.0 */
/* The executor against a lockstep simulation of all ranks in one array. The combine is neither
 * commutative nor associative, so that any other order or bracketing of any fold shows:
 *
 *     combine(lo, hi) = rotl(lo * A, 23) ^ (hi + B) * C       on 64-bit words
 *
 * Schedules: those of every merge over random items, and steps drawn at random, which reach
 * corners that no merge has (an item sent and received at once, several that replace, long ways
 * round). */
#include "comm/comm.h"
#include "tests/world.h"

enum { most_items = 12, most_words = 40, most_ranks = 16 };

static banyan_comm *comm;
static int rank, size;
static int combines; /* calls of combine */

typedef struct value {
    uint64_t word[most_words];
    int32_t lowest;
} value;

static value now[most_ranks][most_items], next[most_ranks][most_items];
static value began[most_items]; /* of this rank */

static uint64_t combine_word(uint64_t lo, uint64_t hi)
{
    lo *= 0x9e3779b97f4a7c15u;
    return (lo << 23 | lo >> 41) ^ (hi + 0x94d049bb133111ebu) * 0xbf58476d1ce4e5b9u;
}

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    CHECK(ctx == &combines);
    combines++;
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++) {
        uint64_t a, b;
        memcpy(&a, (const char *)lo + i * sizeof a, sizeof a);
        memcpy(&b, (const char *)hi + i * sizeof b, sizeof b);
        a = combine_word(a, b);
        memcpy((char *)out + i * sizeof a, &a, sizeof a);
    }
}

/* ---- the simulation ---------------------------------------------------------------------- */

static void start_values(uint64_t seed)
{
    for (int r = 0; r < size; r++)
        for (int i = 0; i < most_items; i++) {
            uint64_t state = seed * 4099 + (uint64_t)(r * most_items + i);
            for (int w = 0; w < most_words; w++) now[r][i].word[w] = test_random(&state);
            now[r][i].lowest = r;
        }
}

/* What rank dst makes of an item in a round: all that comes, and its own unless one replaces,
 * from the lowest on. */
static void simulate_item(const banyan_step *step, int32_t steps, int32_t dst, int32_t item)
{
    int from[most_ranks + 1], count = 0, is_replaced = 0;
    for (int32_t i = 0; i < steps; i++)
        if (step[i].dst == dst && step[i].item == item) {
            from[count++] = step[i].src;
            is_replaced |= !step[i].combine;
        }
    if (!count) return;
    if (!is_replaced) from[count++] = dst;
    for (int i = 0; i < count; i++) /* by (lowest, rank) */
        for (int k = i + 1; k < count; k++) {
            const int32_t a = now[from[i]][item].lowest, b = now[from[k]][item].lowest;
            if (b < a || (b == a && from[k] < from[i])) {
                const int swapped = from[i];
                from[i] = from[k];
                from[k] = swapped;
            }
        }
    next[dst][item] = now[from[0]][item];
    for (int i = 1; i < count; i++)
        for (int w = 0; w < most_words; w++)
            next[dst][item].word[w] =
                combine_word(next[dst][item].word[w], now[from[i]][item].word[w]);
}

static void simulate(const banyan_schedule *s)
{
    for (int32_t begin = 0, end; begin < s->count; begin = end) {
        for (end = begin; end < s->count && s->step[end].round == s->step[begin].round;) end++;
        memcpy(next, now, sizeof next);
        for (int32_t dst = 0; dst < size; dst++)
            for (int32_t item = 0; item < most_items; item++)
                simulate_item(s->step + begin, end - begin, dst, item);
        memcpy(now, next, sizeof now);
    }
}

/* ---- the real thing ---------------------------------------------------------------------- */

/* Where item i lies: one after another, in reverse, or apart with guards between. */
static size_t place_of(int layout, int item, size_t bytes)
{
    if (layout == 0) return (size_t)item * bytes;
    if (layout == 1) return (size_t)(most_items - 1 - item) * bytes;
    return (size_t)item * (bytes + 24) + 8;
}

static banyan_exchange_args exchange_args(void *const *data, size_t item_bytes, int64_t step)
{
    return (banyan_exchange_args){.data = data,
                                  .item_bytes = item_bytes,
                                  .combine = combine,
                                  .ctx = &combines,
                                  .mark = {{"merge", step}}};
}

/* In two parts: only what is sent in the first round is there at the start. */
static banyan_status run_in_parts(banyan_exchange *x, const banyan_exchange_args *p,
                                  int64_t *messages, int64_t *bytes)
{
    for (int i = 0; i < most_items; i++)
        if (p->data[i] && !banyan_exchange_sends_first(x, i))
            memset(p->data[i], 0x5a, p->item_bytes);
    const banyan_status status = banyan_exchange_start(x, comm, p);
    for (int i = 0; i < most_items; i++)
        if (p->data[i] && !banyan_exchange_sends_first(x, i))
            memcpy(p->data[i], began[i].word, p->item_bytes);
    return status ? status : banyan_exchange_finish(x, comm, p, messages, bytes);
}

/* Runs the schedule with items of `bytes`; what this rank has in the end must be what the
 * simulation says, for the items in `wanted`, and nothing around the items may change. */
static void check_run(banyan_exchange *x, const banyan_schedule *s, uint64_t seed, size_t bytes,
                      int layout, uint32_t present, uint32_t wanted)
{
    static unsigned char memory[most_items * (most_words * 8 + 24) + 64];
    void *data[most_items] = {NULL};
    start_values(seed);
    memset(memory, 0xa5, sizeof memory);
    for (int i = 0; i < most_items; i++) {
        if (!(present >> i & 1)) continue;
        data[i] = memory + place_of(layout, i, bytes);
        memcpy(data[i], now[rank][i].word, bytes);
    }
    memcpy(began, now[rank], sizeof began);
    simulate(s);
    banyan_traffic cost;
    int64_t messages = 1000, sent = 2000;
    const banyan_exchange_args p = exchange_args(data, bytes, (int64_t)seed);
    const banyan_status status = seed % 2 ? run_in_parts(x, &p, &messages, &sent)
                                          : banyan_exchange_run(x, comm, &p, &messages, &sent);
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    banyan_topology flat = {0};
    int32_t node[most_ranks] = {0};
    CHECK(banyan_topology_make(node, size, &flat) == BANYAN_OK);
    banyan_schedule_cost(s, &flat, bytes, rank, &cost);
    banyan_topology_free(&flat);
    CHECK_MSG(messages == 1000 + cost.messages && sent == 2000 + cost.bytes,
              "%lld messages, %lld bytes; predicted %lld and %lld", (long long)messages - 1000,
              (long long)sent - 2000, (long long)cost.messages, (long long)cost.bytes);
    for (int i = 0; i < most_items; i++) {
        if (wanted >> i & 1)
            CHECK_MSG(data[i] && !memcmp(data[i], now[rank][i].word, bytes),
                      "rank %d of %d, item %d of %zu bytes, layout %d, seed %d", rank, size, i,
                      bytes, layout, (int)seed);
        if (data[i]) memset(data[i], 0xa5, bytes);
    }
    size_t changed = 0;
    for (size_t i = 0; i < sizeof memory; i++) changed += memory[i] != 0xa5;
    CHECK_MSG(!changed, "%zu bytes outside the items changed", changed);
}

static void check_schedule(banyan_schedule *s, uint64_t seed, uint32_t present, uint32_t wanted)
{
    banyan_exchange *x = NULL;
    uint64_t state = seed;
    const size_t most = 8 * (size_t)(1 + test_below(&state, most_words));
    banyan_schedule_sort(s);
    CHECK(banyan_exchange_create(s, rank, most, 99, NULL, &x) == BANYAN_OK);
    CHECK(banyan_exchange_bytes(x) > 0);
    for (int layout = 0; layout < 3; layout++)
        check_run(x, s, seed + (uint64_t)layout, layout == 1 ? 8 : most, layout, present,
                  wanted);
    if (rank == 0) {
        int64_t messages = 0, bytes = 0;
        const banyan_exchange_args p = exchange_args(NULL, most + 1, 0);
        CHECK(banyan_exchange_run(x, comm, &p, &messages, &bytes) == BANYAN_ERR_ARGUMENT);
    }
    banyan_exchange_destroy(x);
}

/* Steps at random, each at most once; every rank has every item. */
static void test_random_steps(uint64_t seed)
{
    banyan_schedule s = {0};
    uint64_t state = seed * 17 + 1;
    const int rounds = 1 + (int)test_below(&state, 5);
    const int64_t one_in = 1 + test_below(&state, 12), replaces = 1 + test_below(&state, 4);
    const int items = 1 + (int)test_below(&state, most_items);
    for (int round = 0; round < rounds; round++)
        for (int src = 0; src < size; src++)
            for (int dst = 0; dst < size; dst++)
                for (int item = 0; item < items; item++)
                    if (src != dst && !test_below(&state, one_in))
                        banyan_schedule_add(&s, round, src, dst, item,
                                            test_below(&state, replaces) != 0);
    check_schedule(&s, seed, (1u << most_items) - 1, (1u << most_items) - 1);
    banyan_schedule_free(&s);
}

/* Random items, on an imagined machine of as many ranks as there are. */
typedef struct task {
    banyan_topology topology;
    banyan_item item[most_items];
    int32_t holder[most_items][most_ranks];
    int count;
} task;

static void make_task(task *t, uint64_t seed)
{
    int32_t node[most_ranks];
    for (int r = 0; r < size; r++) node[r] = (int32_t)test_below(&seed, size);
    CHECK(banyan_topology_make(node, size, &t->topology) == BANYAN_OK);
    t->count = 1 + (int)test_below(&seed, most_items);
    for (int i = 0; i < t->count; i++) {
        int32_t *holder = t->holder[i], holders = 0;
        for (int r = 0; r < size; r++)
            if (test_below(&seed, 3)) holder[holders++] = r;
        if (!holders) holder[holders++] = size - 1;
        const int32_t home = test_below(&seed, 4) ? holder[test_below(&seed, holders)]
                                                  : (int32_t)test_below(&seed, size);
        t->item[i] = (banyan_item){holder, holders, home};
    }
}

static void build(const task *t, const banyan_merge *merge, int all, banyan_schedule *s)
{
    *s = (banyan_schedule){0};
    merge->build(&t->topology, t->item, t->count, all, s);
    banyan_schedule_sort(s);
    CHECK(banyan_schedule_replay(s, &t->topology, t->item, t->count, all) == BANYAN_OK);
}

static void test_merge(const banyan_merge *merge, uint64_t seed)
{
    task t;
    banyan_schedule s;
    const int all = (int)(seed % 2);
    uint32_t present = 0, wanted = 0;
    make_task(&t, seed * 31 + 7);
    for (int i = 0; i < t.count; i++) {
        if (all || t.item[i].home == rank) wanted |= 1u << i;
        for (int32_t h = 0; h < t.item[i].holders; h++)
            present |= (uint32_t)(t.holder[i][h] == rank) << i;
    }
    build(&t, merge, all, &s);
    check_schedule(&s, seed, present | wanted, wanted);
    banyan_schedule_free(&s);
    banyan_topology_free(&t.topology);
}

/* What home gets does not depend on who else wants it, to the bit; and `gather` is `direct`. */
static void test_home(const banyan_merge *merge, uint64_t seed)
{
    task t;
    banyan_schedule s;
    uint64_t home[most_items][most_words];
    make_task(&t, seed * 63 + 5);
    const int is_gather = !strcmp(merge->name, "gather");
    build(&t, is_gather ? banyan_merge_find("direct") : merge, 0, &s);
    start_values(seed);
    simulate(&s);
    for (int i = 0; i < t.count; i++)
        memcpy(home[i], now[t.item[i].home][i].word, sizeof home[i]);
    banyan_schedule_free(&s);
    build(&t, merge, 1, &s);
    start_values(seed);
    simulate(&s);
    for (int i = 0; i < t.count; i++)
        CHECK_MSG(!memcmp(home[i], now[t.item[i].home][i].word, sizeof home[i]),
                  "%s, seed %d, item %d", merge->name, (int)seed, i);
    banyan_schedule_free(&s);
    banyan_topology_free(&t.topology);
}

/* With `all`, every rank has the same bits in the end (and the simulation says which). */
static void test_same_bits(const banyan_merge *merge)
{
    int32_t everyone[most_ranks];
    uint64_t mine[2], all[most_ranks][2];
    for (int r = 0; r < size; r++) everyone[r] = r;
    const banyan_item item = {everyone, size, size / 2};
    banyan_schedule s = {0};
    banyan_exchange *x = NULL;
    merge->build(banyan_comm_topology(comm), &item, 1, 1, &s);
    banyan_schedule_sort(&s);
    CHECK(banyan_exchange_create(&s, rank, sizeof mine, 99, NULL, &x) == BANYAN_OK);
    for (int i = 0; i < 20; i++) {
        int64_t messages = 0, bytes = 0;
        void *data[] = {mine};
        mine[0] = (uint64_t)rank;
        mine[1] = ~(uint64_t)rank;
        const banyan_exchange_args p = exchange_args(data, sizeof mine, i);
        CHECK(banyan_exchange_run(x, comm, &p, &messages, &bytes) == BANYAN_OK);
        CHECK(banyan_comm_allgather(comm, mine, sizeof mine, all) == BANYAN_OK);
        for (int r = 0; r < size; r++) CHECK(!memcmp(all[r], mine, sizeof mine));
    }
    banyan_exchange_destroy(x);
    banyan_schedule_free(&s);
}

static void test_refusals(void)
{
    banyan_schedule s = {0};
    banyan_exchange *x = NULL;
    CHECK(banyan_exchange_create(&s, 0, 8, 99, NULL, &x) == BANYAN_OK);
    int64_t messages = 3, bytes = 4;
    const banyan_exchange_args p = exchange_args(NULL, 8, 0);
    CHECK(banyan_exchange_run(x, comm, &p, &messages, &bytes) == BANYAN_OK);
    CHECK(messages == 3 && bytes == 4);
    banyan_exchange_destroy(x);
    banyan_exchange_destroy(NULL);

    banyan_schedule_add(&s, 1, 0, 1, 0, 1);
    banyan_schedule_add(&s, 0, 0, 1, 0, 1);
    CHECK(banyan_exchange_create(&s, 0, 8, 99, NULL, &x) == BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "not sorted"));
    s.failed = 1;
    CHECK(banyan_exchange_create(&s, 0, 8, 99, NULL, &x) == BANYAN_ERR_MEMORY);
    banyan_schedule_free(&s);
}

int main(int argc, char **argv)
{
    comm = test_comm(NULL);
    rank = banyan_comm_rank(comm);
    size = banyan_comm_size(comm);
    CHECK(size == (argc > 1 ? atoi(argv[1]) : 1) && size <= most_ranks);
    test_refusals();
    for (uint64_t seed = 0; seed < 100; seed++) test_random_steps(seed);
    CHECK(size == 1 || combines > 0);
    for (int i = 0; banyan_merge_row(i); i++) {
        if (!banyan_merge_row(i)->build) continue;
        for (uint64_t seed = 0; seed < 100; seed++) {
            test_merge(banyan_merge_row(i), seed);
            if (seed % 4 == 0) test_home(banyan_merge_row(i), seed);
        }
        test_same_bits(banyan_merge_row(i));
    }
    banyan_comm_destroy(comm);
    return test_end();
}
