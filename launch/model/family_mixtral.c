/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtral (Jiang et al., arXiv 2401.04088): Mistral with experts, the shares of the chosen
 * ones summing to 1. */
#include "launch/model/family.h"

static void mixtral_read(hf_config *c, description *d)
{
    description_slide(c, d, 0);
    d->experts = hf_count(c, NULL, "num_local_experts", 8);
    d->top_experts = hf_count(c, NULL, "num_experts_per_tok", 2);
    d->expert_intermediate = d->shape.intermediate;
    d->experts_normed = true;
    for (int32_t l = 0; l < d->shape.layers; l++) d->layer[l].experts = true;
}

const family family_mixtral = {.architectures = {"MixtralForCausalLM"},
                               .types = {"mixtral"},
                               .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM,
                                         .router = "block_sparse_moe.gate",
                                         .expert_gate = "block_sparse_moe.experts.%d.w1",
                                         .expert_up = "block_sparse_moe.experts.%d.w3",
                                         .expert_down = "block_sparse_moe.experts.%d.w2"},
                               .theta = 1e6,
                               .eps = 1e-5,
                               .read = mixtral_read};
