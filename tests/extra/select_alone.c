/* SPDX-License-Identifier: Apache-2.0 */
/* Dense, but for one holder. */
#include "attention/attention.h"

static const banyan_param params[] = {{.name = NULL}};

static int reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    (void)pattern, (void)row, (void)token;
    return 1;
}

static void select_blocks(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                          banyan_selection *out)
{
    (void)first_row;
    banyan_selection_add(out, 0, last_row / pattern->block_tokens, 1, 0);
}

static void keeps(const banyan_pattern *pattern, banyan_retention *out)
{
    (void)pattern;
    *out = (banyan_retention){.period = 1, .residue = {1}};
}

const banyan_selector banyan_select_alone = {
    .name = "alone",
    .params = params,
    .reads = reads,
    .select = select_blocks,
    .keeps = keeps,
    .whole = 1,
};
