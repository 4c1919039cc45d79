/* SPDX-License-Identifier: Apache-2.0 */
/* Qwen3 (arXiv 2505.09388): Llama with a norm of each head of q and k, before they turn. */
#include "launch/model/family.h"

const family family_qwen3 = {
    .architectures = {"Qwen3ForCausalLM"},
    .types = {"qwen3"},
    .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_QK_NORMS, LLAMA_POST_NORM, LLAMA_MLP},
    .head_dim = 128,
    .read = description_slide_above};
