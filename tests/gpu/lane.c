/* SPDX-License-Identifier: Apache-2.0 */
/* lane - banyan_attend on one GPU as a handful of flat functions, for bench.py's ctypes: one
 * cache and its plan, and sequences that are all as long, of which a call has the same rows of
 * each. Arrays are device pointers, work is ordered on the given stream. Functions that can
 * fail return 0 or a banyan_status; lane_error then has the words. */
#include "banyan.h"

#include <stdlib.h>

enum { SEQUENCES = 64 }; /* at most */

typedef struct lane {
    banyan_comm *comm;
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_rows part[SEQUENCES];
    int sequences;
} lane;

lane *lane_open(int heads, int kv_heads, int dim, int value_dim, int block, int sequences,
                int layers, int dense_layers, const char *use, long long tokens, int rows,
                int rollback, const char *in_dtype, const char *cache_dtype, const char *kernel,
                void *stream);
int lane_attend(lane *l, int layer, long long at, int rows, const void *q, const void *k,
                const void *v, void *out, float *lse);
long long lane_pairs(const lane *l);
long long lane_bytes(const lane *l);
const char *lane_error(void);
void lane_close(lane *l);

void lane_close(lane *l)
{
    if (!l) return;
    banyan_cache_destroy(l->cache);
    banyan_plan_destroy(l->plan);
    banyan_comm_destroy(l->comm);
    free(l);
}

static banyan_dtype dtype_of(const char *name)
{
    banyan_dtype t = BANYAN_F32;
    for (int i = 0; i < 4; i++) {
        const char *a = banyan_dtype_name((banyan_dtype)i), *b = name;
        while (*a && *a == *b) a++, b++;
        if (*a == *b) t = (banyan_dtype)i;
    }
    return t;
}

/* The first dense_layers layers are dense, the others as `use` says; q, k, v and out of
 * in_dtype. A sequence may go back by `rollback` tokens. value_dim: where it is not dim, values
 * are in the keys. tokens, rows: of each sequence. NULL: failed. */
lane *lane_open(int heads, int kv_heads, int dim, int value_dim, int block, int sequences,
                int layers, int dense_layers, const char *use, long long tokens, int rows,
                int rollback, const char *in_dtype, const char *cache_dtype, const char *kernel,
                void *stream)
{
    lane *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    const banyan_layer_shape shape = {0, -1, kv_heads, dim, value_dim, 0, value_dim != dim};
    const banyan_rule rule[2] = {{0, -1, 0, -1, use}, {0, dense_layers - 1, 0, -1, "dense"}};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = layers;
    spec.heads = heads;
    spec.kv_heads = kv_heads;
    spec.key_dim = dim;
    spec.value_dim = value_dim;
    spec.shapes = &shape;
    spec.shape_count = 1;
    spec.block_tokens = block;
    spec.sequences = sequences;
    spec.pool_tokens = sequences * (tokens + block); /* of each, whole blocks */
    spec.rules = rule;
    spec.rule_count = dense_layers > 0 ? 2 : 1;
    spec.max_tokens = tokens;
    spec.max_rows = rows * sequences;
    spec.rollback_tokens = rollback;
    spec.cache_dtype = dtype_of(cache_dtype);
    spec.in_dtype = spec.out_dtype = dtype_of(in_dtype);
    spec.device = "cuda";
    spec.kernel = kernel && *kernel ? kernel : NULL;
    l->sequences = sequences < SEQUENCES ? sequences : SEQUENCES;
    int failed = banyan_comm_create("self", NULL, &l->comm) ||
                 banyan_plan_create(&spec, l->comm, &l->plan) ||
                 banyan_cache_create(l->plan, stream, &l->cache);
    for (int i = 0; i < l->sequences && !failed; i++)
        failed = banyan_sequence_create(l->cache, (uint64_t)i, &l->part[i].sequence);
    if (!failed) return l;
    lane_close(l);
    return NULL;
}

int lane_attend(lane *l, int layer, long long at, int rows, const void *q, const void *k,
                const void *v, void *out, float *lse)
{
    for (int i = 0; i < l->sequences; i++) {
        l->part[i].at = at;
        l->part[i].rows = rows;
    }
    return banyan_attend(l->cache, layer, l->part, l->sequences, q, k, v, out, lse);
}

/* (query row, block) pairs computed since it was opened. */
long long lane_pairs(const lane *l)
{
    banyan_stats stats;
    banyan_cache_stats(l->cache, &stats);
    return stats.pairs;
}

/* Bytes that a decoded row of each sequence reads at the present length: records of the blocks
 * that are read. */
long long lane_bytes(const lane *l)
{
    banyan_stats stats;
    banyan_share share;
    banyan_cache_stats(l->cache, &stats);
    if (stats.blocks == 0 ||
        banyan_plan_share(l->plan, 0, l->sequences, stats.tokens / l->sequences, &share))
        return 0;
    return share.read_blocks * (stats.bytes / stats.blocks);
}

const char *lane_error(void)
{
    return banyan_error_message();
}
