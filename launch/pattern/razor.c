/* SPDX-License-Identifier: Apache-2.0 */
/* RazorAttention (arXiv 2407.15891): lists of retrieval heads, which read everything,
 *
 *     {"prefix_matching": {"<layer>": [KV heads], ..}, "copying": {..}}
 *
 * the induction heads and the echo heads; all others keep their sinks, the most recent tokens
 * and one compensation token. How many layers and heads there are the file does not say. */
#include "launch/pattern/pattern.h"

#include <string.h>

static const char *const lists[] = {"prefix_matching", "copying"};

static bool razor_is_it(const pattern *p)
{
    return json_object_get(p->root, lists[0]) || json_object_get(p->root, lists[1]);
}

static bool read_razor_heads(pattern *p, const char *list, const char *key, const json_t *heads)
{
    int64_t layer, head;
    char what[160], shown[64];
    if (!pattern_index(key, p->layers, &layer))
        return pattern_fail(p, ": %s: key \"%.40s\"; expected a layer, 0..%d", list, key,
                            (int)p->layers - 1);
    if (!json_is_array(heads))
        return pattern_fail(p, ": %s, layer %s is %s; expected a list of KV heads", list, key,
                            pattern_shown(heads, shown, sizeof shown));
    for (size_t i = 0; i < json_array_size(heads); i++) {
        snprintf(what, sizeof what, "%s, layer %s, value %zu", list, key, i + 1);
        if (!pattern_integer(p, json_array_get(heads, i), 0, p->heads - 1, what, &head))
            return false;
        strcpy(pattern_use(p, (int32_t)layer, (int32_t)head), "dense");
    }
    return true;
}

static bool read_razor_list(pattern *p, const char *list)
{
    json_t *layers = json_object_get(p->root, list), *heads;
    const char *key;
    char shown[64];
    if (!layers) return true;
    if (!json_is_object(layers))
        return pattern_fail(p, ": %s is %s; expected layers with their lists of heads", list,
                            pattern_shown(layers, shown, sizeof shown));
    json_object_foreach(layers, key, heads)
    {
        if (!read_razor_heads(p, list, key, heads)) return false;
    }
    return true;
}

static bool razor_read(pattern *p)
{
    const pattern_wish *w = p->wish;
    const int32_t kv_heads = w->kv_heads ? w->kv_heads : w->heads;
    if (!w->layers || !kv_heads)
        return pattern_fail(p, ": names heads, and not how many there are; expected --layers "
                               "and --kv-heads");
    if (!pattern_shape(p, w->layers, kv_heads, true)) return false;
    for (int32_t layer = 0; layer < p->layers; layer++)
        for (int32_t head = 0; head < p->heads; head++)
            snprintf(pattern_use(p, layer, head), PATTERN_USE, "%s",
                     w->rest ? w->rest : "razor");
    return read_razor_list(p, lists[0]) && read_razor_list(p, lists[1]);
}

const pattern_reader pattern_razor = {"RazorAttention", razor_is_it, razor_read};
