/* SPDX-License-Identifier: Apache-2.0 */
/* Mistral 7B (Jiang et al., arXiv 2310.06825), Nemo, Small, Large: Llama's layers, whose
 * heads may be other than hidden_size / heads, and which may slide. */
#include "launch/model/family.h"

static void mistral_read(hf_config *c, description *d)
{
    description_slide(c, d, 4096);
}

const family family_mistral = {.architectures = {"MistralForCausalLM"},
                               .types = {"mistral"},
                               .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM, LLAMA_MLP},
                               .read = mistral_read};
