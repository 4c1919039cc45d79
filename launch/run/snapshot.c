/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of `run`: the note says which data they are of, so that they are not gone on with
 * by others. */
#include "launch/run/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char format[] = "banyan run, seed %" PRIu64 ", %" PRId64 " tokens";

int run_load_figures(run_task *t)
{
    const job *j = t->j;
    const char *folder = job_text(j, "load");
    struct {
        uint64_t seed;
        int64_t tokens;
    } has = {0, -1};
    if (!folder) return EXIT_OK;
    char note[128] = "";
    size_t bytes = 0;
    banyan_status status = BANYAN_OK;
    if (j->rank == 0) {
        status = banyan_snapshot_note(folder, note, sizeof note - 1, &bytes);
        if (!status &&
            sscanf(note, "banyan run, seed %" SCNu64 ", %" SCNd64, &has.seed, &has.tokens) != 2)
            has.tokens = -1;
    }
    status = banyan_comm_agree(j->comm, status);
    if (!status) status = banyan_comm_broadcast(j->comm, &has, sizeof has, 0);
    if (status) return job_failed(j, status, "--load");
    const int64_t end = t->tokens + (int64_t)t->decode * t->rows;
    if (has.tokens < 0 || has.tokens > t->tokens)
        say_error(j,
                  has.tokens < 0 ? "--load \"%s\": the snapshot is none of \"banyan run\""
                                 : "--load \"%s\": the snapshot has %" PRId64
                                   " tokens; expected at most %" PRId64
                                   ", which are to be prefilled (--tokens)",
                  folder, has.tokens, t->tokens);
    else if (has.seed != t->seed)
        say_error(j, "--load \"%s\": the snapshot is of seed %" PRIu64 ", not %" PRIu64, folder,
                  has.seed, t->seed);
    else if (has.tokens == end)
        say_error(j, "--load \"%s\": the snapshot has all %" PRId64 " tokens", folder, end);
    else {
        t->loaded = has.tokens;
        if (t->at < t->loaded) t->at = t->loaded;
        return EXIT_OK;
    }
    return EXIT_USAGE;
}

int run_load(run_task *t)
{
    if (!t->loaded) {
        const banyan_status status = single_create_on(
            t->j->comm, t->plan, device_stream(t->j->device), &t->cache, &t->sequence);
        return status ? job_failed(t->j, status, NULL) : EXIT_OK;
    }
    banyan_status status = banyan_cache_open(t->plan, device_stream(t->j->device),
                                             job_text(t->j, "load"), &t->cache);
    if (!status) status = banyan_sequence_open(t->cache, 0, &t->sequence);
    return status ? job_failed(t->j, status, "--load") : EXIT_OK;
}

int run_save(run_task *t)
{
    char note[128];
    const char *folder = job_text(t->j, "save");
    if (!folder) return EXIT_OK;
    const int bytes =
        snprintf(note, sizeof note, format, t->seed, banyan_sequence_length(t->sequence, -1));
    const banyan_status status = banyan_cache_save(t->cache, folder, note, (size_t)bytes);
    return status ? job_failed(t->j, status, "--save") : EXIT_OK;
}
