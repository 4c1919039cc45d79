/* SPDX-License-Identifier: Apache-2.0 */
/* Gemma 3, text (arXiv 2503.19786): norms before and after each half of a layer, that
 * multiply by 1 + w; five of six layers slide, and turn by a theta of their own. */
#include "launch/model/family.h"

#include <math.h>

static void read_layers(hf_config *c, description *d)
{
    int32_t window = description_window_field(c, "sliding_window", 4096);
    int32_t pattern = hf_count(c, NULL, "sliding_window_pattern", 6);
    if (description_layer_types(c, d, window)) return;
    for (int32_t l = 0; l < d->shape.layers; l++) {
        bool slides = (l + 1) % pattern != 0;
        description_window(d, l, slides ? window : 0);
        d->layer[l].rope = slides;
    }
}

static void gemma3_read(hf_config *c, description *d)
{
    static const char *const caps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    if (d->ropes == 1) { /* an older file: the second theta has a name of its own */
        const rope_defaults local = {.theta = hf_number(c, NULL, "rope_local_base_freq", 1e4),
                                     .partial = 1,
                                     .head_dim = d->shape.head_dim,
                                     .trained = (double)d->shape.max_positions};
        rope_read(c, NULL, &local, &d->rope[d->ropes++]);
    }
    read_layers(c, d);
    d->embedding_scale = sqrt(d->shape.hidden);
    d->attention_scale = 1 / sqrt(hf_number(c, NULL, "query_pre_attn_scalar", 256));
    for (int i = 0; i < 2; i++)
        if (hf_get(c, NULL, caps[i]))
            hf_fail(c, caps[i], hf_get(c, NULL, caps[i]), "null (scores are not capped here)");
    if (hf_truth(c, NULL, "use_bidirectional_attention", false))
        hf_fail(c, "use_bidirectional_attention",
                hf_get(c, NULL, "use_bidirectional_attention"), "false");
}

const family family_gemma3 = {.architectures = {"Gemma3ForCausalLM"},
                              .types = {"gemma3_text"},
                              .words = {.act = "hidden_activation"},
                              .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_QK_NORMS, LLAMA_MLP,
                                        .attention_norm = "post_attention_layernorm",
                                        .post_norm = "pre_feedforward_layernorm",
                                        .mlp_norm = "post_feedforward_layernorm"},
                              .norm = NORM_RMS_ONE,
                              .head_dim = 256,
                              .theta = 1e6,
                              .tied = true,
                              .act = "gelu_pytorch_tanh",
                              .read = gemma3_read};
