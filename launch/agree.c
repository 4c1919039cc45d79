/* SPDX-License-Identifier: Apache-2.0 */
/* What only one rank knows, known to all: a failure in its own words (a file that is missing on one
 * machine), and whether a node has room for what its ranks are about to take. */
#include "launch/launch.h"

#include <stdlib.h>
#include <string.h>

enum { word_bytes = 1024 };

banyan_status agree_words(banyan_comm *comm, banyan_status mine, char *why, size_t why_bytes)
{
    int ranks = banyan_comm_size(comm), first = 0;
    int32_t own = mine, *all = calloc((size_t)ranks, sizeof *all);
    if (!all) {
        snprintf(why, why_bytes, "out of memory for %d ranks", ranks);
        return BANYAN_ERR_MEMORY;
    }
    banyan_status status = banyan_comm_allgather(comm, &own, sizeof own, all), verdict = mine;
    while (!status && first < ranks && !all[first]) first++;
    if (!status && first < ranks) {
        char words[word_bytes];
        snprintf(words, sizeof words, "%s", why);
        status = banyan_comm_broadcast(comm, words, sizeof words, first);
        if (!status) snprintf(why, why_bytes, "%s", words);
        verdict = (banyan_status)all[first];
    }
    free(all);
    if (status) snprintf(why, why_bytes, "%s", banyan_error_message());
    return status ? status : verdict;
}

banyan_status agree_room(banyan_comm *comm, int64_t bytes, const char *what, char *why,
                         size_t why_bytes)
{
    int ranks = banyan_comm_size(comm), rank = banyan_comm_rank(comm);
    int64_t *all = calloc((size_t)ranks, sizeof *all);
    banyan_status status = all ? BANYAN_OK : BANYAN_ERR_MEMORY;
    if (status) snprintf(why, why_bytes, "out of memory for %d ranks", ranks);
    status = agree_words(comm, status, why, why_bytes);
    if (!status) {
        status = banyan_comm_allgather(comm, &bytes, sizeof bytes, all);
        double need = 0, have = (double)banyan_memory_free();
        for (int r = 0; r < ranks; r++)
            if (banyan_comm_node(comm, r) == banyan_comm_node(comm, rank))
                need += (double)all[r];
        if (status) {
            snprintf(why, why_bytes, "%s", banyan_error_message());
        } else if (have >= 0 && need > have) {
            status = BANYAN_ERR_MEMORY;
            snprintf(why, why_bytes, "%s: needs %.1f GiB on this machine, %.1f free", what,
                     need / 0x1p30, have / 0x1p30);
        }
        status = agree_words(comm, status, why, why_bytes);
    }
    free(all);
    return status;
}
