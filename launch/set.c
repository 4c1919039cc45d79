/* SPDX-License-Identifier: Apache-2.0 */
/* --set a.b=value: any field of the config, found through protobuf-c's descriptors, so that a
 * field added to the schema can be set without a line here.
 *
 * A message is a C struct; its descriptor gives, per field, the type, the offset, and for
 * optional scalars the offset of the flag `has_..`. Lists are a count (quantifier_offset) and a
 * pointer. */
#include "launch/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef const ProtobufCFieldDescriptor field_type;
typedef const ProtobufCMessageDescriptor message_type;

typedef struct field_place {
    ProtobufCMessage *message;
    field_type *field;
} field_place;

typedef struct complaint {
    char *text;
    size_t bytes;
} complaint;

static bool complain(const complaint *why, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static bool complain(const complaint *why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, why->bytes, format, args);
    va_end(args);
    return false;
}

static void *member(ProtobufCMessage *m, unsigned offset)
{
    return (char *)m + offset;
}

/* ---- the path ---------------------------------------------------------------------------- */

static bool unknown_field(message_type *type, const char *name, const complaint *why)
{
    const char *names[type->n_fields + 1];
    for (unsigned i = 0; i < type->n_fields; i++) names[i] = type->fields[i].name;
    names[type->n_fields] = NULL;
    const char *near = banyan_nearest(name, names);
    if (near)
        return complain(why, "no field \"%s\" in %s; did you mean \"%s\"?", name,
                        type->short_name, near);
    char list[400] = "";
    size_t used = 0;
    for (unsigned i = 0; i < type->n_fields && used < sizeof list; i++)
        used +=
            (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    return complain(why, "no field \"%s\" in %s; it has %s", name, type->short_name, list);
}

/* The sub-message of a field, made when it is not there. index -1: not a list. */
static ProtobufCMessage *enter(ProtobufCMessage *m, field_type *f, long index)
{
    message_type *type = f->descriptor;
    ProtobufCMessage **here = member(m, f->offset);
    if (index >= 0) {
        ProtobufCMessage ***list = member(m, f->offset);
        size_t *count = member(m, f->quantifier_offset);
        if ((size_t)index == *count) {
            void *grown = realloc(*list, (*count + 1) * sizeof **list);
            if (!grown) return NULL;
            *list = grown;
            (*list)[(*count)++] = NULL;
        }
        here = &(*list)[index];
    }
    if (!*here) {
        *here = malloc(type->sizeof_message);
        if (*here) type->message_init(*here);
    }
    return *here;
}

/* "[3]" at *path: its number; -1 when there is none, -2 when it is malformed. */
static long read_index(const char **path)
{
    if (**path != '[') return -1;
    char *end;
    errno = 0;
    long index = strtol(*path + 1, &end, 10);
    if (errno || end == *path + 1 || *end != ']' || index < 0) return -2;
    *path = end + 1;
    return index;
}

static bool walk(ProtobufCMessage *m, const char *path, field_place *out, const complaint *why)
{
    const char *rest = path;
    for (;;) {
        char name[64];
        size_t length = strcspn(rest, ".[");
        snprintf(name, sizeof name, "%.*s", (int)length, rest);
        field_type *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
        if (!f || length >= sizeof name) return unknown_field(m->descriptor, name, why);
        rest += length;
        bool is_list = f->label == PROTOBUF_C_LABEL_REPEATED;
        bool is_message = f->type == PROTOBUF_C_TYPE_MESSAGE;
        long index = read_index(&rest);
        if (index == -2 || (*rest && *rest != '.'))
            return complain(why, "\"%s\": expected a name, or a list and [number]", path);
        if (index >= 0 && !is_list) return complain(why, "\"%s\" is not a list", name);
        if (index >= 0 && !is_message)
            return complain(why, "\"%s\" is set as a whole: %s=a,b,c", name, name);
        if (!*rest && !is_message) return *out = (field_place){m, f}, true;
        if (!is_message) return complain(why, "\"%s\" has no fields of its own", name);
        if (is_list && index < 0)
            return complain(why, "\"%s\" is a list: %s[0] is its first", name, name);
        if (is_list && (size_t)index > *(size_t *)member(m, f->quantifier_offset))
            return complain(why, "%s[%ld]: the next new one is %s[%zu]", name, index, name,
                            *(size_t *)member(m, f->quantifier_offset));
        if (!*rest)
            return complain(why, "\"%s\" has fields; name one, as in %s.%s", path, path,
                            ((message_type *)f->descriptor)->fields[0].name);
        m = enter(m, f, index);
        if (!m) return complain(why, "out of memory");
        rest++;
    }
}

/* ---- the value --------------------------------------------------------------------------- */

static bool read_enum(field_type *f, const char *text, int *out, const complaint *why)
{
    const ProtobufCEnumDescriptor *type = f->descriptor;
    char list[200] = "";
    size_t used = 0;
    for (unsigned i = 0; i < type->n_values; i++) {
        if (!strcasecmp(text, type->values[i].name)) return *out = type->values[i].value, true;
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                     type->values[i].name);
    }
    return complain(why, "%s: \"%s\" is not one of %s", f->name, text, list);
}

/* Write one value of the field's type at `to`. */
static bool read_value(field_type *f, const char *text, void *to, const complaint *why)
{
    int64_t n = 0;
    char *end;
    double x;
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
        if (!number_read(text, INT32_MIN, INT32_MAX, &n)) break;
        return *(int32_t *)to = (int32_t)n, true;
    case PROTOBUF_C_TYPE_INT64:
        if (!number_read(text, INT64_MIN, INT64_MAX, &n)) break;
        return *(int64_t *)to = n, true;
    case PROTOBUF_C_TYPE_UINT64:
        if (!number_read(text, 0, UINT64_MAX, &n)) break;
        return *(uint64_t *)to = (uint64_t)n, true;
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_DOUBLE:
        x = strtod(text, &end);
        if (end == text || *end)
            return complain(why, "%s: \"%s\" is not a number", f->name, text);
        if (f->type == PROTOBUF_C_TYPE_FLOAT) return *(float *)to = (float)x, true;
        return *(double *)to = x, true;
    case PROTOBUF_C_TYPE_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false") && strcmp(text, "1") &&
            strcmp(text, "0"))
            return complain(why, "%s: \"%s\" is not true or false", f->name, text);
        return *(protobuf_c_boolean *)to = text[0] == 't' || text[0] == '1', true;
    case PROTOBUF_C_TYPE_ENUM: return read_enum(f, text, to, why);
    case PROTOBUF_C_TYPE_STRING: {
        char *copy = strdup(text), **here = to;
        if (!copy) return complain(why, "out of memory");
        if (*here != f->default_value) free(*here);
        return *here = copy, true;
    }
    default: return complain(why, "%s: a field of this type cannot be set", f->name);
    }
    return complain(why, "%s: \"%s\" is not %s integer (k, m and g are 1024, 1024^2, 1024^3)",
                    f->name, text,
                    f->type == PROTOBUF_C_TYPE_INT32   ? "a 32-bit"
                    : f->type == PROTOBUF_C_TYPE_INT64 ? "a 64-bit"
                                                       : "an unsigned");
}

static size_t value_bytes(field_type *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_STRING: return sizeof(char *);
    default: return 4;
    }
}

static void free_list(field_type *f, char *list, size_t count)
{
    for (size_t i = 0; f->type == PROTOBUF_C_TYPE_STRING && i < count; i++)
        free(((char **)(void *)list)[i]);
    free(list);
}

/* "a,b,c" replaces the list. */
static bool set_whole_list(field_place at, const char *text, const complaint *why)
{
    size_t *count = member(at.message, at.field->quantifier_offset), room = 1;
    char **list = member(at.message, at.field->offset);
    for (const char *c = text; *c; c++) room += *c == ',';
    char *fresh = calloc(room, value_bytes(at.field)), *copy = strdup(text), *rest = copy;
    size_t n = 0;
    bool good = fresh && copy;
    if (!good) complain(why, "out of memory");
    for (char *one; good && *text && (one = strsep(&rest, ",")); n++)
        good = read_value(at.field, one, fresh + n * value_bytes(at.field), why);
    free(copy);
    if (!good) {
        free_list(at.field, fresh, fresh ? n : 0);
        return false;
    }
    free_list(at.field, *list, *count);
    *list = fresh;
    *count = n;
    return true;
}

bool config_set(Banyan__Config *config, const char *path, const char *text, char *why_text,
                size_t why_bytes)
{
    complaint why = {why_text, why_bytes};
    field_place at;
    if (!walk(&config->base, path, &at, &why)) return false;
    if (at.field->label == PROTOBUF_C_LABEL_REPEATED) return set_whole_list(at, text, &why);
    if (!read_value(at.field, text, member(at.message, at.field->offset), &why)) return false;
    if (at.field->type != PROTOBUF_C_TYPE_STRING)
        *(protobuf_c_boolean *)member(at.message, at.field->quantifier_offset) = 1;
    return true;
}

const char *config_text(const Banyan__Config *config, const char *path)
{
    const ProtobufCMessage *m = &config->base;
    for (const char *dot; m && (dot = strchr(path, '.')); path = dot + 1) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
        field_type *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
        bool enters =
            f && f->type == PROTOBUF_C_TYPE_MESSAGE && f->label != PROTOBUF_C_LABEL_REPEATED;
        m = enters ? *(ProtobufCMessage *const *)((const char *)m + f->offset) : NULL;
    }
    field_type *f =
        m ? protobuf_c_message_descriptor_get_field_by_name(m->descriptor, path) : NULL;
    bool is_text =
        f && f->type == PROTOBUF_C_TYPE_STRING && f->label != PROTOBUF_C_LABEL_REPEATED;
    return is_text ? *(char *const *)((const char *)m + f->offset) : NULL;
}

/* ---- listing ----------------------------------------------------------------------------- */

static const char *type_word(field_type *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64: return "integer";
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_DOUBLE: return "number";
    case PROTOBUF_C_TYPE_BOOL: return "true or false";
    case PROTOBUF_C_TYPE_STRING: return "text";
    default: return "";
    }
}

static void print_fields(FILE *out, message_type *type, const char *prefix)
{
    for (unsigned i = 0; i < type->n_fields; i++) {
        field_type *f = &type->fields[i];
        bool is_list = f->label == PROTOBUF_C_LABEL_REPEATED;
        char path[128];
        snprintf(path, sizeof path, "%s%s", prefix, f->name);
        if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
            size_t used = strlen(path);
            snprintf(path + used, sizeof path - used, "%s.", is_list ? "[0]" : "");
            print_fields(out, f->descriptor, path);
            continue;
        }
        fprintf(out, "%-28s", path);
        if (f->type == PROTOBUF_C_TYPE_ENUM) {
            const ProtobufCEnumDescriptor *names = f->descriptor;
            for (unsigned n = 0; n < names->n_values; n++)
                fprintf(out, "%s%s", n ? ", " : "", names->values[n].name);
        } else {
            fputs(type_word(f), out);
        }
        fputs(is_list ? ", a list: a,b,c\n" : "\n", out);
    }
}

void config_print_fields(FILE *out)
{
    print_fields(out, &banyan__config__descriptor, "");
}
