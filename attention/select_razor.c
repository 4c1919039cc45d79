/* SPDX-License-Identifier: Apache-2.0 */
/* RazorAttention (arXiv 2407.15891), of the heads that retrieve nothing: the first tokens, the
 * most recent ones, and one compensation token for all in between:
 *
 *     out = ( n exp(q.k') v' + sum exp(q.k_i) v_i ) / ( n exp(q.k') + sum exp(q.k_i) )
 *
 * with q scaled, the sums over the tokens that are read, n the number of those left out, k' and
 * v' the means of their keys (rotated as they are kept) and values. So it is one token more,
 * with ln n added to its score. The window is max(recent, N / part) tokens, N the plan's
 * planned_tokens; it counts whole blocks, so that what is left out follows from a row's own
 * block. The published code's window is cut once, after the prompt, and grows from there; here
 * it moves on. Its heads are whole: their means are of all that is left out. */
#include "attention/window.h"

enum { SINK, RECENT, PART };

static const banyan_param params[] = {
    {.name = "sink",
     .default_text = "40t",
     .in_blocks = 1,
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "the first blocks (tokens: 40t)"},
    {.name = "recent",
     .default_text = "4000t",
     .in_blocks = 1,
     .min = 1,
     .max = (int64_t)1 << 40,
     .doc =
         "the most recent blocks, the row's own included, at least (tokens, in whole blocks: "
         "4000t)"},
    {.name = "part",
     .default_text = "5",
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "and at least one token in so many of planned_tokens; 0: no more"},
    {.name = NULL},
};

static banyan_window razor_window(const banyan_pattern *pattern)
{
    const int64_t part = pattern->value[PART].number;
    const banyan_value share = {.number = part ? pattern->planned_tokens / part : 0,
                                .in_tokens = 1};
    const int64_t recent = banyan_value_blocks(&pattern->value[RECENT], pattern->block_tokens);
    const int64_t least = banyan_value_blocks(&share, pattern->block_tokens);
    return (banyan_window){
        .sink = banyan_value_tokens(&pattern->value[SINK], pattern->block_tokens),
        .length = recent > least ? recent : least,
        .until = INT64_MAX};
}

BANYAN_WINDOW_FUNCTIONS(razor)

static int compensates(const banyan_pattern *pattern, int64_t own, int64_t *first, int64_t *end)
{
    const banyan_window window = razor_window(pattern);
    *first = window.sink;
    *end = (own - window.length + 1) * pattern->block_tokens;
    return *end > *first;
}

const banyan_selector banyan_select_razor = {
    .name = "razor",
    .params = params,
    .reads = razor_reads,
    .select = razor_select,
    .keeps = razor_keeps,
    .until = razor_until,
    .compensates = compensates,
    .whole = 1,
};
