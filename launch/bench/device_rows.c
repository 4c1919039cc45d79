/* SPDX-License-Identifier: Apache-2.0 */
/* The rows for GPUs: decode by the bandwidth of memory, prefill by the rate of matrix products.
 *
 * Bars of decode rows are fractions of what a copy reaches; of prefill rows, of what cuBLAS
 * reaches, which attention with its softmax cannot. The engine attends causally: "full" rows
 * are the last of a sequence, which see nearly all of it. "cuts" has a block for each of the
 * 132 processors of an H100: what remains is starting kernels and combining 132 partials. */
#include "launch/bench/device.h"

#define LLAMA .layers = 1, .heads = 32, .kv_heads = 8, .dim = 128
#define WIDE .layers = 1, .heads = 64, .kv_heads = 8, .dim = 128
#define PHI .layers = 1, .heads = 32, .kv_heads = 32, .dim = 96 /* Phi-3-mini */
#define S2 .use = "s2 stride=16 local=16 per=kv"
#define K *1024LL
#define DECODE(n) .tokens = (n), .from = (n)-1

const device_bench_row device_bench_rows[] = {
    {"decode dense bf16 128k", LLAMA, .dtype = BANYAN_BF16, DECODE(128 K), .bar = 0.90},
    {"decode dense bf16 1m", LLAMA, .dtype = BANYAN_BF16, DECODE(1024 K), .bar = 0.90},
    {"decode s2 bf16 1m", LLAMA, S2, .dtype = BANYAN_BF16, DECODE(1024 K), .bar = 0.75},
    {"decode dense fp8 1m", LLAMA, .dtype = BANYAN_E4M3, DECODE(1024 K), .bar = 0.85,
     .like = "decode dense bf16 1m", .like_bar = 0.55},
    {"decode 132 cuts", .layers = 1, .heads = 4, .kv_heads = 1, .dim = 128,
     .dtype = BANYAN_BF16, DECODE(132 * 64)},
    {"prefill dense bf16 16k", WIDE, .dtype = BANYAN_BF16, .tokens = 16 K, .bar = 0.80},
    {"prefill dense bf16 32k", WIDE, .dtype = BANYAN_BF16, .tokens = 32 K, .bar = 0.80},
    {"prefill full d64 bf16 32k", .layers = 1, .heads = 32, .kv_heads = 32, .dim = 64,
     .dtype = BANYAN_BF16, .tokens = 32 K, .from = 24 K, .bar = 0.55},
    {"decode dense d96 bf16 128k", PHI, .dtype = BANYAN_BF16, DECODE(128 K), .bar = 0.90},
    {"prefill full d96 bf16 32k", PHI, .dtype = BANYAN_BF16, .tokens = 32 K, .from = 24 K,
     .bar = 0.25},
    {"prefill s2 bf16 128k", WIDE, S2, .dtype = BANYAN_BF16, .tokens = 128 K, .bar = 0.60,
     .like = "prefill dense bf16 32k", .like_bar = 0.85},
    {"prefill s2 bf16 1m", WIDE, S2, .dtype = BANYAN_BF16, .tokens = 1024 K, .bar = 0.60,
     .like = "prefill dense bf16 32k", .like_bar = 0.85},
    {"decode 16 Mi tokens fp8", .layers = 32, .heads = 32, .kv_heads = 8, .dim = 128, S2,
     .dense_layers = 2, .dtype = BANYAN_E4M3, DECODE(16384 K), .bar = 0.78},
    {.name = NULL}};
