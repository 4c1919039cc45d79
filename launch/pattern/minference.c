/* SPDX-License-Identifier: Apache-2.0 */
/* MInference (arXiv 2407.02490): *_best_pattern.json, a list of layers, each with the query
 * heads that were searched, "<head>": [type, vertical, slash, score]. A head of type stream_llm
 * is an a_shape of `vertical` first and `slash` last tokens, one of vertical_and_slash a
 * vertical_slash with so many columns and diagonals, at least 30 and 50, as upstream; so is one
 * that is not listed, with 1000 and 6096. block_sparse chooses from the data in the prefill
 * alone, and decodes densely: it becomes dense here, which reads all that it reads and more. */
#include "launch/pattern/pattern.h"

#include <string.h>

enum { MOST_TOKENS = 1 << 30 };

static bool minference_is_it(const pattern *p)
{
    return json_is_array(p->root);
}

/* Heads that a layer is seen to have, at least; -1: why. */
static int64_t count_heads(pattern *p, size_t layer, const json_t *heads)
{
    const char *key;
    const json_t *value;
    char shown[64];
    int64_t head, most = 0;
    if (!json_is_object(heads)) {
        pattern_fail(p, ": layer %zu is %s; expected its heads, {\"0\": [..], ..}", layer,
                     pattern_shown(heads, shown, sizeof shown));
        return -1;
    }
    json_object_foreach((json_t *)heads, key, value)
    {
        if (!pattern_index(key, PATTERN_MOST_HEADS, &head)) {
            pattern_fail(p, ": layer %zu: key \"%.40s\"; expected a query head", layer, key);
            return -1;
        }
        if (head + 1 > most) most = head + 1;
    }
    return most;
}

static bool read_head(pattern *p, int32_t layer, const char *key, const json_t *value,
                      int32_t *chosen)
{
    static const char *const types[] = {"stream_llm", "vertical_and_slash", "block_sparse"};
    char what[96], shown[64];
    int64_t head = 0, vertical, slash;
    const char *type = json_string_value(json_array_get(value, 0));
    int kind = 0;
    while (kind < 3 && (!type || strcmp(type, types[kind]))) kind++;
    pattern_index(key, PATTERN_MOST_HEADS, &head);
    if (kind == 3 || json_array_size(value) < 3)
        return pattern_fail(p,
                            ": layer %d, head %s is %s; expected [type, vertical, slash, "
                            "score] of type stream_llm, vertical_and_slash or block_sparse",
                            (int)layer, key, pattern_shown(value, shown, sizeof shown));
    snprintf(what, sizeof what, "layer %d, head %s: vertical", (int)layer, key);
    if (!pattern_integer(p, json_array_get(value, 1), 0, MOST_TOKENS, what, &vertical))
        return false;
    snprintf(what, sizeof what, "layer %d, head %s: slash", (int)layer, key);
    if (!pattern_integer(p, json_array_get(value, 2), kind == 0, MOST_TOKENS, what, &slash))
        return false;
    *chosen += kind == 2;
    if (kind == 1)
        snprintf(pattern_use(p, layer, (int32_t)head), PATTERN_USE,
                 "vertical_slash columns=%lld diagonals=%lld",
                 (long long)(vertical > 30 ? vertical : 30),
                 (long long)(slash > 50 ? slash : 50));
    if (kind == 2) strcpy(pattern_use(p, layer, (int32_t)head), "dense");
    if (kind == 0)
        snprintf(pattern_use(p, layer, (int32_t)head), PATTERN_USE,
                 "a_shape sink=%lldt window=%lldt", (long long)vertical, (long long)slash);
    return true;
}

static bool minference_read(pattern *p)
{
    int64_t heads = p->wish->heads;
    for (size_t i = 0; i < json_array_size(p->root); i++) {
        const int64_t most = count_heads(p, i, json_array_get(p->root, i));
        if (most < 0) return false;
        if (p->wish->heads && most > p->wish->heads)
            return pattern_fail(p, ": layer %zu has head %lld; the model has %d", i,
                                (long long)most - 1, (int)p->wish->heads);
        if (most > heads) heads = most;
    }
    if (!pattern_shape(p, (int64_t)json_array_size(p->root), heads, false)) return false;
    int32_t chosen = 0;
    for (int32_t layer = 0; layer < p->layers; layer++) {
        json_t *value;
        const char *key;
        for (int32_t h = 0; h < p->heads; h++)
            strcpy(pattern_use(p, layer, h), "vertical_slash");
        json_object_foreach(json_array_get(p->root, (size_t)layer), key, value)
        {
            if (!read_head(p, layer, key, value, &chosen)) return false;
        }
    }
    if (chosen)
        snprintf(
            p->note, sizeof p->note,
            "%d of %d heads are block_sparse, which choose from the data in the prefill: they "
            "are dense here",
            (int)chosen, (int)(p->layers * p->heads));
    return true;
}

const pattern_reader pattern_minference = {"MInference", minference_is_it, minference_read};
