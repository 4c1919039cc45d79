/* SPDX-License-Identifier: Apache-2.0 */
/* What several families say of a model in the same words: windows of layers, and tokens that
 * are none. */
#include "launch/model/family.h"

#include <stdio.h>
#include <stdlib.h>

void description_window(description *d, int32_t layer, int32_t window)
{
    d->layer[layer].use[0] = 0;
    if (window > 0)
        snprintf(d->layer[layer].use, LAYER_USE, "sink_window sink=0 window=%dt", (int)window);
}

int32_t description_window_field(hf_config *c, const char *field, int32_t absent)
{
    return hf_count(c, NULL, field, hf_has(c, NULL, field) ? 0 : absent);
}

bool description_layer_types(hf_config *c, description *d, int32_t window)
{
    static const char *const words[] = {"full_attention", "sliding_attention", NULL};
    const json_t *list = hf_get(c, NULL, "layer_types");
    if (!list) return false;
    if (json_array_size(list) != (size_t)d->shape.layers)
        hf_fail(c, "layer_types", list, "a list of as many words as there are layers");
    for (int32_t l = 0; l < d->shape.layers && !c->failed; l++) {
        const char *type = json_string_value(json_array_get(list, (size_t)l));
        int slides = hf_choice(c, "layer_types", type ? type : "", words);
        description_window(d, l, slides ? window : 0);
        d->layer[l].rope = slides && d->ropes > 1;
    }
    return true;
}

void description_slide(hf_config *c, description *d, int32_t absent)
{
    int32_t window = description_window_field(c, "sliding_window", absent);
    bool typed = description_layer_types(c, d, window);
    for (int32_t l = 0; !typed && l < d->shape.layers; l++) description_window(d, l, window);
}

void description_slide_above(hf_config *c, description *d)
{
    static const char field[] = "max_window_layers";
    bool slides = hf_truth(c, NULL, "use_sliding_window", false);
    int32_t window = slides ? description_window_field(c, "sliding_window", 4096) : 0;
    const json_t *from = hf_get(c, NULL, field);
    int32_t first = json_is_integer(from) ? (int32_t)json_integer_value(from) : 28;
    bool typed = description_layer_types(c, d, window);
    if (from && (!json_is_integer(from) || first < 0)) hf_fail(c, field, from, "0 or more");
    for (int32_t l = 0; !typed && l < d->shape.layers; l++)
        description_window(d, l, l >= first ? window : 0);
}

void description_dummies(hf_config *c, description *d, const char *field)
{
    const json_t *list = hf_get(c, NULL, field);
    size_t count = json_array_size(list);
    d->dummy = calloc(count + 1, sizeof *d->dummy);
    if (!d->dummy) hf_out_of_memory(c);
    for (size_t i = 0; d->dummy && i < count; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t n = json_integer_value(id);
        if (!json_is_integer(id) || n < 0 || n >= d->shape.vocab)
            hf_fail(c, field, id, "an id of the vocabulary");
        d->dummy[d->dummies++] = (int32_t)n;
    }
}

int64_t description_inner(const description *d)
{
    const int64_t dense = d->shape.intermediate;
    const int64_t experts = (int64_t)d->top_experts * d->expert_intermediate;
    return dense > experts ? dense : experts;
}
