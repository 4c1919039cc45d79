/* SPDX-License-Identifier: Apache-2.0 */
/* InternLM3: Llama with biases under other words (and, saved anew by transformers, under
 * Llama's). */
#include "launch/model/family.h"

static void internlm3_read(hf_config *c, description *d)
{
    bool rest = hf_truth(c, NULL, "bias", hf_truth(c, NULL, "mlp_bias", false));
    d->qkv_bias = hf_truth(c, NULL, "qkv_bias", d->qkv_bias);
    d->o_bias = d->mlp_bias = rest;
}

const family family_internlm3 = {
    .architectures = {"InternLM3ForCausalLM", "LlamaForCausalLM"},
    .types = {"internlm3"},
    .names = {LLAMA_TENSORS, LLAMA_QKV, LLAMA_POST_NORM, LLAMA_MLP},
    .head_dim = 128,
    .eps = 1e-5,
    .read = internlm3_read};
