/* SPDX-License-Identifier: Apache-2.0 */
/* Random tokens, again and again: what a head does in them it does for their order alone. Row i
 * of the last copy, with `tokens` from one copy to the next, and copies m = 1 .. HEADS_COPIES
 * before it:
 *
 *     echo       mass on i - m tokens         the same token
 *     induction  mass on i - m tokens + 1     the token that followed it
 *
 * summed over the copies; the mean over rows (RazorAttention, section 3: 2500 tokens, 4
 * times). */
#include "launch/heads/heads.h"

#include <stdlib.h>

enum { RANGES = 2 * HEADS_COPIES };

/* What stands first, then the copies. */
static int64_t make_ids(const evaluation *e, int32_t tokens, uint32_t *ids)
{
    const foreign_ids *f = e->wish->foreign;
    uint64_t random = needle_seed(e->wish->seed, tokens, 0, 99);
    int64_t first = f ? f->prefix.count : NEEDLE_FIRST;
    for (int64_t t = 0; t < first; t++) ids[t] = f ? f->prefix.ids[t] : CONSTRUCTED_BOS;
    const int64_t low = f ? 0 : CONSTRUCTED_WORDS;
    for (int32_t t = 0; t < tokens; t++)
        ids[first + t] = (uint32_t)(low + needle_below(&random, e->shape.vocab - low));
    for (int64_t t = 0; t < (int64_t)HEADS_COPIES * tokens; t++)
        ids[first + tokens + t] = ids[first + t];
    return first + (int64_t)(HEADS_COPIES + 1) * tokens;
}

static void fill_ranges(model_watch *w, int64_t count, int32_t tokens)
{
    for (int32_t i = 0; i < w->rows; i++)
        for (int32_t m = 0; m < HEADS_COPIES; m++) {
            const int64_t same = count - w->rows + i - (int64_t)(m + 1) * tokens;
            w->range[i * RANGES + 2 * m] = (banyan_range){same, same + 1};
            w->range[i * RANGES + 2 * m + 1] = (banyan_range){same + 1, same + 2};
        }
}

static void add_up(const model_watch *w, heads_scores *s)
{
    const int64_t heads = s->shape->heads;
    for (int64_t n = 0; n < s->all; n++)
        for (int64_t i = 0; i < (int64_t)w->rows * RANGES; i++) {
            const int64_t at = (n / heads * w->rows * RANGES + i) * heads + n % heads;
            double *sum = i % 2 ? s->induction : s->echo;
            sum[n] += w->mass[at] / (double)w->rows;
        }
}

int heads_repeat(evaluation *e, int32_t tokens, heads_scores *s)
{
    const int64_t most = (int64_t)(HEADS_COPIES + 1) * tokens +
                         (e->wish->foreign ? e->wish->foreign->prefix.count : NEEDLE_FIRST);
    uint32_t *ids = malloc((size_t)most * sizeof *ids);
    model_watch w = {0};
    progress(e->j, "random tokens, repeated");
    int code = evaluation_reset(e, most, e->spec.cache_dtype);
    if (code) {
        free(ids);
        return code;
    }
    const int32_t rows = tokens < HEADS_ROWS ? tokens : HEADS_ROWS;
    banyan_status status = ids ? model_watch_make(e->m, rows, RANGES, &w) : BANYAN_ERR_MEMORY;
    code = evaluation_agree(e, status, "random tokens");
    if (!code) {
        const int64_t count = make_ids(e, tokens, ids);
        const model_probe probe = {.watch = &w};
        fill_ranges(&w, count, tokens);
        status = model_forward(e->m, 0, ids, count, rows, NULL, NULL, &probe, NULL, NULL);
        code = evaluation_forward(e, status, "reading random tokens");
    }
    if (!code) add_up(&w, s);
    model_watch_free(&w);
    free(ids);
    return code;
}
