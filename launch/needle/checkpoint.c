/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a haystack of which snapshots are made: a job that ends in the middle of it is gone
 * on with by the next one, on as many ranks as that has. The snapshot's ids say whose beginning
 * it is; one of another prompt, or that does not fit, is left until the first snapshot of this
 * one takes its place. */
#include "launch/needle/evaluate.h"

#include <stdlib.h>
#include <string.h>

/* Rank 0: how many tokens of this prompt the snapshot has; 0: it is none of it, or there is
 * none. */
static int64_t has_read(const evaluation *e, const prompt *p)
{
    char why[NEEDLE_WHY];
    int64_t count = 0;
    uint64_t digest = 0;
    uint32_t *ids = snapshot_ids(e->wish->checkpoint, 0, &count, &digest, why, sizeof why);
    const bool good = ids && digest == model_get_digest(e->m) && count <= p->count &&
                      !memcmp(ids, p->ids, (size_t)count * sizeof *ids);
    free(ids);
    return good ? count : 0;
}

/* Goes on from the snapshot, where it can. */
static banyan_status resume_snapshot(evaluation *e, const prompt *p, int64_t *read)
{
    *read = e->j->rank == 0 ? has_read(e, p) : 0;
    const banyan_status status = banyan_comm_broadcast(e->j->comm, read, sizeof *read, 0);
    if (status || !*read) return status;
    if (!model_load(e->m, e->wish->checkpoint, p->ids, *read) && model_length(e->m) == *read)
        return BANYAN_OK;
    progress_end(e->j);
    say_warning(e->j, "the snapshot in %s cannot be gone on with, read anew: %s",
                e->wish->checkpoint, model_message(e->m));
    *read = 0;
    return model_length(e->m) == 0 ? BANYAN_OK : BANYAN_ERR_CONFIG;
}

/* Progress counts from the prompt's beginning. */
typedef struct shown {
    void (*progress)(void *arg, int64_t done);
    void *arg;
    int64_t before;
} shown;

static void show_resumed(void *arg, int64_t done)
{
    const shown *s = arg;
    s->progress(s->arg, s->before + done);
}

banyan_status checkpoint_prefill(evaluation *e, const prompt *p,
                                 void (*progress)(void *arg, int64_t done), void *arg)
{
    int64_t at = 0;
    banyan_status status = resume_snapshot(e, p, &at);
    if (at && e->j->rank == 0)
        fprintf(stderr, "banyan: goes on at token %lld of %lld, from %s\n", (long long)at,
                (long long)p->count, e->wish->checkpoint);
    while (!status && at < p->count) {
        shown s = {progress, arg, at};
        int64_t end = (at / e->wish->every + 1) * e->wish->every;
        if (end > p->count) end = p->count;
        status = model_forward(e->m, at, p->ids + at, end - at, 0, NULL, NULL, NULL,
                               show_resumed, &s);
        at = end;
        if (!status && at < p->count)
            status = model_save(e->m, e->wish->checkpoint, p->ids, at);
    }
    return status;
}
