/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks whose keys fit the query best, by a summary of each: pooled means, as MInference's
 * block-sparse heads (arXiv 2407.02490) and MoBA (2502.13189) have them, or bounds, Quest's
 * (2406.10774). The first blocks and the most recent ones are always read. The rest is
 *
 *     score(block) = sum over query heads h of f(summary(block), sum over rows r of q_hr)
 *
 * with the rows of a call that lie in one own block (a decoded row alone), and with the query
 * heads of the group whose rules are alike (per=kv) or one (per=query): see choice.c for f.
 * With `mass` the fewest of these blocks are read whose share of the softmax over all blocks
 * that may be chosen is as much (FlexPrefill's, 2502.20766): of scale times the scores of mean
 * queries, as with pooled queries and keys; by=scaled_mean takes DHSA's mean times the root of
 * a block's length, which makes that softmax sharper, and ranks as the means do. Blocks
 * below the most recent ones are full: their summaries are of all of their keys. Any of them
 * may be chosen later, so that all are kept. */
#include "attention/window.h"

#include <math.h>

enum { BY, BLOCKS, MASS, SINK, LOCAL, PER };
enum { BY_MEAN, BY_MINMAX, BY_SCALED_MEAN };
enum { PER_KV, PER_QUERY };

static const banyan_param params[] = {
    {.name = "by",
     .default_text = "mean",
     .choices = "mean|minmax|scaled_mean",
     .doc = "what is remembered of a block: the mean of its keys, or their least and largest "
            "numbers; scaled_mean: the mean times the root of the block's length"},
    {.name = "blocks",
     .default_text = "64",
     .in_blocks = 1,
     .min = 1,
     .max = 1 << 16,
     .doc = "so many that fit best (tokens: 4096t)"},
    {.name = "mass",
     .default_text = "0",
     .is_fraction = 1,
     .min = 0,
     .max = 1,
     .doc = "the fewest of them that have this share of the softmax over blocks; 0: all"},
    {.name = "sink",
     .default_text = "1",
     .in_blocks = 1,
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "and the first blocks"},
    {.name = "local",
     .default_text = "1",
     .in_blocks = 1,
     .min = 1,
     .max = (int64_t)1 << 40,
     .doc = "and the most recent blocks, the row's own included"},
    {.name = "per",
     .default_text = "kv",
     .choices = "kv|query",
     .doc = "query heads of a group choose together, or each for itself"},
    {.name = NULL},
};

static int64_t value_in_blocks(const banyan_pattern *pattern, int param)
{
    return banyan_value_blocks(&pattern->value[param], pattern->block_tokens);
}

/* What is read whatever the data are. */
static banyan_window top_window(const banyan_pattern *pattern)
{
    return (banyan_window){.sink = value_in_blocks(pattern, SINK) * pattern->block_tokens,
                           .length = value_in_blocks(pattern, LOCAL),
                           .until = INT64_MAX};
}

static int top_reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    const banyan_window window = top_window(pattern);
    return banyan_window_reads(&window, pattern->block_tokens, row, token);
}

static void top_select(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                       banyan_selection *out)
{
    const banyan_window window = top_window(pattern);
    banyan_window_select(&window, pattern->block_tokens, first_row, last_row, out);
}

static int top_alike(const banyan_pattern *a, const banyan_pattern *b)
{
    return a->value[PER].number == PER_KV || a->head == b->head;
}

static void top_chooses(const banyan_pattern *pattern, banyan_choice *out)
{
    const int64_t by = pattern->value[BY].number;
    *out = (banyan_choice){
        .summary = by == BY_MINMAX ? BANYAN_SUMMARY_BOUNDS : BANYAN_SUMMARY_MEAN,
        .mass = pattern->value[MASS].fraction,
        .sharpness = by == BY_SCALED_MEAN ? sqrt((double)pattern->block_tokens) : 1,
        .first = value_in_blocks(pattern, SINK),
        .local = value_in_blocks(pattern, LOCAL),
        .blocks = value_in_blocks(pattern, BLOCKS)};
}

const banyan_selector banyan_select_top = {
    .name = "top",
    .params = params,
    .reads = top_reads,
    .select = top_select,
    .keeps = banyan_all_keeps,
    .alike = top_alike,
    .chooses = top_chooses,
};
