/* SPDX-License-Identifier: Apache-2.0 */
/* SmolLM3: Llama, every fourth layer of which does not turn (NoPE; arXiv 2501.18795). */
#include "launch/model/family.h"

static void smollm3_read(hf_config *c, description *d)
{
    const json_t *list = hf_get(c, NULL, "no_rope_layers");
    int32_t interval = hf_count(c, NULL, "no_rope_layer_interval", 4);
    bool slides = hf_truth(c, NULL, "use_sliding_window", false);
    int32_t window = slides ? description_window_field(c, "sliding_window", 0) : 0;
    bool typed = description_layer_types(c, d, window);
    if (list && json_array_size(list) != (size_t)d->shape.layers)
        hf_fail(c, "no_rope_layers", list, "a list of as many numbers as there are layers");
    for (int32_t l = 0; l < d->shape.layers; l++) {
        bool turns = list ? json_integer_value(json_array_get(list, (size_t)l)) != 0
                          : (l + 1) % interval != 0;
        if (!typed) description_window(d, l, turns ? 0 : window);
        if (!turns) d->layer[l].rope = -1;
    }
}

const family family_smollm3 = {.architectures = {"SmolLM3ForCausalLM"},
                               .types = {"smollm3"},
                               .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM, LLAMA_MLP},
                               .theta = 2e6,
                               .tied = true,
                               .read = smollm3_read};
