/* SPDX-License-Identifier: Apache-2.0 */
/* Granite 3 (IBM): Llama with multipliers of its own on scores, embeddings, branches and
 * logits. */
#include "launch/model/family.h"

static void granite_read(hf_config *c, description *d)
{
    d->attention_scale = hf_number(c, NULL, "attention_multiplier", 1);
    d->embedding_scale = hf_number(c, NULL, "embedding_multiplier", 1);
    d->residual_scale = hf_number(c, NULL, "residual_multiplier", 1);
    d->logit_divisor = hf_number(c, NULL, "logits_scaling", 1);
}

const family family_granite = {.architectures = {"GraniteForCausalLM"},
                               .types = {"granite"},
                               .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM, LLAMA_MLP},
                               .read = granite_read};
