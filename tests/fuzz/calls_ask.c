/* SPDX-License-Identifier: Apache-2.0 */
/* What asks, and changes nothing: numbers that are not there, and no pointers. */
#include "tests/fuzz/calls.h"

#include <math.h>
#include <string.h>

void calls_refused(banyan_status status)
{
    FUZZ_CHECK(status && status != BANYAN_ERR_COMM && *banyan_error_message());
}

/* ---- questions --------------------------------------------------------------------------- */

void calls_ask_plan(const banyan_plan *plan, draw *in)
{
    const int64_t x = draw_number(in), y = draw_number(in);
    const int32_t a = (int32_t)x, b = (int32_t)y;
    const banyan_spec *spec = banyan_plan_spec(plan);
    banyan_share share;
    char text[64];
    int64_t first, last;
    const int owner = banyan_plan_owner(plan, (uint64_t)y, a, b, x);
    FUZZ_CHECK(owner == -1 || owner == 0);
    (void)banyan_plan_holds(plan, a, b, a), (void)banyan_plan_holds(plan, 0, 0, b);
    FUZZ_CHECK(banyan_plan_home(plan, a, b) <= 0 && banyan_plan_home(plan, 0, 0) == 0);
    (void)banyan_plan_reads(plan, a, b, x, y), (void)banyan_plan_reads(plan, 0, 0, x, y);
    (void)banyan_plan_compensates(plan, a, b, x, &first, &last);
    (void)banyan_plan_compensates(plan, 0, 0, x, &first, &last);
    const banyan_status status = banyan_plan_share(plan, b, x, y, &share);
    if (status) calls_refused(status);
    if (banyan_plan_share(plan, 0, x, spec->max_tokens, &share))
        calls_refused(BANYAN_ERR_ARGUMENT);
    FUZZ_CHECK(banyan_plan_text(plan, text, sizeof text) > 0 && memchr(text, 0, sizeof text));
    FUZZ_CHECK(banyan_plan_merge_time(plan, b) >= 0);
}

void calls_ask_sequence(world *w)
{
    const int64_t x = draw_number(&w->in), y = draw_number(&w->in);
    banyan_sequence *s = w->life[draw_below(&w->in, LIVES)].sequence, *opened = NULL;
    int64_t block;
    void *record;
    size_t bytes;
    (void)banyan_sequence_length(s, (int32_t)x), (void)banyan_sequence_length(s, 0);
    FUZZ_CHECK(banyan_sequence_owner(s, (int32_t)x, (int32_t)y, y) <= 0);
    FUZZ_CHECK(banyan_sequence_owner(s, 0, 0, y) <= 0);
    (void)banyan_sequence_record(s, (int32_t)x, (int32_t)y, y, &block, &record, &bytes);
    (void)banyan_sequence_record(s, 0, 0, y, &block, &record, &bytes);
    const banyan_status status = banyan_sequence_open(w->cache, (int32_t)x, &opened);
    FUZZ_CHECK(!status == !!opened);
    FUZZ_CHECK(!banyan_cache_wait(w->cache));
}

/* NULL where something is needed. */
void calls_ask_nothing(const world *w)
{
    const banyan_rows part = {0};
    banyan_cache *cache = NULL;
    banyan_stats stats;
    size_t length;
    calls_refused(banyan_cache_create(NULL, NULL, &cache));
    calls_refused(banyan_cache_create(w->plan, NULL, NULL));
    calls_refused(banyan_cache_open(NULL, NULL, fuzz_folder(), &cache));
    calls_refused(banyan_cache_open(w->plan, NULL, NULL, &cache));
    calls_refused(banyan_cache_open(w->plan, NULL, "", &cache));
    calls_refused(banyan_cache_open(w->plan, NULL, "/dev/null/nowhere", &cache));
    calls_refused(banyan_cache_save(NULL, fuzz_folder(), NULL, 0));
    calls_refused(banyan_cache_save(w->cache, NULL, NULL, 0));
    calls_refused(banyan_cache_save(w->cache, fuzz_folder(), NULL, 1));
    calls_refused(banyan_sequence_create(NULL, 0, NULL)),
        calls_refused(banyan_sequence_create(w->cache, 0, NULL));
    calls_refused(banyan_sequence_fork(NULL, 0, 0, NULL));
    calls_refused(banyan_sequence_open(NULL, 0, NULL)),
        calls_refused(banyan_sequence_open(w->cache, 0, NULL));
    calls_refused(banyan_attend(NULL, 0, &part, 1, NULL, NULL, NULL, NULL, NULL));
    calls_refused(banyan_attend(w->cache, 0, NULL, 1, &part, NULL, NULL, NULL, NULL));
    calls_refused(banyan_attend(w->cache, 0, &part, 1, NULL, NULL, NULL, NULL, NULL));
    calls_refused(banyan_cache_step(NULL, &part, 1)),
        calls_refused(banyan_cache_step(w->cache, NULL, 1));
    calls_refused(banyan_combine(NULL, 0, 1, 1, NULL, NULL, NULL, NULL));
    calls_refused(banyan_combine(w->cache, 0, 1, 1, NULL, NULL, NULL, NULL));
    calls_refused(banyan_cache_wait(NULL)),
        calls_refused(banyan_plan_share(NULL, 0, 1, 1, NULL));
    calls_refused(banyan_snapshot_note(NULL, NULL, 0, &length));
    calls_refused(banyan_snapshot_note(fuzz_folder(), NULL, 1, &length));
    calls_refused(banyan_snapshot_print(fuzz_folder(), NULL)),
        calls_refused(banyan_snapshot_verify(NULL, NULL));
    banyan_cache_stats(w->cache, &stats);
    FUZZ_CHECK(banyan_cache_sequences(NULL) == 0 && banyan_sequence_length(NULL, 0) == -1);
    FUZZ_CHECK(banyan_sequence_owner(NULL, 0, 0, 0) == -1);
    banyan_cache_destroy(NULL), banyan_sequence_destroy(NULL), banyan_plan_destroy(NULL);
    banyan_comm_destroy(NULL);
}

/* ---- comm -------------------------------------------------------------------------------- */

/* On a comm of its own: one whose transfer fails is broken. */
void calls_use_comm(banyan_comm *comm, draw *in)
{
    banyan_comm *own = NULL, *none = comm;
    char a[16] = "abcdefgh", b[16] = {0};
    double values[2] = {1, 2};
    const int64_t x = draw_number(in);
    const banyan_link link = {(double)x * 1e-9, x == 3 ? NAN : (double)x * 1e-12};
    FUZZ_CHECK(!banyan_comm_split(comm, -1, (int)x, &none) && !none);
    FUZZ_CHECK(!banyan_comm_split(comm, 0, (int)x, &own) && own);
    if (banyan_comm_links(own, &link, NULL)) calls_refused(BANYAN_ERR_ARGUMENT);
    const int peer = draw_one_in(in, 4) ? (int)x : 0;
    const size_t sent = (size_t)draw_below(in, 16), got = draw_one_in(in, 4) ? 3 : sent;
    const banyan_message send = {peer, a, sent}, receive = {0, b, got};
    FUZZ_CHECK(!banyan_comm_broadcast(own, a, sent, 0) &&
               !banyan_comm_allgather(own, a, sent, b) && !memcmp(a, b, sent));
    FUZZ_CHECK(!banyan_comm_allreduce(own, values, 2, BANYAN_SUM) && values[1] == 2);
    FUZZ_CHECK(!banyan_comm_agree(own, BANYAN_OK));
    FUZZ_CHECK(banyan_comm_node(own, (int)x) <= 0 && banyan_comm_nodes(own) == 1);
    memset(b, 0, sizeof b);
    const banyan_status status = banyan_comm_exchange(own, &send, 1, &receive, 1);
    FUZZ_CHECK(!status == (peer == 0 && sent == got));
    FUZZ_CHECK(status ? *banyan_error_message() != 0 : !memcmp(a, b, sent));
    banyan_comm_destroy(own);
}
