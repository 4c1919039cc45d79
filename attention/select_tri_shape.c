/* SPDX-License-Identifier: Apache-2.0 */
/* Tri-shape (MInference, arXiv 2407.02490): rows of the prompt read the first tokens and the
 * last ones, as of a_shape, but for the last of them, which read everything, and so do all rows
 * after the prompt: of the triangle of scores an A and its lowest edge. Nothing can be
 * evicted. */
#include "attention/window.h"

enum { PROMPT, LAST, SINK };

static const banyan_param params[] = {
    {.name = "prompt",
     .default_text = "0",
     .in_tokens = 1,
     .min = 0,
     .max = (int64_t)1 << 46,
     .doc = "tokens of the prompt; verbs that know it fill it in"},
    {.name = "last",
     .default_text = "100",
     .in_tokens = 1,
     .min = 0,
     .max = (int64_t)1 << 46,
     .doc = "so many of its last rows read everything"},
    BANYAN_WINDOW_PARAMS("128t", "3968t"), /* of the published code */
    {.name = NULL},
};

static banyan_window tri_shape_window(const banyan_pattern *pattern)
{
    banyan_window window = banyan_window_of(&pattern->value[SINK], pattern->block_tokens);
    window.until = pattern->value[PROMPT].number - pattern->value[LAST].number;
    return window;
}

BANYAN_WINDOW_FUNCTIONS(tri_shape)

const banyan_selector banyan_select_tri_shape = {
    .name = "tri_shape",
    .params = params,
    .reads = tri_shape_reads,
    .select = tri_shape_select,
    .keeps = tri_shape_keeps,
    .until = tri_shape_until,
};
