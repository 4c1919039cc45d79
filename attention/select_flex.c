/* SPDX-License-Identifier: Apache-2.0 */
/* FlexPrefill (arXiv 2502.20766): in each call of a prefill each query head either reads blocks
 * whose pooled keys fit its pooled queries, or columns and diagonals, and of either as few as
 * have a share `gamma` of the attention: see lines.h. Which of both, the divergence of pooled
 * and true attention of the call's last rows decides (the paper's algorithms 2 to 4).
 *
 * It differs from the published code where that knows whole prompts and squares of blocks only:
 *  - A call of a prefill is taken for the end of the prompt. Parts of a call with fewer rows
 *    than are observed read all: so does a decoded row, as upstream.
 *  - Columns are single tokens, and diagonals are read in whole blocks, as in vertical_slash;
 *    the paper's algorithm has single tokens and distances, its code rounds both to blocks of
 *    128.
 *  - Blocks are chosen for each own block by itself, with `gamma` of the softmax of its row;
 *    upstream sorts the map of all rows at once, which rows of later calls would change.
 *  - A block's mean is of the keys up to the rows' last one: the choice knows nothing of what
 *    comes after.
 *  - What passes `gamma` is read too, as in the paper; the code leaves that block out. */
#include "attention/window.h"

#include <stdio.h>

enum { GAMMA, TAU, BUDGET, LAST };

static const banyan_param params[] = {
    {.name = "gamma",
     .default_text = "0.95",
     .is_fraction = 1,
     .min = 0,
     .max = 1,
     .doc = "the share of the attention that is read"},
    {.name = "tau",
     .default_text = "0.1",
     .is_fraction = 1,
     .min = 0,
     .max = 1,
     .doc =
         "blocks, not columns and diagonals, if the root of the divergence is less; 0: never"},
    {.name = "budget",
     .default_text = "1024",
     .in_tokens = 1,
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "at least so many columns, and so many diagonals; of blocks, so many tokens"},
    {.name = "last",
     .default_text = "64",
     .in_tokens = 1,
     .min = 1,
     .max = BANYAN_LINE_ROWS,
     .doc = "rows of a call by which it chooses; with fewer it reads all"},
    {.name = NULL},
};

static banyan_status flex_check(const banyan_pattern *pattern, char *why, size_t why_bytes)
{
    if (pattern->value[GAMMA].fraction > 0) return BANYAN_OK;
    if (why && why_bytes)
        snprintf(why, why_bytes,
                 "flex: gamma=0 reads nothing by its mass, expected more than 0");
    return BANYAN_ERR_CONFIG;
}

static void flex_lines(const banyan_pattern *pattern, banyan_lines *out)
{
    const banyan_value *value = pattern->value;
    const int64_t budget = value[BUDGET].number;
    *out = (banyan_lines){.rows = (int32_t)value[LAST].number,
                          .columns = budget,
                          .diagonals = budget,
                          .sink = pattern->block_tokens,
                          .local = 1,
                          .mass = value[GAMMA].fraction,
                          .divergence = value[TAU].fraction,
                          .blocks = banyan_value_blocks(&value[BUDGET], pattern->block_tokens)};
}

const banyan_selector banyan_select_flex = {
    .name = "flex",
    .params = params,
    .check = flex_check,
    .reads = banyan_all_reads,
    .select = banyan_all_select,
    .keeps = banyan_all_keeps,
    .alike = banyan_own_alike,
    .whole = 1,
    .lines = flex_lines,
};
