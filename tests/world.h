/* SPDX-License-Identifier: Apache-2.0 */
/* world.h - what most tests of banyan.h begin with: a comm, and a spec of one layer. */
#ifndef BANYAN_TEST_WORLD_H
#define BANYAN_TEST_WORLD_H

#include "banyan.h"
#include "tests/test.h"

/* A comm of all ranks (NULL) or of another transport, "self"; the program ends where there is
 * none. */
static inline banyan_comm *test_comm(const char *transport)
{
    banyan_comm *comm = NULL;
    if (banyan_comm_create(transport, NULL, &comm) == BANYAN_OK) return comm;
    fprintf(stderr, "%s\n", banyan_error_message());
    exit(1);
}

/* One layer in fp32, which takes up to all of its tokens in a call; rule: NULL for dense
 * heads. */
static inline banyan_spec test_spec(int32_t heads, int32_t kv_heads, int32_t dim, int32_t block,
                                    int64_t tokens, const banyan_rule *rule)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = heads;
    spec.kv_heads = kv_heads;
    spec.key_dim = dim;
    spec.block_tokens = block;
    spec.max_tokens = tokens;
    spec.max_rows = (int32_t)tokens;
    spec.cache_dtype = BANYAN_F32;
    spec.rules = rule;
    spec.rule_count = rule ? 1 : 0;
    return spec;
}

#endif
