/* SPDX-License-Identifier: Apache-2.0 */
/* GLM-4-9B as transformers has it (arXiv 2406.12793): half of each head turns, in pairs side
 * by side. */
#include "launch/model/family.h"

const family family_glm = {.architectures = {"GlmForCausalLM"},
                           .types = {"glm"},
                           .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM,
                                     .gate = "mlp.gate_up_proj", .down = "mlp.down_proj"},
                           .gate_up = GATE_UP_JOINED,
                           .interleaved = true,
                           .biased = true,
                           .no_o_bias = true,
                           .head_dim = 128,
                           .partial = 0.5,
                           .eps = 1.5625e-7};
