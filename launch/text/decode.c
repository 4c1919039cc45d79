/* SPDX-License-Identifier: Apache-2.0 */
/* From ids to text. A byte-level token is any bytes, whose characters may be cut in two: what
 * is no whole character yet is held. With byte fallback only byte tokens are. */
#include "launch/text/tokenizer.h"

#include <string.h>

static bool add_fault(text *out)
{
    return text_add(out, "\xEF\xBF\xBD", 3);
}

/* Held bytes and more of them: whole characters to `out`, U+FFFD for each beginning that goes
 * wrong (byte tokens: for each byte), the rest held. */
static bool decode_bytes(token_decoder *d, const char *data, size_t bytes, bool each_byte,
                         text *out)
{
    char joined[sizeof d->held + 1];
    uint32_t code;
    while (d->held_bytes > 0 && bytes > 0) { /* a byte at a time, until nothing is held */
        memcpy(joined, d->held, (size_t)d->held_bytes);
        joined[d->held_bytes] = data[0];
        int width = utf8_next(joined, (size_t)d->held_bytes + 1, &code);
        if (width > 0) {
            if (!text_add(out, joined, (size_t)width)) return false;
            d->held_bytes = 0;
        } else if (width == 0) {
            d->held[d->held_bytes++] = data[0];
        } else { /* the held ones are none; this one begins anew */
            for (int i = 0; i < (each_byte ? d->held_bytes : 1); i++)
                if (!add_fault(out)) return false;
            d->held_bytes = 0;
            continue;
        }
        data++;
        bytes--;
    }
    for (size_t i = 0, good = 0; i < bytes; good = i) {
        int width = 1;
        while (i < bytes && (width = utf8_next(data + i, bytes - i, &code)) > 0)
            i += (size_t)width;
        if (!text_add(out, data + good, i - good)) return false;
        if (i == bytes) break;
        if (width == 0) {
            memcpy(d->held, data + i, bytes - i);
            d->held_bytes = (int)(bytes - i);
            break;
        }
        for (int k = 0; k < (each_byte ? -width : 1); k++)
            if (!add_fault(out)) return false;
        i += (size_t)-width;
    }
    return true;
}

bool decoder_end(token_decoder *d, text *out)
{
    int faults = !d->held_bytes ? 0 : d->t->is_byte_level ? 1 : d->held_bytes;
    d->held_bytes = 0;
    while (faults-- > 0)
        if (!add_fault(out)) return false;
    return true;
}

/* A token's characters, the blank as a space or, in the first token, as nothing. */
static bool decode_word(token_decoder *d, const token *k, bool is_first, text *out)
{
    const tokenizer *t = d->t;
    if (!decoder_end(d, out)) return false; /* what was held is never completed */
    size_t from = out->bytes, width = t->blank ? strlen(t->blank) : 0;
    for (uint32_t i = 0; i < k->bytes;) {
        bool is_blank = width && k->bytes - i >= width && !memcmp(k->data + i, t->blank, width);
        if (!is_blank) {
            if (!text_add(out, k->data + i++, 1)) return false;
            continue;
        }
        i += (uint32_t)width;
        if (!(is_first && t->drops_first) && !text_add(out, " ", 1)) return false;
    }
    int strip = is_first ? t->strip : 0;
    size_t spaces = 0;
    while (strip-- > 0 && from + spaces < out->bytes && out->data[from + spaces] == ' ')
        spaces++;
    if (spaces)
        memmove(out->data + from, out->data + from + spaces, out->bytes - from - spaces);
    out->bytes -= spaces;
    return true;
}

bool decoder_add(token_decoder *d, uint32_t id, text *out)
{
    const tokenizer *t = d->t;
    if (id >= (uint32_t)t->bpe.vocab.ids) return true; /* padding of the embedding */
    const token *k = &t->bpe.vocab.token[id];
    if (!k->is_known || (d->skips_special && k->is_special)) return true;
    bool is_first = !d->has_begun;
    d->has_begun = true;
    if (t->is_byte_level) return decode_bytes(d, k->data, k->bytes, false, out);
    if (t->falls_back && k->byte >= 0) {
        char byte = (char)k->byte;
        return decode_bytes(d, &byte, 1, true, out);
    }
    if (t->spaces && !is_first && !text_add(out, " ", 1)) return false;
    return decode_word(d, k, is_first, out);
}
