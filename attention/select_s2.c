/* SPDX-License-Identifier: Apache-2.0 */
/* S2-Attention (arXiv 2407.17678): a local window, and beyond it every stride-th block, shifted
 * from head to head so that the heads together see everything. With own block i and pattern
 * head h,
 *
 *     block j is read  <=>  j <= i and (i - j < local or (j + h step + offset) mod stride == 0)
 *
 *     stride 4, local 2, step 1, offset 0       j: 0 1 2 3 4 5 6 7 8 9 own
 *     head 0                                       # . . . # . . . # #
 *     head 1                                       . . . # . . . # # #
 *     head 2                                       . . # . . . # . # #
 *
 * j is the absolute block number, so a block that has left the window without being a head's
 * remote block is never read again: it can be evicted. Two conventions are in use:
 *
 *     per=kv    offset=0   DKernel with num_kv_heads: h counts KV heads, whose group shares it
 *     per=query offset=1   Phi-3-small's published code and vLLM: h counts query heads
 *
 * In both, step defaults to max(1, stride / query heads), and `dense` makes the last KV heads
 * dense. A step that is a multiple of stride gives all heads one pattern. Where local is in
 * tokens, the row at t sees s > t - local, and only the blocks that this cuts are edges. */
#include "attention/attention.h"

enum { STRIDE, LOCAL, STEP, OFFSET, PER, DENSE };
enum { PER_KV, PER_QUERY };

static const banyan_param params[] = {
    {.name = "stride",
     .default_text = "16",
     .min = 1,
     .max = BANYAN_MAX_PERIOD,
     .doc = "beyond the window, one block in so many; 1 is dense"},
    {.name = "local",
     .default_text = "16",
     .in_blocks = 1,
     .min = 0,
     .max = (int64_t)1 << 40,
     .doc = "the most recent blocks, the row's own included (tokens: 1024t)"},
    {.name = "step",
     .default_text = "0",
     .min = 0,
     .max = BANYAN_MAX_PERIOD,
     .doc = "shift from head to head; 0: stride / query heads, at least 1"},
    {.name = "offset",
     .default_text = "0",
     .min = 0,
     .max = BANYAN_MAX_PERIOD,
     .doc = "shift of all heads: 0 as in DKernel, 1 as in Phi-3-small and vLLM"},
    {.name = "per",
     .default_text = "kv",
     .choices = "kv|query",
     .doc = "the heads that are shifted: KV heads, or query heads"},
    {.name = "dense",
     .default_text = "0",
     .min = 0,
     .max = INT32_MAX,
     .doc = "so many of the last KV heads are dense"},
    {.name = NULL},
};

static int is_dense(const banyan_pattern *pattern)
{
    int64_t kv_head = pattern->head / (pattern->heads / pattern->kv_heads);
    return pattern->value[STRIDE].number == 1 ||
           kv_head >= pattern->kv_heads - pattern->value[DENSE].number;
}

/* The remote blocks of this head are those with j mod stride == remainder. */
static int64_t residue_of(const banyan_pattern *pattern)
{
    int64_t stride = pattern->value[STRIDE].number, step = pattern->value[STEP].number;
    int64_t head = pattern->head;
    if (pattern->value[PER].number == PER_KV) head /= pattern->heads / pattern->kv_heads;
    if (step == 0) step = stride > pattern->heads ? stride / pattern->heads : 1;
    int64_t shift = (head * step + pattern->value[OFFSET].number) % stride;
    return (stride - shift) % stride;
}

static banyan_status s2_check(const banyan_pattern *pattern, char *why, size_t why_bytes)
{
    if (pattern->value[STRIDE].number > 1 && pattern->value[LOCAL].number < 1) {
        if (why && why_bytes)
            snprintf(why, why_bytes,
                     "s2: local=0 with stride=%lld leaves rows without their own block, "
                     "expected local >= 1",
                     (long long)pattern->value[STRIDE].number);
        return BANYAN_ERR_CONFIG;
    }
    if (pattern->value[DENSE].number > pattern->kv_heads) {
        if (why && why_bytes)
            snprintf(why, why_bytes, "s2: dense=%lld, but there are %d KV heads",
                     (long long)pattern->value[DENSE].number, pattern->kv_heads);
        return BANYAN_ERR_CONFIG;
    }
    return BANYAN_OK;
}

static int s2_reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    const banyan_value *local = &pattern->value[LOCAL];
    const int64_t tokens = pattern->block_tokens, block = token / tokens;
    if (is_dense(pattern) || block % pattern->value[STRIDE].number == residue_of(pattern))
        return 1;
    return local->in_tokens ? token > row - local->number
                            : row / tokens - block < local->number;
}

static void s2_select(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                      banyan_selection *out)
{
    const banyan_value *local = &pattern->value[LOCAL];
    int64_t tokens = pattern->block_tokens, own = last_row / tokens;
    int64_t stride = pattern->value[STRIDE].number, remainder = residue_of(pattern);
    int64_t cut = own - local->number + 1; /* first block that some row's window reaches */
    int64_t whole = cut;                   /* first block that every row sees to the end */

    out->edge = (banyan_edge){.sink_end = 0, .window = local->number};
    if (is_dense(pattern)) {
        banyan_selection_add(out, 0, own, 1, 0);
        return;
    }
    if (local->in_tokens) {
        int64_t lowest = first_row - local->number + 1, highest = last_row - local->number + 1;
        cut = lowest > 0 ? lowest / tokens : 0;
        whole = highest > 0 ? (highest + tokens - 1) / tokens : 0;
    }
    banyan_selection_add(out, remainder, cut - 1, stride, 0);
    for (int64_t block = cut; block < whole; block++) /* at most two */
        banyan_selection_add(out, block, block, 1, block % stride != remainder);
    banyan_selection_add(out, whole, own, 1, 0);
}

static void s2_keeps(const banyan_pattern *pattern, banyan_retention *out)
{
    const banyan_value *local = &pattern->value[LOCAL];
    if (is_dense(pattern)) {
        *out = (banyan_retention){.period = 1, .residue = {1}};
        return;
    }
    int64_t remainder = residue_of(pattern);
    *out = (banyan_retention){
        .period = (int32_t)pattern->value[STRIDE].number,
        .reach =
            local->in_tokens ? local->number - 1 : (local->number - 1) * pattern->block_tokens,
    };
    out->residue[remainder / 64] = (uint64_t)1 << (remainder % 64);
}

static int s2_alike(const banyan_pattern *a, const banyan_pattern *b)
{
    return is_dense(a) == is_dense(b) && (is_dense(a) || residue_of(a) == residue_of(b));
}

const banyan_selector banyan_select_s2 = {
    .name = "s2",
    .params = params,
    .check = s2_check,
    .reads = s2_reads,
    .select = s2_select,
    .keeps = s2_keeps,
    .alike = s2_alike,
};
