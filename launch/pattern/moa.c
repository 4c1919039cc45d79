/* SPDX-License-Identifier: Apache-2.0 */
/* MoA (arXiv 2406.14909): moa_alpha_beta.json, {"alphas": [[of each head] of each layer],
 * "betas": ..}, of query heads: spans of alpha + beta N tokens. */
#include "launch/pattern/pattern.h"

#include <stdlib.h>

static bool moa_is_it(const pattern *p)
{
    return json_object_get(p->root, "alphas") || json_object_get(p->root, "betas");
}

/* The list of a layer, of as many heads as p has. */
static const json_t *list_of(pattern *p, const char *name, int32_t layer, size_t heads)
{
    const json_t *list = json_array_get(json_object_get(p->root, name), (size_t)layer);
    char shown[64];
    if (!json_is_array(list)) {
        pattern_fail(p, ": %s[%d] is %s; expected a list of numbers", name, (int)layer,
                     pattern_shown(list, shown, sizeof shown));
        return NULL;
    }
    if (json_array_size(list) != heads) {
        pattern_fail(p, ": %s[%d] has %zu heads; expected %zu, as alphas[0]", name, (int)layer,
                     json_array_size(list), heads);
        return NULL;
    }
    return list;
}

/* As few digits as read back as the same number. */
static const char *shortest_digits(double x, char *text, size_t bytes)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, bytes, "%.*g", digits, x);
        const double back = strtod(text, NULL);
        if (!(back < x) && !(back > x)) break;
    }
    return text;
}

static bool read_moa_layer(pattern *p, int32_t layer)
{
    const size_t heads = (size_t)p->heads;
    const json_t *alphas = list_of(p, "alphas", layer, heads);
    const json_t *betas = alphas ? list_of(p, "betas", layer, heads) : NULL;
    char what[64], shown[64], beta_text[64];
    for (size_t h = 0; betas && h < heads; h++) {
        int64_t alpha;
        const json_t *beta = json_array_get(betas, h);
        const double share = json_number_value(beta);
        snprintf(what, sizeof what, "alphas[%d][%zu]", (int)layer, h);
        if (!pattern_integer(p, json_array_get(alphas, h), -(INT64_C(1) << 40),
                             INT64_C(1) << 40, what, &alpha))
            return false;
        if (!json_is_number(beta) || !(share >= 0 && share <= 1))
            return pattern_fail(p, ": betas[%d][%zu] is %s; expected a number, 0..1",
                                (int)layer, h, pattern_shown(beta, shown, sizeof shown));
        snprintf(pattern_use(p, layer, (int32_t)h), PATTERN_USE, "span alpha=%lld beta=%s",
                 (long long)alpha, shortest_digits(share, beta_text, sizeof beta_text));
    }
    return betas != NULL;
}

static bool moa_read(pattern *p)
{
    const json_t *alphas = json_object_get(p->root, "alphas");
    const json_t *betas = json_object_get(p->root, "betas");
    char shown[64];
    if (!json_is_array(alphas) || !json_is_array(betas))
        return pattern_fail(
            p, ": %s is %s; expected a list of layers",
            json_is_array(alphas) ? "betas" : "alphas",
            pattern_shown(json_is_array(alphas) ? betas : alphas, shown, sizeof shown));
    if (json_array_size(alphas) != json_array_size(betas))
        return pattern_fail(p, ": alphas has %zu layers, betas %zu; expected as many",
                            json_array_size(alphas), json_array_size(betas));
    if (!pattern_shape(p, (int64_t)json_array_size(alphas),
                       (int64_t)json_array_size(json_array_get(alphas, 0)), false))
        return false;
    for (int32_t layer = 0; layer < p->layers; layer++)
        if (!read_moa_layer(p, layer)) return false;
    return true;
}

const pattern_reader pattern_moa = {"MoA", moa_is_it, moa_read};
