/* SPDX-License-Identifier: Apache-2.0 */
/* Qwen3 with experts (arXiv 2505.09388): 30B-A3B, 235B-A22B. */
#include "launch/model/family.h"

static bool is_listed(const json_t *list, int32_t layer)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_array_get(list, i)) == layer) return true;
    return false;
}

static void qwen3_moe_read(hf_config *c, description *d)
{
    const json_t *dense = hf_get(c, NULL, "mlp_only_layers");
    int32_t step = hf_count(c, NULL, "decoder_sparse_step", 1);
    description_slide_above(c, d);
    d->experts = hf_count_either(c, "num_experts", "num_local_experts", 128);
    d->top_experts = hf_count(c, NULL, "num_experts_per_tok", 8);
    d->expert_intermediate = hf_count(c, NULL, "moe_intermediate_size", 768);
    d->experts_normed = hf_truth(c, NULL, "norm_topk_prob", false);
    for (int32_t l = 0; l < d->shape.layers; l++)
        d->layer[l].experts = (l + 1) % step == 0 && !is_listed(dense, l);
}

const family family_qwen3_moe = {
    .architectures = {"Qwen3MoeForCausalLM"},
    .types = {"qwen3_moe"},
    .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_QK_NORMS, LLAMA_POST_NORM, LLAMA_MLP,
              .router = "mlp.gate", .expert_gate = "mlp.experts.%d.gate_proj",
              .expert_up = "mlp.experts.%d.up_proj", .expert_down = "mlp.experts.%d.down_proj"},
    .read = qwen3_moe_read};
