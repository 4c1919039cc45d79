/* SPDX-License-Identifier: Apache-2.0 */
/* Text into pieces, as the regular expressions of scanners.def do it: their alternatives in
 * order, the first that matches wins, each as greedy as the expression is. No alternative looks
 * further than the end of a run of one kind of character, and each run is looked at a few times
 * at most: time is linear whatever the text. */
#include "launch/text/tokenizer.h"

#include <string.h>

#define BANYAN_SCANNER(name, shorts, prefix, cases, marks, digits, ends, regex)                \
    {#name, regex, shorts, prefix, cases, marks, digits, ends},
const scanner scanner_table[] = {
#include "launch/text/scanners.def"
    {NULL, NULL, 0, 0, 0, 0, 0, 0}};
#undef BANYAN_SCANNER

const scanner *scanner_find(const char *regex)
{
    for (const scanner *s = scanner_table; s->name; s++)
        if (!strcmp(s->regex, regex)) return s;
    return NULL;
}

/* The text from the piece's beginning, and how it is read. */
typedef struct scan_view {
    const scanner *sc;
    const uint8_t *classes;
    const char *s;
    size_t n;
} scan_view;

/* The class of the character at i (i < n) and its width. */
static inline int class_at(const scan_view *v, size_t i, size_t *width)
{
    return v->classes[utf8_read(v->s + i, width)];
}

/* Sets of classes, as bits. */
#define BIT(kind) (1u << (kind))
enum { LETTERS = BIT(UPPER) | BIT(LOWER) | BIT(LETTER) };

static size_t run_of(const scan_view *v, size_t i, unsigned set)
{
    for (size_t width; i < v->n; i += width)
        if (!(BIT(class_at(v, i, &width)) & set)) break;
    return i;
}

/* 's 't 'm 'd 're 've 'll at i: its end; i: none. Folded, U+017F is an s. */
static size_t short_end(const scan_view *v, size_t i, bool folded)
{
    uint32_t c[2] = {0, 0};
    size_t end[2] = {0, 0}, width;
    if (i >= v->n || v->s[i] != '\'') return i;
    for (size_t k = 0, at = i + 1; k < 2 && at < v->n; k++, at += width) {
        c[k] = utf8_read(v->s + at, &width);
        end[k] = at + width;
        if (folded && c[k] == 0x17F) c[k] = 's';
        if (folded && c[k] >= 'A' && c[k] <= 'Z') c[k] += 'a' - 'A';
    }
    if (c[0] == 's' || c[0] == 't' || c[0] == 'm' || c[0] == 'd') return end[0];
    bool two = (c[0] == 'r' && c[1] == 'e') || (c[0] == 'v' && c[1] == 'e') ||
               (c[0] == 'l' && c[1] == 'l');
    return two ? end[1] : i;
}

/* Capitals and letters without case, then small letters and letters without case, one of them
 * at least ("Word", "word", "W" of none); from i. When nothing small follows the first run, the
 * expression goes back to the last letter in it that has no case. */
static size_t small_end(const scan_view *v, size_t i)
{
    size_t end = i, back = i, width;
    int kind = OTHER;
    for (; end < v->n; end += width) {
        kind = class_at(v, end, &width);
        if (!(BIT(kind) & (BIT(UPPER) | BIT(LETTER) | BIT(MARK)))) break;
        if (kind != UPPER) back = end + width;
    }
    if (end < v->n && kind == LOWER)
        return run_of(v, end, BIT(LOWER) | BIT(LETTER) | BIT(MARK));
    return back;
}

static size_t cased_end(const scan_view *v, size_t prefix)
{
    size_t end = 0;
    /* with the prefix, without it; then words of capitals alone, likewise */
    if (prefix && (end = small_end(v, prefix)) > prefix) return end;
    if ((end = small_end(v, 0)) > 0) return end;
    unsigned capitals = BIT(UPPER) | BIT(LETTER) | BIT(MARK);
    if (prefix && (end = run_of(v, prefix, capitals)) > prefix) return end;
    return run_of(v, 0, capitals);
}

static size_t word_end(const scan_view *v, size_t prefix)
{
    if (v->sc->cases) return cased_end(v, prefix);
    unsigned letters = LETTERS | (v->sc->marks ? BIT(MARK) : 0);
    size_t end = prefix ? run_of(v, prefix, letters) : 0;
    return end > prefix ? end : run_of(v, 0, letters);
}

static size_t number_end(const scan_view *v, size_t from)
{
    size_t end = from, width;
    for (int k = 0; end < v->n && (v->sc->digits == 0 || k < v->sc->digits); k++, end += width)
        if (class_at(v, end, &width) != NUMBER) break;
    return end;
}

/* What is neither blank nor letter nor number, a space before it perhaps, and line ends behind
 * it. */
static size_t sign_end(const scan_view *v)
{
    unsigned not = LETTERS | BIT(NUMBER) | BIT(SPACE) | (v->sc->marks ? BIT(MARK) : 0);
    size_t from = v->s[0] == ' ', end = run_of(v, from, ~not );
    if (end == from) return 0;
    while (v->sc->ends && end < v->n &&
           (v->s[end] == '\r' || v->s[end] == '\n' || (v->sc->ends == 2 && v->s[end] == '/')))
        end++;
    return end;
}

/* A run of blanks: to its last line end, if those count; else all of it but the last blank,
 * which goes with what follows; or that one alone. */
static size_t blank_end(const scan_view *v)
{
    size_t end = 0, last = 0, line = 0, width;
    for (; end < v->n && class_at(v, end, &width) == SPACE; end += width) {
        last = end;
        if (v->s[end] == '\r' || v->s[end] == '\n') line = end + 1;
    }
    if (line && v->sc->ends) return line;
    return end == v->n || last == 0 ? end : last;
}

size_t scan_piece(const scanner *sc, const uint8_t *classes, const char *s, size_t n)
{
    scan_view v = {sc, classes, s, n};
    size_t width, end;
    int kind = class_at(&v, 0, &width);
    if (sc->shorts == SHORT_EXACT || sc->shorts == SHORT_FOLDED) {
        end = short_end(&v, 0, sc->shorts == SHORT_FOLDED);
        if (end) return end;
    }
    bool any = sc->prefix == PREFIX_ANY && s[0] != '\r' && s[0] != '\n' &&
               !(BIT(kind) & (LETTERS | BIT(NUMBER)));
    end = word_end(&v, any || (sc->prefix == PREFIX_SPACE && s[0] == ' ') ? width : 0);
    if (end) return sc->shorts == SHORT_BEHIND ? short_end(&v, end, true) : end;
    size_t from = sc->prefix == PREFIX_SPACE && s[0] == ' ';
    end = number_end(&v, from);
    if (end > from) return end;
    end = sign_end(&v);
    return end ? end : blank_end(&v);
}

size_t scan_digits(const uint8_t *classes, bool single, const char *s, size_t n)
{
    size_t end = 0, width;
    for (bool first = true, digits = false; end < n; end += width, first = false) {
        int kind = classes[utf8_read(s + end, &width)];
        bool digit = kind == NUMBER || kind == LATE;
        if (first)
            digits = digit;
        else if (digit != digits || (digit && single))
            break;
    }
    return end;
}
