/* SPDX-License-Identifier: Apache-2.0 */
/* Where needles lie.
 *
 * A head with stride V sees one residue class of blocks. With V = 8 and depths at equal
 * distances of 8 n blocks, every needle falls into one class: one head sees them all and the
 * others none, and a coverage hole can go unnoticed altogether. So the haystack is cut into one
 * stratum per depth, and inside its stratum a needle goes to a block whose residue modulo V was
 * used least so far, at a random place in it:
 *
 *     stratum      |    0    |    1    |    2    |    3    |
 *     residue mod 4   .  0      2  .       .  3     1    .
 *
 * Linear depths are there for comparison with published plots. Border depths put the answer's
 * tokens where mistakes with blocks and ranks show: the first on the first token of a block,
 * the first on the last token of a block, two tokens before and three behind a border; and
 * on borders between blocks of different ranks where the stratum has one. */
#include "launch/needle/needle.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

typedef struct token_range {
    int64_t low, high; /* inclusive: first tokens */
} token_range;

static token_range stratum(const needle_grid *g, int32_t i)
{
    int64_t span = g->end - g->begin;
    return (token_range){g->begin + span * i / g->depths,
                         g->begin + span * (i + 1) / g->depths - g->tokens};
}

/* First tokens in `s` for which the whole answer lies in `block`. */
static token_range inside_block(const needle_grid *g, token_range s, int64_t block)
{
    int64_t low = block * g->block_tokens - g->answer;
    int64_t high = (block + 1) * g->block_tokens - g->answers - g->answer;
    return (token_range){low > s.low ? low : s.low, high < s.high ? high : s.high};
}

static int64_t random_within(uint64_t *random, token_range r)
{
    return r.low + needle_below(random, r.high - r.low + 1);
}

static int64_t place_stratified(const needle_grid *g, token_range s, int32_t *used,
                                uint64_t *random)
{
    int64_t first_block = (s.low + g->answer) / g->block_tokens;
    int64_t last_block = (s.high + g->answer) / g->block_tokens;
    int64_t best = -1, seen = 0;
    int32_t least = INT32_MAX;
    for (int64_t b = first_block; b <= last_block; b++) {
        token_range r = inside_block(g, s, b);
        int32_t n = used[b % g->period];
        if (r.low > r.high || n > least) continue;
        if (n < least) seen = 0;
        least = n;
        if (needle_below(random, ++seen) == 0) best = b; /* any of the equals, evenly */
    }
    if (best < 0) return random_within(random, s); /* the stratum lies across one border */
    used[best % g->period]++;
    return random_within(random, inside_block(g, s, best));
}

static int64_t place_border(const needle_grid *g, token_range s, int32_t depth,
                            uint64_t *random)
{
    static const int32_t before[3] = {0, 1, 2}; /* answer tokens before the border */
    int32_t shift = before[depth % 3] + g->answer;
    int64_t first_block = (s.low + shift + g->block_tokens - 1) / g->block_tokens;
    int64_t last_block = (s.high + shift) / g->block_tokens;
    int64_t best = -1, seen = 0;
    bool rank_border = false;
    for (int64_t b = first_block < 1 ? 1 : first_block; b <= last_block; b++) {
        bool differs = g->owner && g->owner(g->arg, depth, b) != g->owner(g->arg, depth, b - 1);
        if (rank_border && !differs) continue;
        if (differs && !rank_border) seen = 0;
        rank_border = differs;
        if (needle_below(random, ++seen) == 0) best = b;
    }
    return best < 0 ? random_within(random, s) : best * g->block_tokens - shift;
}

bool grid_place(const needle_grid *g, int64_t *first, char *why, size_t why_bytes)
{
    int64_t span = g->end - g->begin;
    if (g->depths < 1 || span / g->depths < 2 * g->tokens) {
        snprintf(why, why_bytes, "%d depths need a haystack of %lld tokens, this one has %lld",
                 g->depths, (long long)2 * g->tokens * g->depths, (long long)span);
        return false;
    }
    int32_t *used = calloc((size_t)g->period, sizeof *used);
    if (!used) {
        snprintf(why, why_bytes, "out of memory for %d residues", g->period);
        return false;
    }
    uint64_t random = g->seed;
    int64_t last = g->end - g->tokens;
    for (int32_t i = 0; i < g->depths; i++) {
        token_range s = stratum(g, i);
        switch (g->mode) {
        case DEPTH_STRATIFIED: first[i] = place_stratified(g, s, used, &random); break;
        case DEPTH_JITTERED: first[i] = random_within(&random, s); break;
        case DEPTH_BORDER: first[i] = place_border(g, s, i, &random); break;
        case DEPTH_LINEAR:
            first[i] = g->depths == 1 ? (g->begin + last) / 2
                                      : g->begin + (last - g->begin) * i / (g->depths - 1);
            break;
        }
    }
    free(used);
    return true;
}

double grid_percent(const needle_grid *g, int64_t first)
{
    return 100.0 * (double)(first - g->begin) / (double)(g->end - g->tokens - g->begin);
}

/* stride= of one rule, or its default; 0: the selector has no stride. */
static long rule_stride(const char *use)
{
    const char *given = strstr(use, "stride=");
    if (given) return strtol(given + 7, NULL, 10);
    char selector[32];
    size_t n = 0;
    while (*use && isspace((unsigned char)*use)) use++;
    while (use[n] && !isspace((unsigned char)use[n]) && n + 1 < sizeof selector) n++;
    memcpy(selector, use, n);
    selector[n] = 0;
    const char *name, *text;
    for (int i = 0; banyan_list_param(selector, i, &name, &text, NULL); i++)
        if (strcmp(name, "stride") == 0) return strtol(text, NULL, 10);
    return 0;
}

int32_t grid_period(const banyan_rule *rules, int32_t count, int32_t layer, int32_t otherwise)
{
    long period = 0;
    for (int32_t i = 0; i < count; i++) {
        if (layer < rules[i].first_layer) continue;
        if (rules[i].last_layer >= 0 && layer > rules[i].last_layer) continue;
        long stride = rule_stride(rules[i].use);
        if (stride > period && stride <= 4096) period = stride;
    }
    return period ? (int32_t)period : otherwise;
}
