/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts for checkpoints with a vocabulary of their own: token ids that a tokeniser wrote. The haystack
 * is tokenised once and repeated; the needle is spliced between its ids. */
#include "launch/needle/evaluate.h"

#include <stdlib.h>
#include <string.h>

void foreign_free(foreign_ids *f)
{
    free(f->prefix.ids);
    free(f->haystack.ids);
    free(f->needle.ids);
    free(f->question.ids);
    free(f->answer.ids);
    memset(f, 0, sizeof *f);
}

bool foreign_prompt(const foreign_ids *f, int64_t count, int64_t first, prompt *out, char *why,
                    size_t why_bytes)
{
    memset(out, 0, sizeof *out);
    out->count = count;
    out->ids = malloc((size_t)count * sizeof *out->ids);
    if (!out->ids) {
        snprintf(why, why_bytes, "out of memory for %lld ids", (long long)count);
        return false;
    }
    int64_t hay = 0;
    for (int64_t t = 0; t < count; t++) {
        if (t < f->prefix.count)
            out->ids[t] = f->prefix.ids[t];
        else if (t >= first && t < first + f->needle.count)
            out->ids[t] = f->needle.ids[t - first];
        else
            out->ids[t] = f->haystack.ids[hay++ % f->haystack.count];
    }
    return true;
}

void foreign_answer(const foreign_ids *f, int64_t *offset, int64_t *count)
{
    const id_list *a = &f->answer, *n = &f->needle;
    *offset = 0;
    *count = n->count;
    for (int64_t i = 0; i + a->count <= n->count; i++)
        if (memcmp(n->ids + i, a->ids, (size_t)a->count * sizeof *a->ids) == 0) {
            *offset = i;
            *count = a->count;
            return;
        }
}
