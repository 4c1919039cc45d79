/* SPDX-License-Identifier: Apache-2.0 */
/* Characters: UTF-8, their classes, and the characters that stand for bytes in byte-level
 * vocabularies (GPT-2's: a byte that prints stands for itself, the other 68, ascending, are
 * U+0100 and up). */
#include "launch/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int utf8_next(const char *s, size_t n, uint32_t *code)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *code = u[0], 1;
    int bytes = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
    if (u[0] < 0xC2 || u[0] > 0xF4) return -1;
    /* the second byte excludes what is too long, surrogates, and what is beyond U+10FFFF */
    unsigned low = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    uint32_t value = u[0] & (0x7Fu >> bytes);
    for (int i = 1; i < bytes; i++) {
        if ((size_t)i == n) return 0;
        if (u[i] < low || u[i] > high) return -i;
        low = 0x80, high = 0xBF;
        value = value << 6 | (u[i] & 0x3Fu);
    }
    *code = value;
    return bytes;
}

uint32_t utf8_read(const char *s, size_t *bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *bytes = 1, u[0];
    if (u[0] < 0xE0) return *bytes = 2, (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu);
    if (u[0] < 0xF0)
        return *bytes = 3, (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
    *bytes = 4;
    return (u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu);
}

int utf8_write(uint32_t code, char out[4])
{
    int bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = bytes - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(first[bytes] | code);
    return bytes;
}

static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
           (byte >= 174 && byte <= 255);
}

int level_byte(uint32_t code)
{
    if (code < 256) return stands_for_itself(code) ? (int)code : -1;
    uint32_t nth = code - 256;
    for (uint32_t byte = 0; byte < 256; byte++)
        if (!stands_for_itself(byte) && nth-- == 0) return (int)byte;
    return -1;
}

enum { PAIRS = 100 };
static const struct {
    uint32_t first, count;
    int kind;
} range[] = {
#define RANGE(first, count, kind) {first, count, kind},
#include "launch/text/classes.inc"
#undef RANGE
};

uint8_t *classes_make(void)
{
    uint8_t *classes = calloc(CODES, 1);
    if (!classes) return NULL;
    for (size_t i = 0; i < sizeof range / sizeof range[0]; i++)
        for (uint32_t k = 0; k < range[i].count; k++)
            classes[range[i].first + k] = (uint8_t)(range[i].kind != PAIRS ? range[i].kind
                                                    : k % 2                ? LOWER
                                                                           : UPPER);
    return classes;
}

static bool grow(size_t *room, size_t need)
{
    if (need < *room) return false;
    *room = need + need / 2 + 64;
    return true;
}

bool text_add(text *t, const char *data, size_t bytes)
{
    size_t room = t->room;
    if (grow(&room, t->bytes + bytes)) {
        char *grown = realloc(t->data, room);
        if (!grown) return false;
        t->data = grown;
        t->room = room;
    }
    if (bytes) memcpy(t->data + t->bytes, data, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
    return true;
}

bool ids_add(token_ids *ids, uint32_t id)
{
    size_t room = (size_t)ids->room;
    if (grow(&room, (size_t)ids->count + 1)) {
        uint32_t *grown = realloc(ids->id, room * sizeof *grown);
        if (!grown) return false;
        ids->id = grown;
        ids->room = (int64_t)room;
    }
    ids->id[ids->count++] = id;
    return true;
}
