/* SPDX-License-Identifier: Apache-2.0 */
/* Phi-3 mini and medium, Phi-3.5 mini, Phi-4 and Phi-4-mini (Abdin et al., arXiv
 * 2404.14219): Llama with joined tensors, and longrope, which some of their files call su or
 * yarn. */
#include "launch/model/family.h"

static void phi3_read(hf_config *c, description *d)
{
    description_slide(c, d, 0);
}

const family family_phi3 = {.architectures = {"Phi3ForCausalLM"},
                            .types = {"phi3"},
                            .names = {LLAMA_TENSORS, .q = "self_attn.qkv_proj", LLAMA_POST_NORM,
                                      .gate = "mlp.gate_up_proj", .down = "mlp.down_proj"},
                            .qkv = QKV_JOINED,
                            .gate_up = GATE_UP_JOINED,
                            .eps = 1e-5,
                            .read = phi3_read};
