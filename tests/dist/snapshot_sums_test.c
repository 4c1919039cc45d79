/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of compensation tokens in snapshots, opened where more or less is left out than where
 * they were saved: under a plan with fewer rows to go back, other windows, or other rules. What
 * is opened goes on as a cache of that plan does which read all tokens itself, bit by bit; or
 * it is refused, where sums cannot be made. */
#include "tests/dist/snapshot_world.h"
#include "tests/world.h"

#include <unistd.h>

static const banyan_rule razor = {0, -1, 2, 5, "razor sink=20t recent=30t part=0"};
static const banyan_rule narrow = {0, -1, 2, 5, "razor sink=20t recent=1 part=0"};
static const banyan_rule wide = {0, -1, 2, 5, "razor sink=20t recent=64t part=0"};
static const banyan_rule moved = {0, -1, 2, 5, "razor sink=25t recent=1 part=0"};

/* Rows of a block's end and some more: own blocks change. */
static uint64_t go_on(world *w)
{
    uint64_t hash = 1;
    for (int i = 0; i < 20; i++) grow(w, (int32_t[LIVES]){1, 0, 1, 1, 1}, 70 + i, &hash);
    fork_of(w, 2, 1, w->life[2].length, 4);
    grow(w, (int32_t[LIVES]){3, 3, 3, 3, 3}, 90, &hash);
    return hash;
}

/* Read by a plan of `from`, opened by one of `to`. ended: a sequence that is not there any
 * more, or -1. */
static void test_pair(const char *what, const snapshot_case *from, const snapshot_case *to,
                      int ended, banyan_comm *comm)
{
    snapshot_case by_itself = *to; /* which goes as far back */
    by_itself.max_rows = from->max_rows, by_itself.rollback = from->rollback;
    world saved = make(from, comm), own = make(&by_itself, comm);
    before(&saved);
    before(&own);
    if (ended >= 0) drop(&saved, ended), drop(&own, ended);
    save(&saved, "");
    world there = opened(to, comm, &saved);
    const uint64_t expected = go_on(&own), got = go_on(&there);
    CHECK_MSG(got == expected, "%s: other bits than read by itself", what);
    end(&saved), end(&own), end(&there);
    clear(comm);
}

static void refuse(const snapshot_case *to, banyan_comm *comm, const char *words)
{
    banyan_spec spec;
    banyan_cache *cache = NULL;
    set_spec(to, &spec);
    banyan_plan *plan = sequence_plan(&spec, comm);
    const banyan_status status = banyan_cache_open(plan, NULL, folder, &cache);
    CHECK_MSG((status == BANYAN_ERR_CONFIG || status == BANYAN_ERR_PEER) &&
                  strstr(banyan_error_message(), words),
              "%s: %d: %s; expected \"%s\"", to->name, status, banyan_error_message(), words);
    banyan_plan_destroy(plan);
}

static void test_refused(const snapshot_case *from, banyan_comm *comm)
{
    snapshot_case to = *from;
    world saved = make(from, comm);
    before(&saved);
    save(&saved, "");
    to.name = "wider", to.rule = &wide;
    refuse(&to, comm, "\"razor sink=20t recent=30t part=0\"), and");
    refuse(&to, comm, "keeps it");
    to.name = "another sink", to.rule = &moved;
    refuse(&to, comm, "\"razor sink=25t recent=1 part=0\" adds it to its compensation token");
    end(&saved);
    clear(comm);
}

int main(void)
{
    const snapshot_case all = {"razor", "heads", BANYAN_BF16, 1, &razor, 1, 1, 0, 0};
    snapshot_case to = all, from = all;
    banyan_comm *comm = test_comm(NULL);
    long id = (long)getpid();
    CHECK(banyan_comm_broadcast(comm, &id, sizeof id, 0) == BANYAN_OK);
    const char *fast =
        access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm"; /* no disk is waited for */
    snprintf(folder, sizeof folder, "%s/snapshot_sums_test.%ld", fast, id);

    from.max_rows = ROWS, from.rollback = 60;
    to.max_rows = 20, to.rollback = 0;
    test_pair("fewer rows to go back", &from, &to, -1, comm);
    test_pair("more of them", &all, &from, 4, comm);
    to = all, to.rule = &narrow;
    test_pair("a narrower window", &all, &to, -1, comm);
    from = all, from.evict = 0;
    to.rule = &wide;
    test_pair("a wider one, where nothing was let go", &from, &to, -1, comm);
    to.rule = &moved;
    test_pair("another sink, where nothing was let go", &from, &to, -1, comm);
    from = all, from.rules = 0, from.placement = "spread";
    test_pair("read densely", &from, &all, -1, comm);
    test_refused(&all, comm);
    banyan_comm_destroy(comm);
    return test_end();
}
