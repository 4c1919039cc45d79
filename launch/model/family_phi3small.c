/* SPDX-License-Identifier: Apache-2.0 */
/* Phi-3-small (Abdin et al., arXiv 2404.14219, section 2), trained with the S2 pattern:
 * every other layer is sparse in blocks of 64, each head's stride shifted by its own number.
 * LayerNorm, biases everywhere, and the multipliers of muP (Yang et al., arXiv 2203.03466). */
#include "launch/model/family.h"

#include <stdio.h>

static void read_pattern(hf_config *c, description *d)
{
    int32_t stride = hf_count(c, NULL, "blocksparse_vert_stride", 8);
    int32_t local = hf_count(c, NULL, "blocksparse_num_local_blocks", 16);
    int32_t every = hf_count(c, NULL, "dense_attention_every_n_layers", 2);
    bool same = hf_truth(c, NULL, "blocksparse_homo_head_pattern", false);
    d->block_tokens = hf_count(c, NULL, "blocksparse_block_size", 64);
    for (int32_t l = 0; l < d->shape.layers; l++)
        if ((l + 1) % every != 0)
            snprintf(d->layer[l].use, LAYER_USE,
                     "s2 stride=%d local=%d offset=1 per=query step=%d", (int)stride,
                     (int)local, same ? (int)stride : 0);
}

static void phi3small_read(hf_config *c, description *d)
{
    if (hf_number(c, NULL, "gegelu_limit", 20) != 20)
        hf_fail(c, "gegelu_limit", hf_get(c, NULL, "gegelu_limit"), "20");
    if (hf_number(c, NULL, "rope_position_scale", 1) != 1)
        hf_fail(c, "rope_position_scale", hf_get(c, NULL, "rope_position_scale"), "1");
    d->qkv_bias = d->o_bias = d->mlp_bias = true;
    d->embedding_scale = hf_number(c, NULL, "mup_embedding_multiplier", 10);
    d->logit_divisor = hf_number(c, NULL, "mup_width_multiplier", 8);
    if (hf_truth(c, NULL, "mup_use_scaling", true))
        d->attention_scale = hf_number(c, NULL, "mup_attn_multiplier", 1) / d->shape.head_dim;
    description_dummies(c, d, "dummy_token_indices");
    read_pattern(c, d);
}

const family family_phi3small = {.architectures = {"Phi3SmallForCausalLM"},
                                 .types = {"phi3small"},
                                 .words = {.intermediate = "ff_intermediate_size",
                                           .eps = "layer_norm_epsilon",
                                           .theta = "rope_embedding_base"},
                                 .names = {.embedding = "model.embed_tokens",
                                           .final_norm = "model.final_layernorm",
                                           .head = "lm_head",
                                           .layer = "model.layers.%d.",
                                           .input_norm = "input_layernorm",
                                           .q = "self_attn.query_key_value",
                                           .o = "self_attn.dense",
                                           LLAMA_POST_NORM,
                                           .gate = "mlp.up_proj",
                                           .down = "mlp.down_proj"},
                                 .qkv = QKV_GROUPED,
                                 .gate_up = GATE_UP_MIXED,
                                 .norm = NORM_LAYER,
                                 .theta = 1e6,
                                 .eps = 1e-5,
                                 .tied = true,
                                 .act = "gegelu",
                                 .read = phi3small_read};
