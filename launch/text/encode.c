/* SPDX-License-Identifier: Apache-2.0 */
/* From text to ids: the file's steps, in their order. A step that changes text writes it into a
 * buffer of its own. */
#include "launch/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

static bool replace_all(const char *data, size_t bytes, const char *from, const char *to,
                        text *out)
{
    size_t from_bytes = strlen(from), to_bytes = strlen(to), start = 0;
    for (size_t i = 0; i + from_bytes <= bytes;) {
        const char *hit = memchr(data + i, from[0], bytes - i);
        if (!hit) break;
        i = (size_t)(hit - data);
        if (i + from_bytes > bytes || memcmp(hit, from, from_bytes) != 0) {
            i++;
            continue;
        }
        if (!text_add(out, data + start, i - start) || !text_add(out, to, to_bytes))
            return false;
        start = i += from_bytes;
    }
    return text_add(out, data + start, bytes - start);
}

/* The result is in *out, or is the text itself where nothing is to be done. */
bool normalise(tokenizer *t, const char *data, size_t bytes, text *out)
{
    text *spare = &t->arena[STEPS];
    out->bytes = 0;
    if (!text_add(out, data, bytes)) return false;
    for (int i = 0; i < t->normals; i++) {
        const normal_step *n = &t->normal[i];
        spare->bytes = 0;
        bool good = false;
        switch (n->kind) {
        case NORMAL_NFC: good = nfc_add(t->canon, out->data, out->bytes, spare); break;
        case NORMAL_PREPEND: /* to nothing, nothing is put before */
            good = (!out->bytes || text_add(spare, n->to, strlen(n->to))) &&
                   text_add(spare, out->data, out->bytes);
            break;
        case NORMAL_REPLACE:
            good = replace_all(out->data, out->bytes, n->from, n->to, spare);
            break;
        }
        if (!good) return false;
        text old = *out;
        *out = *spare;
        *spare = old;
    }
    return true;
}

static bool starts_with(const char *data, size_t bytes, const char *with)
{
    size_t n = strlen(with);
    return bytes >= n && !memcmp(data, with, n);
}

static bool cut(tokenizer *t, int step, const char *data, size_t bytes, bool is_first,
                token_ids *ids);

/* A piece that begins with a blank: the blank and what follows it up to the next. */
static size_t blank_piece(const char *blank, const char *data, size_t bytes)
{
    size_t width = strlen(blank);
    size_t i = starts_with(data, bytes, blank) ? width : 0;
    if (i && starts_with(data + i, bytes - i, blank)) return i; /* a blank before a blank */
    while (i < bytes && !starts_with(data + i, bytes - i, blank)) i++;
    return i;
}

static bool cut_blanks(tokenizer *t, int step, const char *data, size_t bytes, bool is_first,
                       token_ids *ids)
{
    const cut_step *c = &t->cut[step];
    text *own = &t->arena[step];
    bool begins = c->begin == BEGIN_ALWAYS || (c->begin == BEGIN_FIRST && is_first);
    own->bytes = 0;
    if (begins && !starts_with(data, bytes, " ") && !starts_with(data, bytes, c->blank) &&
        !text_add(own, c->blank, strlen(c->blank)))
        return false;
    if (!replace_all(data, bytes, " ", c->blank, own)) return false;
    if (!c->splits) return cut(t, step + 1, own->data, own->bytes, is_first, ids);
    for (size_t i = 0; i < own->bytes;) {
        size_t end = i + blank_piece(c->blank, own->data + i, own->bytes - i);
        if (!cut(t, step + 1, own->data + i, end - i, is_first && i == 0, ids)) return false;
        i = end;
    }
    return true;
}

/* Up to a blank and with it; a blank that begins is alone (MergedWithPrevious). */
static bool cut_behind(tokenizer *t, int step, const char *data, size_t bytes, bool is_first,
                       token_ids *ids)
{
    const char *blank = t->cut[step].blank;
    for (size_t i = 0, n; i < bytes; i += n) {
        for (n = 0; i + n < bytes && !starts_with(data + i + n, bytes - i - n, blank);) n++;
        if (i + n < bytes) n += strlen(blank);
        if (!cut(t, step + 1, data + i, n, is_first && i == 0, ids)) return false;
    }
    return true;
}

static bool cut_bytes(tokenizer *t, int step, const char *data, size_t bytes, bool is_first,
                      token_ids *ids)
{
    const cut_step *c = &t->cut[step];
    if (c->begin == BEGIN_ALWAYS && !starts_with(data, bytes, " ")) {
        text *own = &t->arena[step];
        own->bytes = 0;
        if (!text_add(own, " ", 1) || !text_add(own, data, bytes)) return false;
        data = own->data;
        bytes = own->bytes;
    }
    if (!c->scanner) return cut(t, step + 1, data, bytes, is_first, ids);
    for (size_t i = 0; i < bytes;) {
        size_t n = scan_piece(c->scanner, t->classes, data + i, bytes - i);
        if (!cut(t, step + 1, data + i, n, is_first && i == 0, ids)) return false;
        i += n;
    }
    return true;
}

/* Steps from `step` on, for a piece that begins the whole text or does not. */
static bool cut(tokenizer *t, int step, const char *data, size_t bytes, bool is_first,
                token_ids *ids)
{
    if (bytes == 0) return true;
    if (step == t->cuts) return bpe_piece(&t->bpe, data, bytes, ids);
    const cut_step *c = &t->cut[step];
    switch (c->kind) {
    case CUT_BLANKS: return cut_blanks(t, step, data, bytes, is_first, ids);
    case CUT_BEHIND: return cut_behind(t, step, data, bytes, is_first, ids);
    case CUT_BYTES:
    case CUT_SCAN: return cut_bytes(t, step, data, bytes, is_first, ids);
    case CUT_DIGITS: break;
    }
    for (size_t i = 0; i < bytes;) {
        size_t n = scan_digits(t->classes, c->is_single, data + i, bytes - i);
        if (!cut(t, step + 1, data + i, n, is_first && i == 0, ids)) return false;
        i += n;
    }
    return true;
}

typedef bool (*between)(tokenizer *t, const char *data, size_t bytes, bool is_first,
                        token_ids *ids);

static bool is_space(const tokenizer *t, const char *s, size_t *width)
{
    return t->classes[utf8_read(s, width)] == SPACE;
}

/* Added tokens of one set, and what stands between them. */
static bool split_added(tokenizer *t, const added_set *set, const char *data, size_t bytes,
                        bool is_first, between rest, token_ids *ids)
{
    size_t start = 0, width;
    for (size_t i = 0; set->count && i < bytes;) {
        const added_token *a = added_match(set, data + i, bytes - i);
        if (!a) {
            i++;
            continue;
        }
        size_t from = i, end = i += a->bytes;
        if (a->strips_left)
            for (size_t back = from; back > start; from = back) {
                do back--;
                while (back > start && (data[back] & 0xC0) == 0x80);
                if (!is_space(t, data + back, &width)) break;
            }
        if (a->strips_right)
            while (end < bytes && is_space(t, data + end, &width)) end += width;
        if (start < from && !rest(t, data + start, from - start, is_first && start == 0, ids))
            return false;
        if (!ids_add(ids, a->id)) return false;
        start = end;
    }
    return start >= bytes || rest(t, data + start, bytes - start, is_first && start == 0, ids);
}

static bool encode_plain(tokenizer *t, const char *data, size_t bytes, bool is_first,
                         token_ids *ids)
{
    return cut(t, 0, data, bytes, is_first, ids);
}

static bool encode_rest(tokenizer *t, const char *data, size_t bytes, bool is_first,
                        token_ids *ids)
{
    if (t->normals) {
        text *out = &t->arena[STEPS + 1];
        if (!normalise(t, data, bytes, out)) return false;
        data = out->data;
        bytes = out->bytes;
    }
    return split_added(t, &t->late, data, bytes, is_first, encode_plain, ids);
}

static bool is_text(const char *data, size_t bytes, char *why, size_t why_bytes)
{
    uint32_t code;
    for (size_t i = 0; i < bytes;) {
        int width = utf8_next(data + i, bytes - i, &code);
        if (width <= 0) {
            snprintf(why, why_bytes, "byte %zu, 0x%02X, is not UTF-8%s", i,
                     (unsigned char)data[i], width ? "" : ": the text ends in mid character");
            return false;
        }
        i += (size_t)width;
    }
    return true;
}

bool tokenizer_encode(tokenizer *t, const char *data, size_t bytes, bool with_ends,
                      token_ids *ids, char *why, size_t why_bytes)
{
    if (!is_text(data, bytes, why, why_bytes)) return false;
    bool good = true;
    for (int64_t i = 0; good && with_ends && i < t->before.count; i++)
        good = ids_add(ids, t->before.id[i]);
    good = good && split_added(t, &t->early, data, bytes, true, encode_rest, ids);
    for (int64_t i = 0; good && with_ends && i < t->behind.count; i++)
        good = ids_add(ids, t->behind.id[i]);
    if (!good) snprintf(why, why_bytes, "out of memory for the ids of %zu bytes", bytes);
    return good;
}
