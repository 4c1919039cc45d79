/* SPDX-License-Identifier: Apache-2.0 */
/* Replay must find every fault: schedules that are wrong in one way each, and correct ones with
 * one step taken away, doubled, turned round or sent elsewhere. */
#include "comm/comm.h"
#include "tests/test.h"

static const int32_t holders[] = {0, 1, 2, 3};

/* Steps as quintuples (round, src, dst, item, combine), ended by round -1. */
static void check_fault(const int32_t (*steps)[5], int all, const char *words)
{
    banyan_topology topology;
    CHECK(banyan_topology_parse("node:2 rank:3", &topology) == BANYAN_OK);
    const banyan_item items[] = {{holders, 4, 0}, {holders + 1, 2, 1}};
    banyan_schedule s = {0};
    for (; (*steps)[0] >= 0; steps++)
        banyan_schedule_add(&s, (*steps)[0], (*steps)[1], (*steps)[2], (*steps)[3],
                            (*steps)[4]);
    banyan_schedule_sort(&s);
    const banyan_status status = banyan_schedule_replay(&s, &topology, items, 2, all);
    if (words) {
        CHECK(status == BANYAN_ERR_ARGUMENT);
        CHECK_MSG(!strcmp(banyan_error_message(), words), "got      %s\n    expected %s",
                  banyan_error_message(), words);
    } else {
        CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    }
    banyan_schedule_free(&s);
    banyan_topology_free(&topology);
}

#define END                                                                                    \
    {                                                                                          \
        -1, 0, 0, 0, 0                                                                         \
    }
#define ITEM_1                                                                                 \
    {                                                                                          \
        0, 2, 1, 1, 1                                                                          \
    }

static void test_faults(void)
{
    check_fault(
        (const int32_t[][5]){{0, 1, 0, 0, 1}, {0, 3, 2, 0, 1}, {1, 2, 0, 0, 1}, ITEM_1, END}, 0,
        NULL);
    check_fault((const int32_t[][5]){{0, 1, 0, 0, 1}, {1, 2, 0, 0, 1}, ITEM_1, END}, 0,
                "item 0: the part of rank 3 never reaches home, rank 0");
    check_fault((const int32_t[][5]){{0, 1, 0, 0, 1}, {0, 2, 0, 0, 1}, {0, 3, 0, 0, 1}, END}, 0,
                "item 1: the part of rank 2 never reaches home, rank 1");
    check_fault((const int32_t[][5]){{0, 1, 0, 0, 1}, {1, 1, 0, 0, 1}, ITEM_1, END}, 0,
                "item 0, round 1: the part of rank 1 reaches rank 0 twice");
    /* both at once, on the values before the round: 3 is in 2 and sends its own again */
    check_fault((const int32_t[][5]){{0, 3, 2, 0, 1}, {1, 2, 0, 0, 1}, {1, 3, 0, 0, 1}, END}, 0,
                "item 0, round 1: the part of rank 3 reaches rank 0 twice");
    check_fault(
        (const int32_t[][5]){{0, 3, 2, 0, 1}, {0, 2, 0, 0, 1}, {0, 1, 0, 0, 1}, END}, 0,
        "item 0, round 0: what rank 3 sends to rank 2 goes no further, and home is rank 0");
    check_fault((const int32_t[][5]){{0, 4, 0, 0, 1}, END}, 0,
                "item 0, round 0: rank 4 is neither a holder nor home");
    check_fault((const int32_t[][5]){{0, 1, 5, 0, 0}, {1, 5, 0, 0, 1}, END}, 0,
                "item 0, round 0: rank 5 is neither a holder nor home");
    check_fault((const int32_t[][5]){{0, 4, 0, 0, 1}, END}, 1,
                "item 0, round 0: rank 4 sends to rank 0 before it has anything");
    check_fault((const int32_t[][5]){{0, 1, 0, 0, 0}, {0, 2, 0, 0, 1}, {0, 3, 0, 0, 1}, END}, 0,
                "item 0: the part of rank 0 never reaches home, rank 0");
    check_fault(
        (const int32_t[][5]){{0, 0, 4, 0, 1}, END}, 1,
        "item 0, round 0: what comes from rank 0 is to be folded into rank 4's own, but "
        "that is nothing");
    check_fault(
        (const int32_t[][5]){{0, 6, 0, 0, 1}, END}, 0,
        "step 0 (round 0, rank 6 to rank 0, item 0) is out of range: 1 rounds, 6 ranks, 2 "
        "items");
    check_fault(
        (const int32_t[][5]){{0, 1, 1, 0, 1}, END}, 0,
        "step 0 (round 0, rank 1 to rank 1, item 0) is out of range: 1 rounds, 6 ranks, 2 "
        "items");
    check_fault(
        (const int32_t[][5]){{0, 1, 0, 2, 1}, END}, 0,
        "step 0 (round 0, rank 1 to rank 0, item 2) is out of range: 1 rounds, 6 ranks, 2 "
        "items");
    check_fault((const int32_t[][5]){{0, 1, 0, 0, 1}, {0, 1, 0, 0, 1}, END}, 0,
                "step 1 is a repetition or not in order");
}

/* Takes a correct schedule and breaks one step: replay must notice, whichever it is. */
static void break_step(const banyan_merge *merge, const banyan_topology *topology,
                       const banyan_item *items, int32_t count, int all)
{
    banyan_schedule s = {0};
    merge->build(topology, items, count, all, &s);
    banyan_schedule_sort(&s);
    for (int32_t i = 0; i < s.count; i++)
        for (int way = 0; way < 4; way++) {
            banyan_schedule broken = {0};
            for (int32_t k = 0; k < s.count; k++) {
                banyan_step step = s.step[k];
                if (k == i && way == 0) continue; /* lost */
                if (k == i && way == 1) {         /* turned round */
                    step.src = s.step[k].dst;
                    step.dst = s.step[k].src;
                }
                if (k == i && way == 2) /* of another item */
                    step.item = (step.item + 1) % count;
                banyan_schedule_add(&broken, step.round, step.src, step.dst, step.item,
                                    step.combine);
                if (k == i && way == 3) /* sent again, and folded in again */
                    banyan_schedule_add(&broken, s.rounds, step.src, step.dst, step.item, 1);
            }
            banyan_schedule_sort(&broken);
            CHECK_MSG(banyan_schedule_replay(&broken, topology, items, count, all) ==
                          BANYAN_ERR_ARGUMENT,
                      "%s, all %d, step %d broken in way %d: not noticed", merge->name, all,
                      (int)i, way);
            banyan_schedule_free(&broken);
        }
    banyan_schedule_free(&s);
}

static void test_broken(void)
{
    banyan_topology topology;
    CHECK(banyan_topology_parse("node:3 rank:3,1,3", &topology) == BANYAN_OK);
    static const int32_t some[] = {0, 2, 3, 4, 6}, two[] = {1, 5};
    const banyan_item items[] = {{some, 5, 3}, {two, 2, 1}};
    for (int i = 0; banyan_merge_row(i); i++)
        for (int all = 0; all < 2 && banyan_merge_row(i)->build; all++)
            break_step(banyan_merge_row(i), &topology, items, 2, all);
    banyan_topology_free(&topology);
}

static void test_order(void)
{
    banyan_schedule s = {0};
    uint64_t seed = 3;
    for (int i = 0; i < 1000; i++)
        banyan_schedule_add(&s, (int32_t)test_below(&seed, 5), (int32_t)test_below(&seed, 9),
                            (int32_t)test_below(&seed, 9), (int32_t)test_below(&seed, 9), 1);
    CHECK(s.count == 1000 && s.rounds == 5 && !s.failed);
    banyan_schedule_sort(&s);
    for (int i = 1; i < s.count; i++) {
        const banyan_step *a = &s.step[i - 1], *b = &s.step[i];
        const int64_t x = ((a->round * 10 + a->src) * 10 + a->dst) * 10 + a->item,
                      y = ((b->round * 10 + b->src) * 10 + b->dst) * 10 + b->item;
        CHECK(x <= y);
    }
    banyan_schedule_free(&s);
    CHECK(!s.step && !s.count && !s.rounds);
}

int main(void)
{
    test_faults();
    test_broken();
    test_order();
    return test_end();
}
