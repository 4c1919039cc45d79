/* SPDX-License-Identifier: Apache-2.0 */
/* Retrieval heads (Wu et al., arXiv 2404.15574): {"<layer>-<head>": [score of each trial], ..}
 * of query heads. A head's score is the mean; those at or above --threshold (0.1, as
 * published), or all but the share --sparsity, read everything, the others the first and the
 * most recent tokens. */
#include "launch/pattern/pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "16-19" */
static bool read_key(const char *key, int64_t *layer, int64_t *head)
{
    char text[24];
    const char *dash = strchr(key, '-');
    if (!dash || dash - key >= (ptrdiff_t)sizeof text) return false;
    snprintf(text, sizeof text, "%.*s", (int)(dash - key), key);
    return pattern_index(text, PATTERN_MOST_LAYERS, layer) &&
           pattern_index(dash + 1, PATTERN_MOST_HEADS, head);
}

static bool retrieval_is_it(const pattern *p)
{
    int64_t layer, head;
    void *first = json_object_iter(p->root);
    return first && read_key(json_object_iter_key(first), &layer, &head);
}

static bool mean_of(pattern *p, const char *key, const json_t *scores, double *out)
{
    char shown[64];
    const size_t count = json_array_size(scores);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *score = json_array_get(scores, i);
        if (!json_is_number(score))
            return pattern_fail(p, ": \"%s\": score %zu is %s; expected a number", key, i + 1,
                                pattern_shown(score, shown, sizeof shown));
        sum += json_number_value(score);
    }
    if (!count || !isfinite(sum))
        return pattern_fail(p, ": \"%s\" is %s; expected a list of scores", key,
                            pattern_shown(scores, shown, sizeof shown));
    *out = sum / (double)count;
    return true;
}

/* As many keys as there are heads, no two of one head: "1-2" and "01-2" are. */
static bool read_scores(pattern *p, double *score)
{
    const char *key;
    json_t *scores;
    if (json_object_size(p->root) != (size_t)(p->layers * p->heads))
        return pattern_fail(p, ": %zu keys; expected one for each of %d layers of %d heads",
                            json_object_size(p->root), (int)p->layers, (int)p->heads);
    for (int32_t i = 0; i < p->layers * p->heads; i++) score[i] = NAN;
    json_object_foreach(p->root, key, scores)
    {
        int64_t layer, head;
        read_key(key, &layer, &head);
        if (!mean_of(p, key, scores, &score[layer * p->heads + head])) return false;
    }
    for (int32_t i = 0; i < p->layers * p->heads; i++)
        if (isnan(score[i]))
            return pattern_fail(p, ": no key \"%d-%d\"; expected all of %d layers of %d heads",
                                (int)(i / p->heads), (int)(i % p->heads), (int)p->layers,
                                (int)p->heads);
    return true;
}

static bool retrieval_read(pattern *p)
{
    const char *key;
    json_t *scores;
    int64_t layers = 0, heads = 0;
    json_object_foreach(p->root, key, scores)
    {
        int64_t layer, head;
        if (!read_key(key, &layer, &head))
            return pattern_fail(p, ": key \"%.40s\"; expected \"LAYER-HEAD\"", key);
        if (layer + 1 > layers) layers = layer + 1;
        if (head + 1 > heads) heads = head + 1;
    }
    if (!pattern_shape(p, layers, heads, false)) return false;
    double *score = calloc((size_t)(layers * heads), sizeof *score);
    if (!score) return pattern_fail(p, ": out of memory");
    const bool good = read_scores(p, score) &&
                      pattern_rank(p, score, NULL, 0.1, "sink_window sink=64t window=256t");
    free(score);
    return good;
}

const pattern_reader pattern_retrieval = {"Retrieval_Head", retrieval_is_it, retrieval_read};
