/* SPDX-License-Identifier: Apache-2.0 */
/* The first tokens, which every later token leans on, and the most recent ones:
 *
 *     block    0    1    2   ...   own-2   own-1   own
 *              SSSS|S---|----|...|----|--WW|WWWW|WWx      window in tokens: the edges are cut
 *              SSSS|SSSS|----|...|----|WWWW|WWWW|WWx      in blocks: whole blocks
 *
 * The rows of a tile share one own block, so at most two blocks are cut by their windows'
 * edges, and one by the sink's. */
#include "attention/window.h"

int banyan_window_reads(const banyan_window *window, int32_t block_tokens, int64_t row,
                        int64_t token)
{
    if (token < window->sink || row >= window->until) return 1;
    return window->in_tokens ? token > row - window->length
                             : row / block_tokens - token / block_tokens < window->length;
}

void banyan_window_select(const banyan_window *window, int32_t block_tokens, int64_t first_row,
                          int64_t last_row, banyan_selection *out)
{
    const int64_t tokens = block_tokens, own = last_row / tokens, sink = window->sink;
    int64_t cut = own - window->length + 1; /* first block that some row's window reaches */
    int64_t whole = cut;                    /* first block that every row sees to the end */

    if (first_row >= window->until) {
        banyan_selection_add(out, 0, own, 1, 0);
        return;
    }
    out->edge = (banyan_edge){.sink_end = sink, .window = 0};
    if (window->in_tokens) {
        int64_t lowest = first_row - window->length + 1;
        int64_t highest = last_row - window->length + 1;
        cut = lowest > 0 ? lowest / tokens : 0;
        whole = highest > 0 ? (highest + tokens - 1) / tokens : 0;
        out->edge.window = window->length;
    }
    banyan_selection_add(out, 0, banyan_smaller(sink / tokens - 1, own), 1, 0);
    if (sink % tokens != 0)
        banyan_selection_add(out, sink / tokens, banyan_smaller(sink / tokens, whole - 1), 1,
                             1);
    banyan_selection_add(out, cut, whole - 1, 1, 1);
    banyan_selection_add(out, whole, own, 1, 0);
}

void banyan_window_keeps(const banyan_window *window, int32_t block_tokens,
                         banyan_retention *out)
{
    const int64_t tokens = block_tokens;
    *out = (banyan_retention){
        .prefix = (window->sink + tokens - 1) / tokens,
        .period = 1,
        .reach = window->in_tokens ? window->length - 1 : (window->length - 1) * tokens,
    };
    if (window->until != INT64_MAX) out->residue[0] = 1;
}

int banyan_all_reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    (void)pattern, (void)row, (void)token;
    return 1;
}

void banyan_all_select(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                       banyan_selection *out)
{
    (void)first_row;
    banyan_selection_add(out, 0, last_row / pattern->block_tokens, 1, 0);
}

void banyan_all_keeps(const banyan_pattern *pattern, banyan_retention *out)
{
    (void)pattern;
    *out = (banyan_retention){.period = 1, .residue = {1}};
}

int banyan_own_alike(const banyan_pattern *a, const banyan_pattern *b)
{
    return a->head == b->head;
}
