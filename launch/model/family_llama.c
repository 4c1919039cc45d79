/* SPDX-License-Identifier: Apache-2.0 */
/* Llama (Touvron et al., arXiv 2302.13971; Llama 3: arXiv 2407.21783). */
#include "launch/model/family.h"

const family family_llama = {.architectures = {"LlamaForCausalLM"},
                             .types = {"llama"},
                             .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM, LLAMA_MLP}};
