/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json: normalizer, pre_tokenizer, post_processor, decoder. Each is an object with a
 * type, or a Sequence of such, or null. What is not among the types here is an error with its
 * name. */
#include "launch/text/tokenizer.h"

#include <stdio.h>
#include <string.h>

typedef bool (*step_reader)(tokenizer *t, const json_t *step, const char *type, char *why,
                            size_t why_bytes);

/* The steps of one of the four, each by `read`. list: what a Sequence calls its steps. */
static bool each(tokenizer *t, const json_t *step, const char *what, const char *list,
                 step_reader read, char *why, size_t why_bytes)
{
    if (!step || json_is_null(step)) return true;
    const char *type = json_string_value(json_object_get(step, "type"));
    if (!type) {
        snprintf(why, why_bytes, "%s has no type", what);
        return false;
    }
    if (strcmp(type, "Sequence") != 0) {
        size_t used = (size_t)snprintf(why, why_bytes, "%s %s: ", what, type);
        return used < why_bytes && read(t, step, type, why + used, why_bytes - used);
    }
    json_t *one;
    size_t i;
    json_array_foreach(json_object_get(step, list), i, one)
    {
        if (!each(t, one, what, list, read, why, why_bytes)) return false;
    }
    return true;
}

static bool no(const char *words, char *why, size_t why_bytes)
{
    snprintf(why, why_bytes, "%s", words);
    return false;
}

static const char *string_of(const json_t *step, const char *key)
{
    return json_string_value(json_object_get(step, key));
}

static bool is_string(const json_t *step, const char *key, const char *value)
{
    const char *s = string_of(step, key);
    return s && !strcmp(s, value);
}

/* {"String": ".."}; NULL: something else. */
static const char *string_pattern(const json_t *step)
{
    return string_of(json_object_get(step, "pattern"), "String");
}

static bool read_normal(tokenizer *t, const json_t *step, const char *type, char *why,
                        size_t why_bytes)
{
    normal_step n = {0};
    if (t->normals == STEPS) return no("too many steps", why, why_bytes);
    if (!strcmp(type, "NFC")) {
        if (!known_keys(step, "type", "fields", why, why_bytes)) return false;
        n.kind = NORMAL_NFC;
        if (!t->canon) t->canon = canon_make();
        if (!t->canon) return no("out of memory", why, why_bytes);
    } else if (!strcmp(type, "Prepend")) {
        if (!known_keys(step, "type prepend", "fields", why, why_bytes)) return false;
        n = (normal_step){NORMAL_PREPEND, NULL, string_of(step, "prepend")};
        if (!n.to) return no("it has no prepend", why, why_bytes);
    } else if (!strcmp(type, "Replace")) {
        if (!known_keys(step, "type pattern content", "fields", why, why_bytes)) return false;
        n = (normal_step){NORMAL_REPLACE, string_pattern(step), string_of(step, "content")};
        if (!n.from || !*n.from || !n.to)
            return no("only strings are replaced here, by strings", why, why_bytes);
    } else {
        return no("not done here; expected NFC, Prepend, Replace", why, why_bytes);
    }
    t->normal[t->normals++] = n;
    return true;
}

/* ---- pre_tokenizer ----------------------------------------------------------------------- */

static bool read_split(const json_t *step, cut_step *c, char *why, size_t why_bytes)
{
    if (!known_keys(step, "type pattern behavior invert", "fields", why, why_bytes))
        return false;
    const char *regex = string_of(json_object_get(step, "pattern"), "Regex");
    bool inverts = json_is_true(json_object_get(step, "invert"));
    if (string_pattern(step)) {
        c->kind = CUT_BEHIND;
        c->blank = string_pattern(step);
        if (*c->blank && !inverts && is_string(step, "behavior", "MergedWithPrevious"))
            return true;
        return no("at a string only with behavior MergedWithPrevious", why, why_bytes);
    }
    c->kind = CUT_SCAN;
    c->scanner = regex ? scanner_find(regex) : NULL;
    if (!c->scanner) {
        snprintf(why, why_bytes,
                 "a pattern that is none of the known (launch/text/scanners.def): %.200s",
                 regex ? regex : "no Regex");
        return false;
    }
    /* The known ones match every character: nothing is left between matches. */
    if (is_string(step, "behavior", "Isolated") ||
        (is_string(step, "behavior", "Removed") && inverts))
        return true;
    return no("expected behavior Isolated, or Removed and inverted", why, why_bytes);
}

static bool read_metaspace(const json_t *step, cut_step *c, char *why, size_t why_bytes)
{
    static const char *const schemes[] = {"never", "first", "always"};
    const char *scheme = string_of(step, "prepend_scheme");
    if (!known_keys(step, "type replacement prepend_scheme split add_prefix_space str_rep",
                    "fields", why, why_bytes))
        return false;
    c->kind = CUT_BLANKS;
    c->blank = string_of(step, "replacement");
    c->splits = !json_is_false(json_object_get(step, "split"));
    c->begin = BEGIN_ALWAYS;
    if (!c->blank || !*c->blank) return no("it has no replacement", why, why_bytes);
    if (!scheme) {
        if (json_is_false(json_object_get(step, "add_prefix_space"))) c->begin = BEGIN_NEVER;
        return true;
    }
    for (c->begin = 0; c->begin < 3 && strcmp(scheme, schemes[c->begin]) != 0;) c->begin++;
    return c->begin < 3 || no("prepend_scheme is none of never, first, always", why, why_bytes);
}

static bool read_cut(tokenizer *t, const json_t *step, const char *type, char *why,
                     size_t why_bytes)
{
    cut_step c = {0};
    if (t->cuts == STEPS) return no("too many steps", why, why_bytes);
    if (t->bpe.is_byte_level) return no("a step behind ByteLevel", why, why_bytes);
    if (!strcmp(type, "Split")) {
        if (!read_split(step, &c, why, why_bytes)) return false;
    } else if (!strcmp(type, "Digits")) {
        if (!known_keys(step, "type individual_digits", "fields", why, why_bytes)) return false;
        c.kind = CUT_DIGITS;
        c.is_single = json_is_true(json_object_get(step, "individual_digits"));
    } else if (!strcmp(type, "ByteLevel")) {
        if (!known_keys(step, "type add_prefix_space trim_offsets use_regex", "fields", why,
                        why_bytes))
            return false;
        c.kind = CUT_BYTES;
        c.begin = json_is_false(json_object_get(step, "add_prefix_space")) ? BEGIN_NEVER
                                                                           : BEGIN_ALWAYS;
        if (!json_is_false(json_object_get(step, "use_regex"))) c.scanner = &scanner_table[0];
        t->bpe.is_byte_level = true;
    } else if (!strcmp(type, "Metaspace")) {
        if (!read_metaspace(step, &c, why, why_bytes)) return false;
    } else {
        return no("not done here; expected Split, Digits, ByteLevel, Metaspace", why,
                  why_bytes);
    }
    t->cut[t->cuts++] = c;
    return true;
}

/* ---- post_processor ---------------------------------------------------------------------- */

static bool read_special(tokenizer *t, const json_t *step, const char *name, token_ids *ids,
                         char *why, size_t why_bytes)
{
    const json_t *known = json_object_get(step, "special_tokens");
    json_t *list = json_object_get(json_object_get(known, name ? name : ""), "ids"), *one;
    size_t i;
    if (!json_array_size(list)) {
        snprintf(why, why_bytes, "special token \"%s\" has no ids", name ? name : "");
        return false;
    }
    json_array_foreach(list, i, one)
    {
        json_int_t id = json_is_integer(one) ? json_integer_value(one) : -1;
        if (id < 0 || id >= t->bpe.vocab.ids) {
            snprintf(why, why_bytes, "special token \"%s\" has id %lld; expected 0 .. %d", name,
                     id, (int)t->bpe.vocab.ids - 1);
            return false;
        }
        if (!ids_add(ids, (uint32_t)id)) return no("out of memory", why, why_bytes);
    }
    return true;
}

/* What is put before and behind one text. */
static bool read_post(tokenizer *t, const json_t *step, const char *type, char *why,
                      size_t why_bytes)
{
    if (!strcmp(type, "ByteLevel")) return true; /* of offsets, which nobody asks for */
    if (strcmp(type, "TemplateProcessing") != 0)
        return no("not done here; expected TemplateProcessing, ByteLevel", why, why_bytes);
    if (!known_keys(step, "type single pair special_tokens", "fields", why, why_bytes))
        return false;
    json_t *one;
    size_t i;
    int texts = 0;
    json_array_foreach(json_object_get(step, "single"), i, one)
    {
        const json_t *special = json_object_get(one, "SpecialToken");
        if (json_object_get(one, "Sequence")) {
            texts++;
        } else if (!read_special(t, step, string_of(special, "id"),
                                 texts ? &t->behind : &t->before, why, why_bytes)) {
            return false;
        }
    }
    return texts == 1 || no("expected the text once", why, why_bytes);
}

/* ---- decoder ----------------------------------------------------------------------------- */

static bool read_decoder(tokenizer *t, const json_t *step, const char *type, char *why,
                         size_t why_bytes)
{
    t->spaces = false;
    if (!strcmp(type, "ByteLevel")) {
        t->is_byte_level = true;
        return true;
    }
    if (!strcmp(type, "ByteFallback")) {
        t->falls_back = true;
        return true;
    }
    if (!strcmp(type, "Fuse")) {
        t->fuses = true;
        return true;
    }
    if (!strcmp(type, "Replace")) {
        if (t->blank || t->falls_back || !is_string(step, "content", " ") ||
            !string_pattern(step))
            return no("expected one, of a string by a space, before ByteFallback", why,
                      why_bytes);
        t->blank = string_pattern(step);
        return true;
    }
    if (!strcmp(type, "Metaspace")) {
        t->blank = string_of(step, "replacement");
        t->drops_first = !is_string(step, "prepend_scheme", "never") &&
                         !json_is_false(json_object_get(step, "add_prefix_space"));
        return t->blank || no("it has no replacement", why, why_bytes);
    }
    if (!strcmp(type, "Strip")) {
        const json_t *start = json_object_get(step, "start"),
                     *stop = json_object_get(step, "stop");
        if (!t->fuses || !is_string(step, "content", " ") || !json_is_integer(start) ||
            json_integer_value(stop) != 0)
            return no("expected spaces from the beginning, behind Fuse", why, why_bytes);
        t->strip = (int)json_integer_value(start);
        return true;
    }
    return no(
        "not done here; expected ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace", why,
        why_bytes);
}

bool read_steps(tokenizer *t, char *why, size_t why_bytes)
{
    t->spaces = true;
    return each(t, json_object_get(t->file, "normalizer"), "normalizer", "normalizers",
                read_normal, why, why_bytes) &&
           each(t, json_object_get(t->file, "pre_tokenizer"), "pre_tokenizer", "pretokenizers",
                read_cut, why, why_bytes) &&
           each(t, json_object_get(t->file, "decoder"), "decoder", "decoders", read_decoder,
                why, why_bytes);
}

bool read_ends(tokenizer *t, char *why, size_t why_bytes)
{
    return each(t, json_object_get(t->file, "post_processor"), "post_processor", "processors",
                read_post, why, why_bytes);
}
