/* SPDX-License-Identifier: Apache-2.0 */
/* MInference's vertical-slash heads (arXiv 2407.02490): columns, which are tokens that all rows
 * read, and diagonals, distances at which they do, of each query head the best by what the last
 * rows of a call put on them: see lines.h. Upstream's kernels read a diagonal in squares of 64
 * rows and keys; here they are blocks of the cache, at most one more for each.
 *
 * A call of a prefill is taken for the end of the prompt. Parts of a call with fewer rows than
 * are observed read all: so does a decoded row, as upstream. */
#include "attention/window.h"

enum { COLUMNS, DIAGONALS, LAST, SINK, LOCAL };

#define TOKENS(param, text, least, what)                                                       \
    {                                                                                          \
        .name = (param), .default_text = (text), .in_tokens = 1, .min = (least),               \
        .max = (int64_t)1 << 40, .doc = (what)                                                 \
    }

static const banyan_param params[] = {
    TOKENS("columns", "1000", 1, "so many tokens that the last rows read most"),
    TOKENS("diagonals", "6096", 1, "so many distances at which they do, in whole blocks"),
    {.name = "last",
     .default_text = "64",
     .in_tokens = 1,
     .min = 1,
     .max = BANYAN_LINE_ROWS,
     .doc = "rows of a call by which it chooses; with fewer it reads all"},
    TOKENS("sink", "30", 0, "the first tokens, always among the columns"),
    TOKENS("local", "100", 0, "the nearest distances, always among the diagonals"),
    {.name = NULL},
};

static void vertical_slash_lines(const banyan_pattern *pattern, banyan_lines *out)
{
    const banyan_value *value = pattern->value;
    *out = (banyan_lines){.rows = (int32_t)value[LAST].number,
                          .columns = value[COLUMNS].number,
                          .diagonals = value[DIAGONALS].number,
                          .sink = value[SINK].number,
                          .local = value[LOCAL].number};
}

const banyan_selector banyan_select_vertical_slash = {
    .name = "vertical_slash",
    .params = params,
    .reads = banyan_all_reads,
    .select = banyan_all_select,
    .keeps = banyan_all_keeps,
    .alike = banyan_own_alike,
    .whole = 1,
    .lines = vertical_slash_lines,
};
