/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of the table: attention of Llama-3-8B's shape (32 query heads, 8 KV heads, 128 wide)
 * unless the name says otherwise.
 *
 * One decoded row does 4 operations for each byte of a bf16 cache (group 4), 8 rows 32 of them:
 * which ceiling binds those is a matter of the machine. "prefill s2" reads so little that its
 * bar is the dense row's rate: what a selector saves in work it should save in time.
 *
 * "latent" is DeepSeek's attention with 128 query heads on one KV head, whose values are a part
 * of its keys: 242 operations for each byte of a bf16 cache, bound by arithmetic even when one
 * row is decoded. */
#include "launch/bench/bench.h"

#define LLAMA .heads = 32, .kv_heads = 8, .key_dim = 128, .value_dim = 128
#define LATENT                                                                                 \
    .heads = 128, .kv_heads = 1, .key_dim = 576, .value_dim = 512, .value_in_key = true
#define S2 .use = "s2 stride=16 local=16 per=kv"
#define K *1024

const bench_row bench_rows[] = {
    {"decode dense bf16", LLAMA, .dtype = BANYAN_BF16, .tokens = 128 K, .rows = 1,
     .each_thread = true, .bar = 0.85},
    {"decode dense fp16", LLAMA, .dtype = BANYAN_F16, .tokens = 128 K, .rows = 1,
     .each_thread = true, .bar = 0.85},
    {"decode dense fp32", LLAMA, .dtype = BANYAN_F32, .tokens = 128 K, .rows = 1,
     .each_thread = true, .bar = 0.85},
    {"decode s2 bf16", LLAMA, S2, .dtype = BANYAN_BF16, .tokens = 1024 K, .rows = 1,
     .each_thread = true, .bar = 0.75},
    {"decode 8 rows bf16", LLAMA, .dtype = BANYAN_BF16, .tokens = 128 K, .rows = 8,
     .each_thread = true, .bar = 0.60},
    {"decode 64 sequences bf16", LLAMA, .dtype = BANYAN_BF16, .tokens = 2000, .rows = 1,
     .sequences = 64, .layers = 2, .bar = 0.85},
    {"prefill dense bf16", LLAMA, .dtype = BANYAN_BF16, .tokens = 16 K, .bar = 0.60},
    {"prefill dense fp32", LLAMA, .dtype = BANYAN_F32, .tokens = 16 K, .every = 2, .bar = 0.70},
    {"prefill dense fp32 avx2", LLAMA, .dtype = BANYAN_F32, .kernel = "avx2", .tokens = 16 K,
     .every = 2, .bar = 0.75},
    {"prefill s2 bf16", LLAMA, S2, .dtype = BANYAN_BF16, .tokens = 128 K, .every = 8,
     .bar = 0.52, .like = "prefill dense bf16", .like_bar = 1.15},
    {"prefill mha d64 bf16", .heads = 32, .kv_heads = 32, .key_dim = 64, .value_dim = 64,
     .dtype = BANYAN_BF16, .tokens = 16 K, .bar = 0.50},
    {"prefill 192/128 bf16", .heads = 16, .kv_heads = 16, .key_dim = 192, .value_dim = 128,
     .dtype = BANYAN_BF16, .tokens = 16 K, .bar = 0.50},
    {"decode latent bf16", LATENT, .dtype = BANYAN_BF16, .tokens = 32 K, .rows = 1,
     .bar = 0.70},
    {"decode latent bf16 avx2", LATENT, .dtype = BANYAN_BF16, .kernel = "avx2", .tokens = 32 K,
     .rows = 1, .bar = 0.70, .like = "prefill dense fp32 avx2", .like_bar = 1.0},
    {.name = NULL}};
