/* SPDX-License-Identifier: Apache-2.0 */
/* gpt-oss (OpenAI, arXiv 2508.10925): experts in every layer, a sink for each query head, every
 * other layer slides. As published the experts are mxfp4. */
#include "launch/model/family.h"

static void gpt_oss_read(hf_config *c, description *d)
{
    const int32_t window = description_window_field(c, "sliding_window", 128);
    const bool typed = description_layer_types(c, d, window);
    if (hf_number(c, NULL, "swiglu_alpha", 1.702) != 1.702)
        hf_fail(c, "swiglu_alpha", hf_get(c, NULL, "swiglu_alpha"), "1.702");
    d->act = ACT_GEGELU; /* config.json calls it silu */
    d->act_cap = hf_number(c, NULL, "swiglu_limit", 7);
    d->experts = hf_count_either(c, "num_local_experts", "num_experts", 128);
    d->top_experts = hf_count_either(c, "num_experts_per_tok", "experts_per_token", 4);
    d->expert_intermediate = d->shape.intermediate;
    d->experts_normed = true; /* the softmax of the chosen alone is the same */
    d->router_bias = d->expert_bias = true;
    for (int32_t l = 0; l < d->shape.layers; l++) {
        if (!typed) description_window(d, l, l % 2 ? 0 : window);
        d->layer[l].experts = true;
    }
}

const family family_gpt_oss = {.architectures = {"GptOssForCausalLM"},
                               .types = {"gpt_oss"},
                               .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM,
                                         .sinks = "self_attn.sinks", .router = "mlp.router",
                                         .expert_gate = "mlp.experts.gate_up_proj",
                                         .expert_down = "mlp.experts.down_proj"},
                               .experts_together = true,
                               .biased = true,
                               .head_dim = 64,
                               .theta = 150000,
                               .eps = 1e-5,
                               .read = gpt_oss_read};
