/* SPDX-License-Identifier: Apache-2.0 */
/* MoA, mixture of attention spans (arXiv 2406.14909): the first tokens and a window whose
 * length is a linear function of the context's, with coefficients of each head's own. A head's
 * span of N tokens is
 *
 *     int(alpha + beta N)      at most N, at least sink + 64, rounded up to a multiple of 64
 *
 * with the sinks among it. N is the plan's planned_tokens, the published code's prompt and
 * max_new_tokens; a span does not grow while a sequence does. The row at t reads the tokens s <
 * sink and s > t - (span - sink), the published code's ring buffer. */
#include "attention/window.h"

enum { ALPHA, BETA, SINK };
enum { GRAIN = 64 }; /* the published code's */

static const banyan_param params[] = {
    {.name = "alpha",
     .default_text = "0",
     .in_tokens = 1,
     .min = -((int64_t)1 << 40),
     .max = (int64_t)1 << 40,
     .doc = "tokens of the span, whatever the length of the context; may be negative"},
    {.name = "beta",
     .default_text = "0.5",
     .is_fraction = 1,
     .min = 0,
     .max = 1,
     .doc = "and this share of planned_tokens"},
    {.name = "sink",
     .default_text = "64t",
     .in_blocks = 1,
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "of the span, the first blocks (tokens: 64t)"},
    {.name = NULL},
};

static banyan_window span_window(const banyan_pattern *pattern)
{
    const int64_t sink = banyan_value_tokens(&pattern->value[SINK], pattern->block_tokens);
    const double asked = (double)pattern->value[ALPHA].number +
                         pattern->value[BETA].fraction * (double)pattern->planned_tokens;
    int64_t span = (int64_t)asked;
    if (span > pattern->planned_tokens) span = pattern->planned_tokens;
    if (span < sink + GRAIN) span = sink + GRAIN;
    span = (span + GRAIN - 1) / GRAIN * GRAIN;
    return (banyan_window){
        .sink = sink, .length = span - sink, .in_tokens = 1, .until = INT64_MAX};
}

BANYAN_WINDOW_FUNCTIONS(span)

const banyan_selector banyan_select_span = {
    .name = "span",
    .params = params,
    .reads = span_reads,
    .select = span_select,
    .keeps = span_keeps,
    .until = span_until,
};
