/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts for checkpoints with a vocabulary of their own: token ids that a tokeniser wrote, a file of
 * little-endian u32 each. The haystack is tokenised once and repeated; the needle is spliced between
 * its ids, so nothing here needs a tokeniser. */
#include "launch/needle/evaluate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool read_ids(FILE *f, const char *path, id_list *out, char *why, size_t why_bytes)
{
    if (fseeko(f, 0, SEEK_END) != 0) {
        snprintf(why, why_bytes, "cannot read %s: %s", path, strerror(errno));
        return false;
    }
    off_t bytes = ftello(f);
    rewind(f);
    if (bytes <= 0 || bytes % 4) {
        snprintf(why, why_bytes,
                 "%s has %lld bytes; token ids are 4 bytes each, and at least one is needed",
                 path, (long long)bytes);
        return false;
    }
    out->count = bytes / 4;
    out->ids = malloc((size_t)bytes);
    if (!out->ids || fread(out->ids, 4, (size_t)out->count, f) != (size_t)out->count) {
        snprintf(why, why_bytes, "cannot read %lld ids of %s", (long long)out->count, path);
        return false;
    }
    return true;
}

bool foreign_load(const char *path, uint32_t vocab, id_list *out, char *why, size_t why_bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        snprintf(why, why_bytes, "cannot read %s: %s", path, strerror(errno));
        return false;
    }
    bool ok = read_ids(f, path, out, why, why_bytes);
    fclose(f);
    for (int64_t i = 0; ok && i < out->count; i++) {
        const unsigned char *b = (const unsigned char *)&out->ids[i];
        uint32_t id = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        out->ids[i] = id;
        if (id < vocab) continue;
        snprintf(why, why_bytes, "%s: id %u at %lld is beyond the vocabulary of %u", path, id,
                 (long long)i, vocab);
        ok = false;
    }
    if (!ok) {
        free(out->ids);
        *out = (id_list){0};
    }
    return ok;
}

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
