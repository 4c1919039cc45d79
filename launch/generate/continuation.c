/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 0's side of a continuation: from text to ids, and from ids to text on stdout. What may
 * be the beginning of the stop text is held back until it is known. */
#include "launch/generate/generate.h"
#include "launch/model/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool add_end(continuation *c, int64_t id)
{
    if (id < 0) return true;
    uint32_t *grown = realloc(c->ends, (size_t)(c->end_count + 1) * sizeof *grown);
    if (!grown) return false;
    c->ends = grown;
    c->ends[c->end_count++] = (uint32_t)id;
    return true;
}

/* A question in its layout, whose own end ends the answer too. */
static bool encode_chat(const prompt_wish *w, continuation *c, const char *data, size_t bytes,
                        token_ids *ids, char *why, size_t why_bytes)
{
    const chat_layout *layout =
        chat_encode(c->tokenizer, w->system, data, bytes, ids, why, why_bytes);
    if (!layout) return false;
    if (w->ignores_eos || add_end(c, tokenizer_added(c->tokenizer, layout->end))) return true;
    snprintf(why, why_bytes, "out of memory");
    return false;
}

static bool encode_prompt(const prompt_wish *w, continuation *c, const char *data, size_t bytes,
                          char *why, size_t why_bytes)
{
    token_ids ids = {0};
    char reason[1024];
    bool good = w->chat ? encode_chat(w, c, data, bytes, &ids, reason, sizeof reason)
                        : tokenizer_encode(c->tokenizer, data, bytes, !w->load, &ids, reason,
                                           sizeof reason);
    if (!good) snprintf(why, why_bytes, "the prompt: %s", reason);
    if (good && ids.count == 0 && !w->load) {
        snprintf(why, why_bytes,
                 "the prompt is empty, and the model has no token to begin with");
        good = false;
    }
    uint32_t *grown =
        good ? realloc(ids.id, (size_t)(ids.count + w->count + 1) * sizeof *grown) : NULL;
    if (grown) {
        c->ids = grown;
        c->prompt = ids.count;
        return true;
    }
    if (good) snprintf(why, why_bytes, "out of memory for %" PRId64 " ids", ids.count);
    free(ids.id);
    return false;
}

static bool read_prompt_text(const prompt_wish *w, continuation *c, char *why, size_t why_bytes)
{
    c->tokenizer = tokenizer_open(w->model, why, why_bytes);
    if (!c->tokenizer) return false;
    /* An answer begins anew; without a layout the text goes on. */
    c->decoder =
        (token_decoder){.t = c->tokenizer, .skips_special = true, .has_begun = !w->chat};
    c->stop = w->stop;
    if (w->prompt) return encode_prompt(w, c, w->prompt, strlen(w->prompt), why, why_bytes);
    size_t bytes;
    char *data = input_read(w->prompt_file, &bytes, why, why_bytes);
    bool good = data && encode_prompt(w, c, data, bytes, why, why_bytes);
    free(data);
    return good;
}

/* What the snapshot has read stands before the prompt. */
static bool put_before(const prompt_wish *w, continuation *c, char *why, size_t why_bytes)
{
    int64_t count = 0;
    uint32_t *ids =
        snapshot_ids(w->load, c->prompt + w->count, &count, &c->digest, why, why_bytes);
    if (!ids) return false;
    if (c->prompt) memcpy(ids + count, c->ids, (size_t)c->prompt * sizeof *ids);
    free(c->ids);
    c->ids = ids;
    c->prompt += count;
    return true;
}

/* Nothing but a snapshot: its last id is gone on from, in text where the model has a
 * tokenizer. */
static bool read_nothing(const prompt_wish *w, continuation *c, char *why, size_t why_bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", w->model);
    if (access(path, F_OK)) return true;
    c->tokenizer = tokenizer_open(w->model, why, why_bytes);
    c->decoder = (token_decoder){.t = c->tokenizer, .skips_special = true, .has_begun = true};
    c->stop = w->stop;
    return c->tokenizer != NULL;
}

static bool read_prompt(const prompt_wish *w, continuation *c, char *why, size_t why_bytes)
{
    if (!w->ids && !w->prompt && !w->prompt_file) return read_nothing(w, c, why, why_bytes);
    if (!w->ids) return read_prompt_text(w, c, why, why_bytes);
    c->ids = ids_read(w->ids, w->count, &c->prompt, why, why_bytes);
    return c->ids != NULL;
}

bool continuation_begin(const prompt_wish *w, continuation *c, char *why, size_t why_bytes)
{
    if (!w->ignores_eos && !ends_read(w->model, &c->ends, &c->end_count, why, why_bytes))
        return false;
    return read_prompt(w, c, why, why_bytes) && (!w->load || put_before(w, c, why, why_bytes));
}

void continuation_free(continuation *c)
{
    free(c->ids);
    free(c->ends);
    free(c->held.data);
    tokenizer_close(c->tokenizer);
}

/* How much of the held text cannot become the stop text any more; *found: it stands there. */
static size_t settled_bytes(const continuation *c, bool *found)
{
    size_t stop = c->stop ? strlen(c->stop) : 0;
    *found = false;
    for (size_t i = 0; stop && i < c->held.bytes; i++) {
        size_t rest = c->held.bytes - i, common = rest < stop ? rest : stop;
        if (memcmp(c->held.data + i, c->stop, common) != 0) continue;
        *found = rest >= stop;
        return i;
    }
    return c->held.bytes;
}

static void print_held(continuation *c, size_t bytes)
{
    fwrite(c->held.data, 1, bytes, stdout);
    fflush(stdout);
    memmove(c->held.data, c->held.data + bytes, c->held.bytes - bytes);
    c->held.bytes -= bytes;
}

bool continuation_add(continuation *c, uint32_t id, bool *ends)
{
    *ends = false;
    for (int64_t i = 0; i < c->end_count; i++)
        if (c->ends[i] == id) *ends = true;
    if (!c->tokenizer) {
        printf("%" PRIu32 "\n", id);
        fflush(stdout);
        return true;
    }
    bool found;
    if (*ends) return true; /* no part of the text, special or not */
    if (!decoder_add(&c->decoder, id, &c->held)) return false;
    if (c->held.bytes == 0) return true;
    print_held(c, settled_bytes(c, &found));
    if (found) c->held.bytes = 0;
    *ends = found;
    return true;
}

bool continuation_end(continuation *c)
{
    if (!c->tokenizer) return true;
    bool good = decoder_end(&c->decoder, &c->held) && text_add(&c->held, "\n", 1);
    if (good) print_held(c, c->held.bytes);
    return good;
}
