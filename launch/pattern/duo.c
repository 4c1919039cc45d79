/* SPDX-License-Identifier: Apache-2.0 */
/* DuoAttention (arXiv 2410.10819): full_attention_heads.tsv has a line for each layer and on it
 * a number for each KV head, clipped to 0 .. 1. Heads at or above the quantile of all layers'
 * numbers at --sparsity, or at or above --threshold, read everything, the others the first and
 * the most recent tokens. (Upstream breaks ties by noise: here the lower layer and head is the
 * higher.) How many tokens says the config.json beside it: deploy_sink_size and
 * deploy_recent_size, or where these are null, sink_size and recent_size; and sparsity or
 * threshold for want of the flags.
 *
 * Upstream computes a prompt's first chunk densely for all heads, and lets rows of a later one
 * see all of the chunk, so that results depend on its length. That is not copied: here every
 * row sees its sinks and its window. */
#include "launch/pattern/pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TOKENS = 1 << 30 };

static bool duo_is_it(const pattern *p)
{
    return !p->root;
}

/* Numbers of one line, separated by tabs, to `out` (NULL: only counted); -1: why. */
static int64_t read_duo_line(pattern *p, int line, char *text, double *out)
{
    int64_t count = 0;
    for (char *next = text; next; count++) {
        char *field = next, *end;
        next = strchr(field, '\t');
        if (next) *next = 0;
        const double value = strtod(field, &end);
        end += strspn(end, " ");
        const bool good = end != field && !*end && isfinite(value);
        if (!good)
            pattern_fail(p, ":%d: value %lld is \"%.40s\"; expected a number", line,
                         (long long)count + 1, field);
        if (next) *next++ = '\t';
        if (!good) return -1;
        if (out) out[count] = value < 0 ? 0 : value > 1 ? 1 : value;
    }
    return count;
}

/* Layers and heads, and with `score` the values. */
static bool read_lines(pattern *p, int64_t *layers, int64_t *heads, double *score)
{
    int line = 0;
    *layers = 0;
    for (char *next = p->text; next && *next;) {
        char *text = next, *end = strchr(text, '\n');
        next = end ? end + 1 : NULL;
        line++;
        if (end) *end = 0;
        const size_t length = strcspn(text, "\r");
        const char kept = text[length];
        text[length] = 0;
        int64_t count = *heads;
        if (*text)
            count = read_duo_line(p, line, text, score ? score + *layers * *heads : NULL);
        const bool is_blank = !*text;
        text[length] = kept;
        if (end) *end = '\n';
        if (is_blank) continue;
        if (count < 0) return false;
        if (*layers && count != *heads)
            return pattern_fail(p, ":%d: %lld values; the lines before have %lld", line,
                                (long long)count, (long long)*heads);
        *heads = count;
        ++*layers;
    }
    return true;
}

typedef struct duo_config {
    int64_t sink, recent;
    double share, threshold;
    bool has_share;
} duo_config;

static bool read_size(pattern *p, const json_t *root, const char *deploy, const char *name,
                      int64_t low, int64_t *out)
{
    const json_t *value = json_object_get(root, deploy);
    const char *field = deploy;
    if (!value || json_is_null(value)) value = json_object_get(root, field = name);
    if (!value || json_is_null(value)) return true;
    return pattern_integer(p, value, low, MOST_TOKENS, field, out);
}

/* config.json beside the file, if there is one. */
static bool read_duo_config(pattern *p, duo_config *out)
{
    char path[sizeof p->path + 16], own[sizeof p->path];
    const char *slash = strrchr(p->path, '/');
    snprintf(path, sizeof path, "%.*sconfig.json", slash ? (int)(slash + 1 - p->path) : 0,
             p->path);
    FILE *there = fopen(path, "r");
    if (!there) return true;
    fclose(there);
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    memcpy(own, p->path, sizeof own);
    snprintf(p->path, sizeof p->path, "%.*s", (int)sizeof p->path - 1,
             path); /* faults are its */
    bool good = json_is_object(root);
    if (!root)
        pattern_fail(p, ":%d:%d: %s", error.line, error.column, error.text);
    else if (!good)
        pattern_fail(p, ": expected an object");
    good = good && read_size(p, root, "deploy_sink_size", "sink_size", 0, &out->sink);
    good = good && read_size(p, root, "deploy_recent_size", "recent_size", 1, &out->recent);
    const json_t *share = json_object_get(root, "sparsity");
    const json_t *threshold = json_object_get(root, "threshold");
    if (json_is_number(share)) {
        out->has_share = true;
        out->share = json_number_value(share);
    }
    if (json_is_number(threshold)) out->threshold = json_number_value(threshold);
    json_decref(root);
    memcpy(p->path, own, sizeof own);
    return good;
}

static bool duo_read(pattern *p)
{
    int64_t layers, heads = 0;
    char rest[PATTERN_USE];
    duo_config config = {.sink = 64, .recent = 256, .threshold = 0.5};
    if (memchr(p->text, 0, p->bytes)) return pattern_fail(p, ": a 0 byte; expected text");
    if (!read_lines(p, &layers, &heads, NULL) || !pattern_shape(p, layers, heads, true) ||
        !read_duo_config(p, &config))
        return false;
    double *score = calloc((size_t)(layers * heads), sizeof *score);
    snprintf(rest, sizeof rest, "sink_window sink=%lldt window=%lldt", (long long)config.sink,
             (long long)config.recent);
    const bool good =
        score && read_lines(p, &layers, &heads, score) &&
        pattern_rank(p, score, config.has_share ? &config.share : NULL, config.threshold, rest);
    if (!score) pattern_fail(p, ": out of memory");
    free(score);
    return good;
}

const pattern_reader pattern_duo = {"DuoAttention", duo_is_it, duo_read};
