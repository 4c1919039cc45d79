/* SPDX-License-Identifier: Apache-2.0 */
/* Attention sinks plus a sliding window (StreamingLLM, arXiv 2309.17453; the streaming heads of
 * DuoAttention, arXiv 2410.10819): the first tokens and the most recent ones.
 *
 * In tokens, the row at t sees s < sink and s > t - window. In blocks, the row whose own block
 * is i sees the blocks j < sink and i - j < window, as block-sparse models are trained. */
#include "attention/window.h"

static const banyan_param params[] = {
    BANYAN_WINDOW_PARAMS("1", "16"),
    {.name = NULL},
};

static banyan_window sink_window_window(const banyan_pattern *pattern)
{
    return banyan_window_of(pattern->value, pattern->block_tokens);
}

BANYAN_WINDOW_FUNCTIONS(sink_window)

const banyan_selector banyan_select_sink_window = {
    .name = "sink_window",
    .params = params,
    .reads = sink_window_reads,
    .select = sink_window_select,
    .keeps = sink_window_keeps,
    .until = sink_window_until,
};
