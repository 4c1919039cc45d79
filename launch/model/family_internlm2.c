/* SPDX-License-Identifier: Apache-2.0 */
/* InternLM2 and 2.5 (Cai et al., arXiv 2403.17297): Llama under other names, q, k and v
 * joined by KV head. */
#include "launch/model/family.h"

const family family_internlm2 = {.architectures = {"InternLM2ForCausalLM"},
                                 .types = {"internlm2"},
                                 .words = {.attention_bias = "bias"},
                                 .names = {.embedding = "model.tok_embeddings",
                                           .final_norm = "model.norm",
                                           .head = "output",
                                           .layer = "model.layers.%d.",
                                           .input_norm = "attention_norm",
                                           .q = "attention.wqkv",
                                           .o = "attention.wo",
                                           .post_norm = "ffn_norm",
                                           .gate = "feed_forward.w1",
                                           .up = "feed_forward.w3",
                                           .down = "feed_forward.w2"},
                                 .qkv = QKV_GROUPED};
