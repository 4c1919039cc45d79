/* SPDX-License-Identifier: Apache-2.0 */
/* Normalisation form C (Unicode Standard Annex 15): take apart, put marks in the order of their
 * combining classes, put together again.
 *
 * No character below U+0300 is changed by what stands before it, so a text is cut there: only a
 * stretch of characters from U+0300 on, and the one character before it, is looked at. Hangul
 * is arithmetic (The Unicode Standard, 3.12). */
#include "launch/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum {
    FIRST = 0x300,
    LEADS = 19,
    VOWELS = 21,
    TAILS = 28, /* no tail is the first */
    HANGUL = 0xAC00,
    LEAD = 0x1100,
    VOWEL = 0x1161,
    TAIL = 0x11A7,
    BUCKETS = 4096 /* of the pairs that are put together: below 1024 */
};

static const struct {
    uint32_t first, count;
    uint8_t order;
} order_of[] = {
#define CLASS(first, count, order) {first, count, order},
#define MAP(code, a, b, composes)
#include "launch/text/canon.inc"
#undef CLASS
#undef MAP
};

static const struct map {
    uint32_t code, a, b;
    int composes;
} map[] = {
#define CLASS(first, count, order)
#define MAP(code, a, b, composes) {code, a, b, composes},
#include "launch/text/canon.inc"
#undef CLASS
#undef MAP
};

struct canon {
    uint8_t order[CODES];
    uint16_t apart[CODES];      /* index of map + 1 */
    uint16_t together[BUCKETS]; /* index of map + 1, by hash of (a, b) */
};

static size_t pair_bucket(uint32_t a, uint32_t b)
{
    return (size_t)((((uint64_t)a << 21 | b) * 0x9E3779B97F4A7C15u) >> 52);
}

canon *canon_make(void)
{
    canon *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    for (size_t i = 0; i < sizeof order_of / sizeof order_of[0]; i++)
        memset(c->order + order_of[i].first, order_of[i].order, order_of[i].count);
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        c->apart[map[i].code] = (uint16_t)(i + 1);
        if (!map[i].composes) continue;
        size_t s = pair_bucket(map[i].a, map[i].b);
        while (c->together[s]) s = (s + 1) % BUCKETS;
        c->together[s] = (uint16_t)(i + 1);
    }
    return c;
}

/* A stretch, as code points with their classes. */
typedef struct code_points {
    uint32_t *code;
    size_t count, room;
} code_points;

static bool push(code_points *s, uint32_t code)
{
    if (s->count == s->room) {
        size_t room = 2 * s->room + 256;
        uint32_t *grown = realloc(s->code, room * sizeof *grown);
        if (!grown) return false;
        s->code = grown;
        s->room = room;
    }
    s->code[s->count++] = code;
    return true;
}

static bool take_apart(const canon *c, uint32_t code, code_points *out)
{
    uint32_t h = code - HANGUL;
    if (h < LEADS * VOWELS * TAILS)
        return push(out, LEAD + h / (VOWELS * TAILS)) &&
               push(out, VOWEL + h / TAILS % VOWELS) &&
               (h % TAILS == 0 || push(out, TAIL + h % TAILS));
    if (!c->apart[code]) return push(out, code);
    const struct map *m = &map[c->apart[code] - 1];
    return take_apart(c, m->a, out) && (!m->b || push(out, m->b)); /* b is never taken apart */
}

/* Marks by class, equal ones as they stand: a counting sort, for runs of marks of any
 * length. */
static bool put_in_order(const canon *c, uint32_t *code, size_t count)
{
    bool sorted = true;
    for (size_t i = 1; i < count && sorted; i++)
        sorted = c->order[code[i - 1]] <= c->order[code[i]];
    if (sorted) return true;
    size_t at[257] = {0};
    uint32_t *copy = malloc(count * sizeof *copy);
    if (!copy) return false;
    memcpy(copy, code, count * sizeof *copy);
    for (size_t i = 0; i < count; i++) at[c->order[code[i]] + 1]++;
    for (int k = 1; k < 257; k++) at[k] += at[k - 1];
    for (size_t i = 0; i < count; i++) code[at[c->order[copy[i]]]++] = copy[i];
    free(copy);
    return true;
}

static uint32_t put_together(const canon *c, uint32_t a, uint32_t b) /* 0: they do not join */
{
    if (a - LEAD < LEADS && b - VOWEL < VOWELS)
        return HANGUL + ((a - LEAD) * VOWELS + (b - VOWEL)) * TAILS;
    uint32_t h = a - HANGUL;
    if (h < LEADS * VOWELS * TAILS && h % TAILS == 0 && b - TAIL - 1 < TAILS - 1)
        return a + (b - TAIL);
    for (size_t s = pair_bucket(a, b); c->together[s]; s = (s + 1) % BUCKETS) {
        const struct map *m = &map[c->together[s] - 1];
        if (m->a == a && m->b == b) return m->code;
    }
    return 0;
}

/* D117: a character joins the last starter unless something of its class or higher is
 * between. */
static void compose(const canon *c, code_points *s)
{
    size_t kept = 0, starter = SIZE_MAX;
    int last = -1; /* the class of what was kept last behind the starter; -1: nothing */
    for (size_t i = 0; i < s->count; i++) {
        uint32_t code = s->code[i];
        int order = c->order[code];
        uint32_t joined = 0;
        if (starter != SIZE_MAX && last < order)
            joined = put_together(c, s->code[starter], code);
        if (joined) {
            s->code[starter] = joined;
            continue;
        }
        if (order == 0) {
            starter = kept;
            last = -1;
        } else {
            last = order;
        }
        s->code[kept++] = code;
    }
    s->count = kept;
}

static bool add_stretch(const canon *c, const char *data, size_t bytes, code_points *s,
                        text *out)
{
    s->count = 0;
    for (size_t i = 0, width; i < bytes; i += width)
        if (!take_apart(c, utf8_read(data + i, &width), s)) return false;
    for (size_t i = 0; i < s->count;) {
        size_t end = i;
        while (end < s->count && c->order[s->code[end]]) end++;
        if (!put_in_order(c, s->code + i, end - i)) return false;
        i = end + (end == i);
    }
    compose(c, s);
    for (size_t i = 0; i < s->count; i++) {
        char utf8[4];
        if (!text_add(out, utf8, (size_t)utf8_write(s->code[i], utf8))) return false;
    }
    return true;
}

bool nfc_add(const canon *c, const char *data, size_t bytes, text *out)
{
    code_points s = {0};
    bool good = true;
    for (size_t i = 0; good && i < bytes;) {
        size_t last = i, end = i,
               width = 0; /* plain characters i .. end-1, the last of them at `last` */
        while (end < bytes && utf8_read(data + end, &width) < FIRST) {
            last = end;
            end += width;
        }
        if (end == bytes) {
            good = text_add(out, data + i, bytes - i);
            break;
        }
        good = text_add(out, data + i, last - i);
        while (end < bytes && utf8_read(data + end, &width) >= FIRST) end += width;
        good = good && add_stretch(c, data + last, end - last, &s, out);
        i = end;
    }
    free(s.code);
    return good;
}
