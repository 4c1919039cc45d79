/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json: the vocabulary, the merges, the added tokens. */
#include "launch/text/tokenizer.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS = 1 << 24 }; /* more is no vocabulary */

static bool in_list(const char *word, const char *list)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
    return false;
}

bool known_keys(const json_t *object, const char *keys, const char *what, char *why,
                size_t why_bytes)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object)) {
        snprintf(why, why_bytes, "%s is no object", what);
        return false;
    }
    json_object_foreach((json_t *)object, key, value)
    {
        if (in_list(key, keys)) continue;
        snprintf(why, why_bytes, "%s: \"%s\" is not known here; expected %s", what, key, keys);
        return false;
    }
    return true;
}

/* ---- the vocabulary ---------------------------------------------------------------------- */

/* The bytes of a token of byte-level vocabularies; where some character stands for none,
 * itself. */
static size_t level_bytes(const char *name, char *out)
{
    size_t bytes = strlen(name), count = 0, width;
    for (size_t i = 0; i < bytes; i += width) {
        int byte = level_byte(utf8_read(name + i, &width));
        if (byte < 0) {
            memcpy(out, name, bytes);
            return bytes;
        }
        out[count++] = (char)byte;
    }
    return count;
}

static bool is_level(const char *name)
{
    size_t width;
    for (; *name; name += width)
        if (level_byte(utf8_read(name, &width)) < 0) return false;
    return true;
}

static int byte_token(const char *name)
{
    unsigned byte;
    int end = 0;
    bool good = strlen(name) == 6 && sscanf(name, "<0x%2X>%n", &byte, &end) == 1 && end == 6;
    return good ? (int)byte : -1;
}

/* Room for all ids, those of added tokens too. */
static bool count_ids(tokenizer *t, const json_t *words, const json_t *added, char *why,
                      size_t why_bytes)
{
    const char *name;
    json_t *value;
    size_t i;
    json_int_t top = -1;
    json_object_foreach((json_t *)words, name, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= IDS) {
            snprintf(why, why_bytes, "model.vocab: \"%s\" has no id of 0 .. %d", name, IDS - 1);
            return false;
        }
        if (id > top) top = id;
    }
    json_array_foreach((json_t *)added, i, value)
    {
        const json_t *number = json_object_get(value, "id");
        json_int_t id = json_is_integer(number) ? json_integer_value(number) : -1;
        if (id < 0 || id >= IDS) {
            snprintf(why, why_bytes, "added_tokens: entry %zu has no id of 0 .. %d", i,
                     IDS - 1);
            return false;
        }
        if (id > top) top = id;
    }
    t->bpe.vocab.ids = (int32_t)(top + 1);
    t->bpe.vocab.token = calloc((size_t)top + 2, sizeof *t->bpe.vocab.token);
    if (!t->bpe.vocab.token) snprintf(why, why_bytes, "out of memory for %lld ids", top + 1);
    return t->bpe.vocab.token != NULL;
}

static bool read_vocab(tokenizer *t, const json_t *words, char *why, size_t why_bytes)
{
    const char *name;
    json_t *value;
    bpe *b = &t->bpe;
    size_t bytes = 0;
    json_object_foreach((json_t *)words, name, value) bytes += strlen(name) + 1;
    char *at = t->strings = malloc(bytes + 1);
    if (!at || !vocab_index(&b->vocab, json_object_size(words))) {
        snprintf(why, why_bytes, "out of memory for %zu tokens", json_object_size(words));
        return false;
    }
    json_object_foreach((json_t *)words, name, value)
    {
        token *k = &b->vocab.token[json_integer_value(value)];
        if (k->is_known) {
            snprintf(why, why_bytes, "model.vocab: id %lld is \"%.*s\" and \"%s\"",
                     json_integer_value(value), (int)k->bytes, k->data, name);
            return false;
        }
        *k = (token){.data = at, .is_known = true, .byte = -1};
        if (b->is_byte_level) {
            k->bytes = (uint32_t)level_bytes(name, at);
        } else {
            k->bytes = (uint32_t)strlen(name);
            memcpy(at, name, k->bytes);
            k->byte = (int16_t)byte_token(name);
        }
        at += k->bytes;
        /* merging reaches nothing that has a character of no byte */
        if (!b->is_byte_level || is_level(name))
            vocab_enter(&b->vocab, (uint32_t)json_integer_value(value));
    }
    return true;
}

/* Ids of single bytes; with byte fallback those of <0x00> .. <0xFF>: all, or none counts. */
static bool read_byte_tokens(bpe *b, bool falls_back, char *why, size_t why_bytes)
{
    int missing = 0, last = 0;
    for (int i = 0; i < 256; i++) {
        char name[8] = {(char)i, 0};
        if (!b->is_byte_level) snprintf(name, sizeof name, "<0x%02X>", i);
        b->of_byte[i] = vocab_find(&b->vocab, name, b->is_byte_level ? 1 : 6);
        if (b->of_byte[i] < 0) missing++, last = i;
    }
    b->has_byte_tokens = !b->is_byte_level && falls_back && missing < 256;
    if (!b->has_byte_tokens || missing == 0) return true;
    snprintf(why, why_bytes, "model.byte_fallback: %d of 256 byte tokens are missing, <0x%02X>",
             missing, last);
    return false;
}

/* ---- merges ------------------------------------------------------------------------------ */

/* "a b" in older files, ["a", "b"] in newer ones. false: it is neither. */
static bool read_pair(const json_t *entry, char **hold, const char **left, const char **right)
{
    *hold = NULL;
    if (json_is_array(entry)) {
        *left = json_string_value(json_array_get(entry, 0));
        *right = json_string_value(json_array_get(entry, 1));
        return json_array_size(entry) == 2 && *left && *right;
    }
    if (!json_is_string(entry) || !(*hold = strdup(json_string_value(entry)))) return false;
    char *space = strchr(*hold, ' ');
    if (!space || strchr(space + 1, ' ')) return false;
    *space = 0;
    *left = *hold;
    *right = space + 1;
    return true;
}

static int64_t find_name(const bpe *b, const char *name, text *work)
{
    size_t bytes = strlen(name);
    if (!b->is_byte_level) return vocab_find(&b->vocab, name, bytes);
    if (!is_level(name)) return -1;
    work->bytes = 0;
    if (!text_add(work, name, bytes)) return -1;
    return vocab_find(&b->vocab, work->data, level_bytes(name, work->data));
}

static bool read_merge(bpe *b, const char *left, const char *right, int32_t rank, text *work)
{
    int64_t a = find_name(b, left, work), c = find_name(b, right, work), id;
    text whole = {0};
    if (a < 0 || c < 0) return false;
    bool good = text_add(&whole, left, strlen(left)) && text_add(&whole, right, strlen(right));
    id = good ? find_name(b, whole.data, work) : -1;
    free(whole.data);
    if (id < 0) return false;
    merges_enter(&b->merges, (uint32_t)a, (uint32_t)c, (uint32_t)id, rank);
    return true;
}

static bool read_merges(bpe *b, const json_t *list, char *why, size_t why_bytes)
{
    json_t *entry;
    size_t i;
    text work = {0};
    bool good = json_is_array(list) && json_array_size(list) < INT_MAX &&
                merges_make(&b->merges, json_array_size(list));
    if (!good) snprintf(why, why_bytes, "model.merges is no list, or out of memory");
    json_array_foreach((json_t *)list, i, entry)
    {
        char *hold;
        const char *left = "", *right = "";
        if (!good) break;
        bool is_pair = read_pair(entry, &hold, &left, &right);
        good = is_pair && read_merge(b, left, right, (int32_t)i, &work);
        if (!is_pair)
            snprintf(why, why_bytes, "model.merges[%zu] is no pair of tokens", i);
        else if (!good)
            snprintf(
                why, why_bytes,
                "model.merges[%zu]: \"%s\", \"%s\" or both together are not in model.vocab", i,
                left, right);
        free(hold);
    }
    free(work.data);
    return good;
}

/* ---- the model --------------------------------------------------------------------------- */

static bool is_empty_value(const json_t *value)
{
    return !value || json_is_null(value) ||
           (json_is_string(value) && !*json_string_value(value)) ||
           (json_is_number(value) && json_number_value(value) == 0);
}

static bool check_model(const json_t *model, char *why, size_t why_bytes)
{
    const json_t *type = json_object_get(model, "type");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0)) {
        snprintf(why, why_bytes, "model.type is \"%s\"; expected \"BPE\"",
                 json_is_string(type) ? json_string_value(type) : "");
        return false;
    }
    if (!known_keys(model,
                    "type dropout unk_token continuing_subword_prefix end_of_word_suffix "
                    "fuse_unk byte_fallback ignore_merges vocab merges",
                    "model", why, why_bytes))
        return false;
    static const char *const none[] = {"dropout", "continuing_subword_prefix",
                                       "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        if (!is_empty_value(json_object_get(model, none[i]))) {
            snprintf(why, why_bytes, "model.%s is set: that is not done here", none[i]);
            return false;
        }
    if (json_is_object(json_object_get(model, "vocab"))) return true;
    snprintf(why, why_bytes, "model.vocab is no object of tokens and ids");
    return false;
}

bool read_model(tokenizer *t, const json_t *model, char *why, size_t why_bytes)
{
    bpe *b = &t->bpe;
    const json_t *words = json_object_get(model, "vocab"),
                 *unknown = json_object_get(model, "unk_token");
    if (!check_model(model, why, why_bytes) ||
        !count_ids(t, words, json_object_get(t->file, "added_tokens"), why, why_bytes) ||
        !read_vocab(t, words, why, why_bytes) ||
        !read_byte_tokens(b, json_is_true(json_object_get(model, "byte_fallback")), why,
                          why_bytes) ||
        !read_merges(b, json_object_get(model, "merges"), why, why_bytes))
        return false;
    b->fuses_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    b->ignores_merges = json_is_true(json_object_get(model, "ignore_merges"));
    b->unknown = -1;
    if (json_is_string(unknown)) {
        text work = {0};
        b->unknown = find_name(b, json_string_value(unknown), &work);
        free(work.data);
        if (b->unknown < 0) {
            snprintf(why, why_bytes, "model.unk_token \"%s\" is not in model.vocab",
                     json_string_value(unknown));
            return false;
        }
    }
    if (bpe_make(b)) return true;
    snprintf(why, why_bytes, "out of memory for merging");
    return false;
}

/* ---- added tokens ------------------------------------------------------------------------ */

static bool json_flag(const json_t *entry, const char *name)
{
    return json_is_true(json_object_get(entry, name));
}

/* It may stand in the vocabulary too, under the same id. */
static bool check_added(const tokenizer *t, const json_t *entry, const char *name,
                        json_int_t id, char *why, size_t why_bytes)
{
    const json_t *model = json_object_get(t->file, "model");
    const json_t *other = json_object_get(json_object_get(model, "vocab"), name);
    if (other && json_integer_value(other) != id) {
        snprintf(why, why_bytes, "added_tokens: \"%s\" has id %lld, and %lld in model.vocab",
                 name, id, json_integer_value(other));
        return false;
    }
    if (json_flag(entry, "single_word")) {
        snprintf(why, why_bytes, "added_tokens: \"%s\" is a single_word: that is not done here",
                 name);
        return false;
    }
    return true;
}

static bool read_added_token(tokenizer *t, const json_t *entry, const char *name, uint32_t id)
{
    added_token a = {.id = id,
                     .strips_left = json_flag(entry, "lstrip"),
                     .strips_right = json_flag(entry, "rstrip"),
                     .is_normalised = json_flag(entry, "normalized")};
    added_set *set = a.is_normalised ? &t->late : &t->early;
    token *k = &t->bpe.vocab.token[id];
    text out = {0};
    if (a.is_normalised ? !normalise(t, name, strlen(name), &out)
                        : !text_add(&out, name, strlen(name)))
        return false;
    a.data = out.data;
    a.bytes = out.bytes;
    set->token[set->count++] = a;
    if (!k->is_known) {
        char *own = malloc(a.bytes + 1);
        if (!own) return false;
        memcpy(own, a.data, a.bytes);
        own[a.bytes] = 0;
        k->byte = (int16_t)(t->is_byte_level ? -1 : byte_token(own));
        k->bytes = (uint32_t)(t->is_byte_level ? level_bytes(a.data, own) : a.bytes);
        k->data = own;
        k->is_known = k->is_added = true;
    }
    k->is_special = json_flag(entry, "special");
    return true;
}

bool read_added(tokenizer *t, const json_t *list, char *why, size_t why_bytes)
{
    json_t *entry;
    size_t i, count = json_array_size(list);
    t->early.token = calloc(count + 1, sizeof *t->early.token);
    t->late.token = calloc(count + 1, sizeof *t->late.token);
    bool good = t->early.token && t->late.token;
    json_array_foreach((json_t *)list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "content"));
        json_int_t id = json_integer_value(json_object_get(entry, "id"));
        if (!good) break;
        if (!known_keys(entry, "id content single_word lstrip rstrip normalized special",
                        "added_tokens", why, why_bytes))
            return false;
        if (!name || !*name) {
            snprintf(why, why_bytes, "added_tokens: entry %zu has no content", i);
            return false;
        }
        if (!check_added(t, entry, name, id, why, why_bytes)) return false;
        good = read_added_token(t, entry, name, (uint32_t)id);
    }
    if (!good) snprintf(why, why_bytes, "out of memory for %zu added tokens", count);
    added_sort(&t->early);
    added_sort(&t->late);
    return good;
}
