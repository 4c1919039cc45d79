/* SPDX-License-Identifier: Apache-2.0 */
/* What only one rank knows, known to all: a failure in its own words (a file that is missing on
 * one machine), and whether a node has room for what its ranks are about to take. */
#include "launch/launch.h"

#include <stdlib.h>

enum { word_bytes = 1024 };

/* One number says who failed first, and how: ranks count down, so that the maximum is the
 * lowest. */
static double encode_failure(int ranks, int rank, banyan_status mine)
{
    return mine ? 16.0 * (ranks - rank) - (double)mine : 0; /* errors are negative */
}

/* The words of rank `first`, on all; with its name, unless all failed alike. */
static banyan_status share_words(banyan_comm *comm, int first, double failed, char *why,
                                 size_t why_bytes)
{
    const int ranks = banyan_comm_size(comm);
    char words[word_bytes];
    banyan_status status = banyan_comm_allreduce(comm, &failed, 1, BANYAN_SUM);
    if (!status && (int)failed < ranks)
        snprintf(words, sizeof words, "rank %d: %s", banyan_comm_rank(comm), why);
    else
        snprintf(words, sizeof words, "%s", why);
    if (!status) status = banyan_comm_broadcast(comm, words, sizeof words, first);
    if (!status) snprintf(why, why_bytes, "%s", words);
    return status;
}

banyan_status agree_words(banyan_comm *comm, banyan_status mine, char *why, size_t why_bytes)
{
    const int ranks = banyan_comm_size(comm);
    double worst = encode_failure(ranks, banyan_comm_rank(comm), mine);
    banyan_status status = banyan_comm_allreduce(comm, &worst, 1, BANYAN_MAX);
    if (!status && worst > 0) {
        const int code = (int)worst;
        status = share_words(comm, ranks - code / 16, mine != BANYAN_OK, why, why_bytes);
        if (!status) return (banyan_status) - (code % 16);
    }
    if (status) snprintf(why, why_bytes, "%s", banyan_error_message());
    return status;
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
