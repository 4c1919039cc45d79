/* SPDX-License-Identifier: Apache-2.0 */
/* The general form of S2-Attention's figure (arXiv 2407.17678): a local window, and beyond it
 * ranges of blocks, each with a stride of its own, the further away the sparser. With own block
 * i and pattern head h, the block j at distance d = i - j is read iff
 *
 *     d < local,  or  (j + h step + offset) mod stride_k == 0  in the range k that d lies in:
 *
 *     distance       0 .. local-1 | .. + range1 | + range2 | .. | beyond
 *     one block in             1  |   stride1   |  stride2 | .. | the last, without a length
 *
 * Range k is the next range_k blocks beyond the one before; without a length (0) it goes back
 * to the beginning, and no further ones count. A stride of 0 reads nothing. With one stride it
 * is s2.
 *
 * A block stays until it has left the last range that ends; those of the range that goes back
 * to the beginning stay for good. (So a block may be kept that nobody reads: strides that do
 * not divide one another may read a block again that they left out.) */
#include "attention/window.h"

enum { RANGES = 5 };
enum { LOCAL, STRIDES, STEP = STRIDES + 2 * RANGES, OFFSET, PER };
enum { PER_KV, PER_QUERY };

#define RANGE(k, stride, length)                                                               \
    {.name = "stride" #k,                                                                      \
     .default_text = (stride),                                                                 \
     .min = 0,                                                                                 \
     .max = BANYAN_MAX_PERIOD,                                                                 \
     .doc = "in range " #k " one block in so many; 0: none"},                                  \
    {                                                                                          \
        .name = "range" #k, .default_text = (length), .min = 0, .max = (int64_t)1 << 40,       \
        .doc = "blocks of range " #k "; 0: all that are further away"                          \
    }

static const banyan_param params[] = {
    {.name = "local",
     .default_text = "16",
     .min = 1,
     .max = (int64_t)1 << 40,
     .doc = "the most recent blocks, the row's own included"},
    RANGE(1, "4", "64"),
    RANGE(2, "16", "0"),
    RANGE(3, "0", "0"),
    RANGE(4, "0", "0"),
    RANGE(5, "0", "0"),
    {.name = "step",
     .default_text = "1",
     .min = 0,
     .max = BANYAN_MAX_PERIOD,
     .doc = "shift from head to head"},
    {.name = "offset",
     .default_text = "0",
     .min = 0,
     .max = BANYAN_MAX_PERIOD,
     .doc = "shift of all heads"},
    {.name = "per",
     .default_text = "kv",
     .choices = "kv|query",
     .doc = "the heads that are shifted: KV heads, or query heads"},
    {.name = NULL},
};

/* Distances from .. end-1 with this stride; end INT64_MAX: to the beginning. */
typedef struct range {
    int64_t from, end, stride;
} range;

static range range_of(const banyan_pattern *pattern, int32_t k)
{
    range r = {.from = pattern->value[LOCAL].number, .end = pattern->value[LOCAL].number};
    for (int32_t i = 0; i <= k; i++) {
        const int64_t length = pattern->value[STRIDES + 2 * i + 1].number;
        r.from = r.end;
        if (length == 0) r.end = INT64_MAX;
        if (r.end < INT64_MAX) r.end += length;
        r.stride = pattern->value[STRIDES + 2 * i].number;
        if (r.from == INT64_MAX) break;
    }
    return r;
}

static int64_t shift_of(const banyan_pattern *pattern)
{
    int64_t head = pattern->head;
    if (pattern->value[PER].number == PER_KV) head /= pattern->heads / pattern->kv_heads;
    return head * pattern->value[STEP].number + pattern->value[OFFSET].number;
}

/* The blocks that a stride reads are those whose number modulo it is this. */
static int64_t remainder_of(const banyan_pattern *pattern, int64_t stride)
{
    return (stride - shift_of(pattern) % stride) % stride;
}

static int strided_reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    const int64_t block = token / pattern->block_tokens;
    const int64_t distance = row / pattern->block_tokens - block;
    if (distance < pattern->value[LOCAL].number) return 1;
    for (int32_t k = 0; k < RANGES; k++) {
        const range r = range_of(pattern, k);
        if (distance < r.end)
            return r.stride && block % r.stride == remainder_of(pattern, r.stride);
    }
    return 0;
}

static void strided_select(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                           banyan_selection *out)
{
    const int64_t own = last_row / pattern->block_tokens;
    (void)first_row;
    for (int32_t k = RANGES - 1; k >= 0; k--) {
        const range r = range_of(pattern, k);
        if (r.from == INT64_MAX || r.from > own || !r.stride) continue;
        const int64_t low = r.end > own ? 0 : own - r.end + 1;
        const int64_t remainder = remainder_of(pattern, r.stride);
        const int64_t first = low + ((remainder - low % r.stride) + r.stride) % r.stride;
        banyan_selection_add(out, first, own - r.from, r.stride, 0);
    }
    banyan_selection_add(out, own - pattern->value[LOCAL].number + 1, own, 1, 0);
}

static void strided_keeps(const banyan_pattern *pattern, banyan_retention *out)
{
    int64_t read = pattern->value[LOCAL].number; /* distances below it may be read */
    *out = (banyan_retention){.period = 1};
    for (int32_t k = 0; k < RANGES; k++) {
        const range r = range_of(pattern, k);
        if (r.from == INT64_MAX) break;
        if (!r.stride) continue;
        if (r.end < INT64_MAX) {
            read = r.end;
            continue;
        }
        const int64_t remainder = remainder_of(pattern, r.stride);
        out->period = (int32_t)r.stride;
        out->residue[remainder / 64] = (uint64_t)1 << remainder % 64;
    }
    out->reach = (read - 1) * pattern->block_tokens;
}

static int strided_alike(const banyan_pattern *a, const banyan_pattern *b)
{
    for (int32_t k = 0; k < RANGES; k++) {
        const range r = range_of(a, k);
        if (r.from == INT64_MAX) break;
        if (r.stride && remainder_of(a, r.stride) != remainder_of(b, r.stride)) return 0;
    }
    return 1;
}

const banyan_selector banyan_select_strided = {
    .name = "strided",
    .params = params,
    .reads = strided_reads,
    .select = strided_select,
    .keeps = strided_keeps,
    .alike = strided_alike,
};
