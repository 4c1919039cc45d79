/* SPDX-License-Identifier: Apache-2.0 */
/* What the readers of all kinds of pattern files share: words for what is wrong, numbers,
 * shapes, and heads ranked by a score. */
#include "launch/pattern/pattern.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool pattern_fail(pattern *p, const char *format, ...)
{
    va_list args;
    const int used = snprintf(p->why, p->why_bytes, "%s", p->path);
    if (used >= 0 && (size_t)used < p->why_bytes) {
        va_start(args, format);
        vsnprintf(p->why + used, p->why_bytes - (size_t)used, format, args);
        va_end(args);
    }
    return false;
}

bool pattern_shape(pattern *p, int64_t layers, int64_t heads, bool per_kv_head)
{
    const char *kind = per_kv_head ? "KV" : "query";
    const pattern_wish *w = p->wish;
    const int32_t known = per_kv_head ? w->kv_heads : w->heads;
    if (layers < 1 || layers > PATTERN_MOST_LAYERS || heads < 1 || heads > PATTERN_MOST_HEADS ||
        layers * heads > PATTERN_MOST)
        return pattern_fail(p,
                            ": %lld layers of %lld %s heads; expected 1..%d of 1..%d, and %d "
                            "in all",
                            (long long)layers, (long long)heads, kind, PATTERN_MOST_LAYERS,
                            PATTERN_MOST_HEADS, PATTERN_MOST);
    if ((w->layers && w->layers != layers) || (known && known != heads))
        return pattern_fail(p, ": %lld layers of %lld %s heads; the model has %d of %d",
                            (long long)layers, (long long)heads, kind,
                            (int)(w->layers ? w->layers : layers),
                            (int)(known ? known : heads));
    p->layers = (int32_t)layers;
    p->heads = (int32_t)heads;
    p->per_kv_head = per_kv_head;
    p->use = calloc((size_t)(layers * heads), sizeof *p->use);
    return p->use || pattern_fail(p, ": out of memory");
}

char *pattern_use(pattern *p, int32_t layer, int32_t head)
{
    return p->use[(int64_t)layer * p->heads + head];
}

bool pattern_integer(pattern *p, const json_t *value, int64_t low, int64_t high,
                     const char *what, int64_t *out)
{
    char shown[64];
    const double real = json_number_value(value);
    if (json_is_integer(value))
        *out = json_integer_value(value);
    else if (json_is_real(value) && fabs(real) < 0x1p53 && real == trunc(real))
        *out = (int64_t)real;
    else
        return pattern_fail(p, ": %s is %s; expected a whole number", what,
                            pattern_shown(value, shown, sizeof shown));
    if (*out >= low && *out <= high) return true;
    return pattern_fail(p, ": %s is %lld; expected %lld..%lld", what, (long long)*out,
                        (long long)low, (long long)high);
}

bool pattern_index(const char *text, int64_t end, int64_t *out)
{
    return *text != '-' && *text && strlen(text) < 10 &&
           strspn(text, "0123456789") == strlen(text) &&
           number_read(text, 0, (uint64_t)end - 1, out);
}

const char *pattern_shown(const json_t *value, char *text, size_t bytes)
{
    char *all = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    snprintf(text, bytes, "%s", all ? all : "not there");
    if (all && strlen(all) >= bytes) strcpy(text + bytes - 4, "...");
    free(all);
    return text;
}

typedef struct ranked_score {
    double score;
    int32_t index;
} ranked_score;

/* Highest first; of equal ones the lower layer, then the lower head. */
static int compare_ranked(const void *a, const void *b)
{
    const ranked_score *x = a, *y = b;
    if (x->score > y->score) return -1;
    if (x->score < y->score) return 1;
    return x->index - y->index;
}

static bool read_share(pattern *p, const char *flag_name, const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end != text && !*end && isfinite(*out)) return true;
    snprintf(p->why, p->why_bytes, "--%s \"%s\": expected a number", flag_name, text);
    return false;
}

/* The heads whose score is not below the quantile at `share` of all layers' scores,
 * interpolated linearly, as numpy's: of count, all but the ceil(share (count - 1)) lowest. */
static int32_t dense_of_share(double share, int32_t count)
{
    if (share <= 0) return count;
    if (share >= 1) return 0;
    return count - (int32_t)ceil(share * (count - 1));
}

bool pattern_rank(pattern *p, const double *score, const double *share, double threshold,
                  const char *rest)
{
    const pattern_wish *w = p->wish;
    const int32_t count = p->layers * p->heads;
    double sparsity = share ? *share : 0;
    if (w->sparsity && w->threshold) {
        snprintf(p->why, p->why_bytes, "--sparsity and --threshold: give one or the other");
        return false;
    }
    if (w->sparsity && !read_share(p, "sparsity", w->sparsity, &sparsity)) return false;
    if (w->threshold && !read_share(p, "threshold", w->threshold, &threshold)) return false;
    ranked_score *order = calloc((size_t)count, sizeof *order);
    if (!order) return pattern_fail(p, ": out of memory");
    for (int32_t i = 0; i < count; i++) order[i] = (ranked_score){score[i], i};
    qsort(order, (size_t)count, sizeof *order, compare_ranked);
    int32_t dense = 0;
    if (w->sparsity || (share && !w->threshold))
        dense = dense_of_share(sparsity, count);
    else
        while (dense < count && order[dense].score >= threshold) dense++;
    for (int32_t i = 0; i < count; i++)
        snprintf(p->use[order[i].index], PATTERN_USE, "%s",
                 i < dense ? "dense"
                 : w->rest ? w->rest
                           : rest);
    free(order);
    return true;
}
