/* SPDX-License-Identifier: Apache-2.0 */
/* config.json: JSON as Python's json module writes and reads it, and its fields. */
#include "launch/model/hf_config.h"
#include "launch/model/folder.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the file ---------------------------------------------------------------------------- */

char *hf_read(const char *path, size_t *bytes, char *why, size_t why_bytes)
{
    enum { MOST = 64 << 20 };
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t room = 1 << 16, have = 0;
    while (f && room <= MOST) {
        char *grown = realloc(text, room + 1);
        if (!grown) break;
        text = grown;
        have += fread(text + have, 1, room - have, f);
        if (have < room) break;
        room *= 2;
    }
    if (!f || !text || ferror(f) || have == room) {
        snprintf(why, why_bytes, "%s: %s", path, strerror(f && have == room ? EFBIG : errno));
        free(text);
        text = NULL;
    }
    if (text) text[have] = 0, *bytes = have;
    if (f) fclose(f);
    return text;
}

/* Python writes Infinity, -Infinity and NaN, which JSON has not: they become texts, so that
 * a field that nobody asks for does no harm and one that is asked for is quoted in its
 * fault. */
static char *without_infinities(char *text)
{
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    char *out = malloc(2 * strlen(text) + 1), *to = out;
    bool quoted = false;
    for (const char *p = text; out && *p;) {
        size_t length = 0;
        for (int i = 0; !quoted && !length && i < 3; i++)
            if (!strncmp(p, words[i], strlen(words[i]))) length = strlen(words[i]);
        if (length) {
            to += sprintf(to, "\"%.*s\"", (int)length, p);
            p += length;
            continue;
        }
        if (quoted && *p == '\\' && p[1])
            *to++ = *p++;
        else if (*p == '"')
            quoted = !quoted;
        *to++ = *p++;
    }
    if (out) *to = 0;
    free(text);
    return out;
}

bool hf_config_open(const char *dir, hf_config *out, char *why, size_t why_bytes)
{
    return hf_file_open(dir, "config.json", out, why, why_bytes);
}

bool hf_file_open(const char *dir, const char *name, hf_config *out, char *why,
                  size_t why_bytes)
{
    json_error_t error;
    *out = (hf_config){.why = why, .why_bytes = why_bytes, .failed = true};
    snprintf(out->path, sizeof out->path, "%s/%s", dir, name);
    size_t bytes;
    char *text = hf_read(out->path, &bytes, why, why_bytes);
    bool is_other = text ? folder_is_pointer(out->path, text, bytes, why, why_bytes)
                         : access(out->path, F_OK) && folder_explain(dir, why, why_bytes);
    if (!text || is_other) {
        free(text);
        return false;
    }
    text = without_infinities(text);
    if (!text) {
        snprintf(why, why_bytes, "%s: out of memory", out->path);
        return false;
    }
    out->root =
        json_loads(text, 0, &error); /* of two equal keys the last counts, as in Python */
    free(text);
    if (!out->root)
        snprintf(why, why_bytes, "%s: line %d, column %d: %s", out->path, error.line,
                 error.column, error.text);
    else if (!json_is_object(out->root))
        snprintf(why, why_bytes, "%s: no JSON object", out->path);
    out->failed = !json_is_object(out->root);
    if (out->failed) hf_config_close(out);
    return !out->failed;
}

void hf_config_close(hf_config *c)
{
    json_decref(c->root);
    c->root = NULL;
}

/* ---- fields ------------------------------------------------------------------------------ */

void hf_out_of_memory(hf_config *c)
{
    if (!c->failed) snprintf(c->why, c->why_bytes, "out of memory");
    c->failed = true;
}

void hf_fail(hf_config *c, const char *field, const json_t *value, const char *want)
{
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    if (!c->failed)
        snprintf(c->why, c->why_bytes, "%s: %s is %.300s; expected %s", c->path, field,
                 text ? text : "missing", want);
    c->failed = true;
    free(text);
}

bool hf_has(const hf_config *c, const json_t *object, const char *field)
{
    return json_object_get(object ? object : c->root, field) != NULL;
}

const json_t *hf_get(const hf_config *c, const json_t *object, const char *field)
{
    const json_t *value = json_object_get(object ? object : c->root, field);
    return json_is_null(value) ? NULL : value;
}

int32_t hf_count(hf_config *c, const json_t *object, const char *field, int32_t absent)
{
    const json_t *value = hf_get(c, object, field);
    json_int_t n = json_integer_value(value);
    if (!value && absent >= 0) return absent;
    if (json_is_integer(value) && n >= 1 && n <= INT32_MAX) return (int32_t)n;
    hf_fail(c, field, value, "a positive integer");
    return 1;
}

int32_t hf_count_either(hf_config *c, const char *field, const char *other, int32_t absent)
{
    const int32_t count = hf_count(c, NULL, field, hf_count(c, NULL, other, absent));
    char want[128];
    snprintf(want, sizeof want, "the same as in %s, or one of the two", field);
    if (!c->failed && hf_get(c, NULL, other) && hf_count(c, NULL, other, absent) != count)
        hf_fail(c, other, hf_get(c, NULL, other), want);
    return count;
}

double hf_number(hf_config *c, const json_t *object, const char *field, double absent)
{
    const json_t *value = hf_get(c, object, field);
    if (!value) return absent;
    if (json_is_number(value) && json_number_value(value) > 0) return json_number_value(value);
    hf_fail(c, field, value, "a positive number");
    return absent;
}

bool hf_truth(hf_config *c, const json_t *object, const char *field, bool absent)
{
    const json_t *value = hf_get(c, object, field);
    if (!value) return absent;
    if (json_is_boolean(value)) return json_is_true(value);
    hf_fail(c, field, value, "true or false");
    return absent;
}

const char *hf_text(hf_config *c, const json_t *object, const char *field, const char *absent)
{
    const json_t *value = hf_get(c, object, field);
    if (!value) return absent;
    if (json_is_string(value)) return json_string_value(value);
    hf_fail(c, field, value, "a text");
    return absent;
}

bool hf_numbers(hf_config *c, const json_t *object, const char *field, int32_t count,
                double *out)
{
    const json_t *value = hf_get(c, object, field);
    char want[64];
    bool good = json_array_size(value) == (size_t)count;
    if (!value) return false;
    for (int32_t i = 0; good && i < count; i++) {
        out[i] = json_number_value(json_array_get(value, (size_t)i));
        good = out[i] > 0 && isfinite(out[i]);
    }
    snprintf(want, sizeof want, "a list of %d positive numbers", (int)count);
    if (!good) hf_fail(c, field, value, want);
    return good;
}

int hf_choice(hf_config *c, const char *field, const char *text, const char *const *words)
{
    char list[512] = "one of ";
    for (int i = 0; words[i]; i++) {
        if (!strcmp(text, words[i])) return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "",
                 words[i]);
    }
    json_t *value = json_string(text);
    hf_fail(c, field, value, list);
    json_decref(value);
    return 0;
}
