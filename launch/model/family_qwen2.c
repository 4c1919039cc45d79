/* SPDX-License-Identifier: Apache-2.0 */
/* Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama with biases of q, k and v. */
#include "launch/model/family.h"

const family family_qwen2 = {.architectures = {"Qwen2ForCausalLM"},
                             .types = {"qwen2"},
                             .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM, LLAMA_MLP},
                             .qkv_bias = true,
                             .no_o_bias = true,
                             .read = description_slide_above};
