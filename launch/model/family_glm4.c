/* SPDX-License-Identifier: Apache-2.0 */
/* GLM-4-0414: GLM with a norm after each half of a layer too. */
#include "launch/model/family.h"

const family family_glm4 = {.architectures = {"Glm4ForCausalLM"},
                            .types = {"glm4"},
                            .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM,
                                      .attention_norm = "post_self_attn_layernorm",
                                      .gate = "mlp.gate_up_proj", .down = "mlp.down_proj",
                                      .mlp_norm = "post_mlp_layernorm"},
                            .gate_up = GATE_UP_JOINED,
                            .interleaved = true,
                            .no_o_bias = true,
                            .head_dim = 128,
                            .partial = 0.5,
                            .eps = 1.5625e-7};
