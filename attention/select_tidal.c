/* SPDX-License-Identifier: Apache-2.0 */
/* TidalDecode (arXiv 2410.05076): decoded rows of most layers read few single tokens, which are
 * those that a layer before them found best for the same query head. Layers below `first` read
 * all; the layer `first`, and the layer `again`, read all and choose: the tokens whose keys
 * have the largest products with the row's query. The row's own token is one of many here, as
 * in the published reference; its CUDA kernels always take it, and one less of the others.
 * Every step chooses anew, and nothing is let go.
 *
 * A decoded row is a part of one row in the layer that chooses and in the one that follows; all
 * others read all, as upstream's prefill does. */
#include "attention/window.h"

#include <stdio.h>

enum { FIRST, AGAIN, TOKENS };

static const banyan_param params[] = {
    {.name = "first",
     .default_text = "2",
     .min = 0,
     .max = 1 << 20,
     .doc = "the first layer that chooses; those below it read all"},
    {.name = "again",
     .default_text = "13",
     .min = 0,
     .max = 1 << 20,
     .doc = "the layer that chooses once more; 0: none does"},
    {.name = "tokens",
     .default_text = "256",
     .in_tokens = 1,
     .min = 1,
     .max = 1 << 20,
     .doc = "so many that the last layer which chose found best"},
    {.name = NULL},
};

static banyan_status tidal_check(const banyan_pattern *pattern, char *why, size_t why_bytes)
{
    const int64_t first = pattern->value[FIRST].number, again = pattern->value[AGAIN].number;
    if (!again || again > first) return BANYAN_OK;
    if (why && why_bytes)
        snprintf(
            why, why_bytes,
            "tidal: again=%lld comes no later than first=%lld, expected a later layer, or 0",
            (long long)again, (long long)first);
    return BANYAN_ERR_CONFIG;
}

static void tidal_follows(const banyan_pattern *pattern, banyan_following *out)
{
    *out = (banyan_following){.first = (int32_t)pattern->value[FIRST].number,
                              .again = (int32_t)pattern->value[AGAIN].number,
                              .tokens = pattern->value[TOKENS].number};
}

const banyan_selector banyan_select_tidal = {
    .name = "tidal",
    .params = params,
    .check = tidal_check,
    .reads = banyan_all_reads,
    .select = banyan_all_select,
    .keeps = banyan_all_keeps,
    .alike = banyan_own_alike,
    .follows = tidal_follows,
};
