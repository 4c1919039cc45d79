/* SPDX-License-Identifier: Apache-2.0 */
/* Every block up to the row's own; all are kept for good. */
#include "attention/attention.h"

static const banyan_param params[] = {{.name = NULL}};

static void select_blocks(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                          banyan_selection *out)
{
    (void)first_row;
    out->count = 0;
    banyan_selection_add(out, 0, last_row / pattern->block_tokens, 1, 0);
}

static void retain(const banyan_pattern *pattern, banyan_retention *out)
{
    (void)pattern;
    *out = (banyan_retention){.period = 1, .residue = {1}};
}

const banyan_selector banyan_select_dense = {
    .name = "dense",
    .doc = "every block up to the row's own",
    .params = params,
    .select = select_blocks,
    .retain = retain,
};
