/* SPDX-License-Identifier: Apache-2.0 */
/* window.h - the first tokens and the most recent ones: what several selectors are made of. */
#ifndef BANYAN_ATTENTION_WINDOW_H
#define BANYAN_ATTENTION_WINDOW_H

#include "attention/attention.h"

/* The row at token t, whose own block is i, reads
 *
 *     tokens s < sink,
 *     and s > t - length (in_tokens), or the blocks j with i - j < length,
 *     and everything, if t >= until. */
typedef struct banyan_window {
    int64_t sink;   /* tokens */
    int64_t length; /* at least 1 */
    int in_tokens;
    int64_t until; /* INT64_MAX: no row reads everything */
} banyan_window;

/* Of a length: so many tokens, or blocks and their tokens, at least so many. */
static inline int64_t banyan_value_tokens(const banyan_value *value, int32_t block_tokens)
{
    return value->in_tokens ? value->number : value->number * block_tokens;
}
static inline int64_t banyan_value_blocks(const banyan_value *value, int32_t block_tokens)
{
    return value->in_tokens ? (value->number + block_tokens - 1) / block_tokens : value->number;
}

/* The window of parameters "sink" and "window", these two, in this order. */
static inline banyan_window banyan_window_of(const banyan_value *sink, int32_t block_tokens)
{
    return (banyan_window){.sink = banyan_value_tokens(&sink[0], block_tokens),
                           .length = sink[1].number,
                           .in_tokens = sink[1].in_tokens,
                           .until = INT64_MAX};
}

/* These three are as in banyan_selector. */
int banyan_window_reads(const banyan_window *window, int32_t block_tokens, int64_t row,
                        int64_t token);
void banyan_window_select(const banyan_window *window, int32_t block_tokens, int64_t first_row,
                          int64_t last_row, banyan_selection *out);
void banyan_window_keeps(const banyan_window *window, int32_t block_tokens,
                         banyan_retention *out);

/* The parameters of both lengths, for a row's list. */
#define BANYAN_WINDOW_PARAMS(sink_text, window_text)                                           \
    {.name = "sink",                                                                           \
     .default_text = (sink_text),                                                              \
     .in_blocks = 1,                                                                           \
     .min = 0,                                                                                 \
     .max = (int64_t)1 << 40,                                                                  \
     .doc = "the first blocks (tokens: 4t)"},                                                  \
    {                                                                                          \
        .name = "window", .default_text = (window_text), .in_blocks = 1, .min = 1,             \
        .max = (int64_t)1 << 40,                                                               \
        .doc = "the most recent blocks, the row's own included (tokens: 1024t, the row "       \
               "included)"                                                                     \
    }

/* NAME_reads, NAME_select, NAME_keeps and NAME_until of a row, from its
 * `banyan_window NAME_window(const banyan_pattern *)`. */
#define BANYAN_WINDOW_FUNCTIONS(name)                                                          \
    static int name##_reads(const banyan_pattern *pattern, int64_t row, int64_t token)         \
    {                                                                                          \
        const banyan_window window = name##_window(pattern);                                   \
        return banyan_window_reads(&window, pattern->block_tokens, row, token);                \
    }                                                                                          \
    static void name##_select(const banyan_pattern *pattern, int64_t first_row,                \
                              int64_t last_row, banyan_selection *out)                         \
    {                                                                                          \
        const banyan_window window = name##_window(pattern);                                   \
        banyan_window_select(&window, pattern->block_tokens, first_row, last_row, out);        \
    }                                                                                          \
    static void name##_keeps(const banyan_pattern *pattern, banyan_retention *out)             \
    {                                                                                          \
        const banyan_window window = name##_window(pattern);                                   \
        banyan_window_keeps(&window, pattern->block_tokens, out);                              \
    }                                                                                          \
    static int64_t name##_until(const banyan_pattern *pattern, int64_t row)                    \
    {                                                                                          \
        const banyan_window window = name##_window(pattern);                                   \
        return window.until > row ? window.until : INT64_MAX;                                  \
    }

/* Of a selector whose rows read every token up to their own, or choose among all of them: the
 * functions of banyan_selector. */
int banyan_all_reads(const banyan_pattern *pattern, int64_t row, int64_t token);
void banyan_all_select(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                       banyan_selection *out);
void banyan_all_keeps(const banyan_pattern *pattern, banyan_retention *out);
/* `alike` of those of whom each query head chooses for itself. */
int banyan_own_alike(const banyan_pattern *a, const banyan_pattern *b);

#endif
