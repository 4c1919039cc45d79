/* SPDX-License-Identifier: Apache-2.0 */
/* A-shape (MInference, arXiv 2407.02490; its stream_llm heads): sparse while the prompt is
 * computed, dense afterwards. Rows below `prompt` read the first tokens and the last ones, rows
 * from there on read everything, so that nothing can be evicted. */
#include "attention/window.h"

enum { PROMPT, SINK };

static const banyan_param params[] = {
    {.name = "prompt",
     .default_text = "0",
     .in_tokens = 1,
     .min = 0,
     .max = (int64_t)1 << 46,
     .doc = "tokens of the prompt; verbs that know it fill it in"},
    BANYAN_WINDOW_PARAMS("128t", "3968t"), /* of the published code */
    {.name = NULL},
};

static banyan_window a_shape_window(const banyan_pattern *pattern)
{
    banyan_window window = banyan_window_of(&pattern->value[SINK], pattern->block_tokens);
    window.until = pattern->value[PROMPT].number;
    return window;
}

BANYAN_WINDOW_FUNCTIONS(a_shape)

const banyan_selector banyan_select_a_shape = {
    .name = "a_shape",
    .params = params,
    .reads = a_shape_reads,
    .select = a_shape_select,
    .keeps = a_shape_keeps,
    .until = a_shape_until,
};
