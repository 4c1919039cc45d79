/* SPDX-License-Identifier: Apache-2.0 */
/* Attention sinks plus a sliding window (StreamingLLM, arXiv 2309.17453): the first tokens, which
 * every later token leans on, and the most recent ones.
 *
 *     block    0    1    2   ...   own-2   own-1   own
 *              SSSS|S---|----|...|----|--WW|WWWW|WWx      window in tokens: the edges are cut
 *              SSSS|SSSS|----|...|----|WWWW|WWWW|WWx      in blocks: whole blocks
 *
 * In tokens, the row at t sees s < sink and s > t - window. In blocks, the row whose own block is i
 * sees the blocks j < sink and i - j < window, as block-sparse models are trained. The rows of a tile
 * share one own block, so at most two blocks are cut by their windows' edges, and one by the
 * sink's. */
#include "attention/attention.h"

enum { SINK, WINDOW };

static const banyan_param params[] = {
    {.name = "sink",
     .default_text = "1",
     .in_blocks = 1,
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "the first blocks (tokens: 4t)"},
    {.name = "window",
     .default_text = "16",
     .in_blocks = 1,
     .min = 1,
     .max = (int64_t)1 << 40,
     .doc = "the most recent blocks, the row's own included (tokens: 1024t, the row included)"},
    {.name = NULL},
};

static int64_t sink_tokens(const banyan_pattern *pattern)
{
    const banyan_value *sink = &pattern->value[SINK];
    return sink->in_tokens ? sink->number : sink->number * pattern->block_tokens;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    const banyan_value *window = &pattern->value[WINDOW];
    const int64_t tokens = pattern->block_tokens;
    if (token < sink_tokens(pattern)) return 1;
    return window->in_tokens ? token > row - window->number
                             : row / tokens - token / tokens < window->number;
}

static void select_blocks(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                          banyan_selection *out)
{
    const banyan_value *window = &pattern->value[WINDOW];
    int64_t tokens = pattern->block_tokens, own = last_row / tokens;
    int64_t sink = sink_tokens(pattern);
    int64_t cut = own - window->number + 1; /* first block that some row's window reaches */
    int64_t whole = cut;                    /* first block that every row sees to the end */

    out->edge = (banyan_edge){.sink_end = sink, .window = 0};
    if (window->in_tokens) {
        int64_t lowest = first_row - window->number + 1,
                highest = last_row - window->number + 1;
        cut = lowest > 0 ? lowest / tokens : 0;
        whole = highest > 0 ? (highest + tokens - 1) / tokens : 0;
        out->edge.window = window->number;
    }
    banyan_selection_add(out, 0, least(sink / tokens - 1, own), 1, 0);
    if (sink % tokens != 0)
        banyan_selection_add(out, sink / tokens, least(sink / tokens, whole - 1), 1, 1);
    banyan_selection_add(out, cut, whole - 1, 1, 1);
    banyan_selection_add(out, whole, own, 1, 0);
}

static void keeps(const banyan_pattern *pattern, banyan_retention *out)
{
    const banyan_value *window = &pattern->value[WINDOW];
    int64_t tokens = pattern->block_tokens;
    *out = (banyan_retention){
        .prefix = (sink_tokens(pattern) + tokens - 1) / tokens,
        .period = 1,
        .reach = window->in_tokens ? window->number - 1 : (window->number - 1) * tokens,
    };
}

const banyan_selector banyan_select_sink_window = {
    .name = "sink_window",
    .params = params,
    .reads = reads,
    .select = select_blocks,
    .keeps = keeps,
};
