/* SPDX-License-Identifier: Apache-2.0 */
/* GLM-4-9B under its own names (glm-4-9b-chat-1m as published; ChatGLM2 and 3 too). */
#include "launch/model/family.h"

static void chatglm_read(hf_config *c, description *d)
{
    static const char *const expected[][2] = {{"rmsnorm", "true"},
                                              {"post_layer_norm", "true"},
                                              {"multi_query_attention", "true"},
                                              {"original_rope", "true"}};
    for (int i = 0; i < 4; i++)
        if (!hf_truth(c, NULL, expected[i][0], true))
            hf_fail(c, expected[i][0], hf_get(c, NULL, expected[i][0]), expected[i][1]);
    if (hf_truth(c, NULL, "apply_residual_connection_post_layernorm", false))
        hf_fail(c, "apply_residual_connection_post_layernorm",
                hf_get(c, NULL, "apply_residual_connection_post_layernorm"), "false");
    d->rope[0].theta *= hf_number(c, NULL, "rope_ratio", 1);
    d->shape.rope_theta = d->rope[0].theta;
    d->o_bias = d->mlp_bias;
}

const family family_chatglm = {
    .architectures = {"ChatGLMModel", "ChatGLMForConditionalGeneration"},
    .types = {"chatglm"},
    .words = {.layers = "num_layers",
              .kv_heads = "multi_query_group_num",
              .head_dim = "kv_channels",
              .intermediate = "ffn_hidden_size",
              .vocab = "padded_vocab_size",
              .positions = "seq_length",
              .eps = "layernorm_epsilon",
              .attention_bias = "add_qkv_bias",
              .mlp_bias = "add_bias_linear"},
    .names = {.embedding = "transformer.embedding.word_embeddings",
              .final_norm = "transformer.encoder.final_layernorm",
              .head = "transformer.output_layer",
              .layer = "transformer.encoder.layers.%d.",
              .input_norm = "input_layernorm",
              .q = "self_attention.query_key_value",
              .o = "self_attention.dense",
              LLAMA_POST_NORM,
              .gate = "mlp.dense_h_to_4h",
              .down = "mlp.dense_4h_to_h"},
    .qkv = QKV_JOINED,
    .gate_up = GATE_UP_JOINED,
    .interleaved = true,
    .partial = 0.5,
    .eps = 1e-5,
    .read = chatglm_read};
