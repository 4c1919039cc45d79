/* SPDX-License-Identifier: Apache-2.0 */
/* A selector with many runs, which keeps more than is read: at a distance of stride^i blocks
 * and more, only blocks whose number is a multiple of stride^i are read, for i below `levels`.
 * Everything is kept. */
#include "attention/attention.h"

enum { LEVELS, STRIDE };

static const banyan_param params[] = {
    {.name = "levels",
     .default_text = "3",
     .min = 1,
     .max = 16,
     .doc = "how often blocks become sparser"},
    {.name = "stride", .default_text = "2", .min = 2, .max = 8, .doc = "how much sparser"},
    {.name = NULL},
};

/* stride^level of what is `distance` blocks away. */
static int64_t step_at(const banyan_pattern *pattern, int64_t distance)
{
    const int64_t stride = pattern->value[STRIDE].number;
    int64_t step = 1;
    for (int64_t i = 1; i < pattern->value[LEVELS].number && step * stride <= distance; i++)
        step *= stride;
    return step;
}

static int reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    const int64_t block = token / pattern->block_tokens;
    return block % step_at(pattern, row / pattern->block_tokens - block) == 0;
}

static void select_blocks(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                          banyan_selection *out)
{
    const int64_t own = last_row / pattern->block_tokens,
                  stride = pattern->value[STRIDE].number;
    (void)first_row;
    for (int64_t step = step_at(pattern, own), from = 0; step >= 1; step /= stride) {
        const int64_t to = step > 1 ? own - step : own;
        if (to < from) continue;
        banyan_selection_add(out, (from + step - 1) / step * step, to, step, 0);
        from = to + 1;
    }
}

static void keeps(const banyan_pattern *pattern, banyan_retention *out)
{
    (void)pattern;
    *out = (banyan_retention){.period = 1, .residue = {1}};
}

const banyan_selector banyan_select_levels = {
    .name = "levels",
    .params = params,
    .reads = reads,
    .select = select_blocks,
    .keeps = keeps,
};
