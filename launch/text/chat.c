/* SPDX-License-Identifier: Apache-2.0 */
/* A question as a chat model expects it. Templates are programs in a language of their own;
 * here are the few layouts that nearly all of them come to, known by the special tokens that a
 * vocabulary has. */
#include "launch/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CODING_ANY, CODING_BYTES, CODING_FALLBACK };
enum { TRIM_NONE, TRIM_QUESTION, TRIM_ALL };

#define BANYAN_LAYOUT(name, needs, lacks, coding, trims, begin, system, user, answer, end)     \
    {#name, end, begin, system, user, answer, needs, lacks, coding, trims},
static const chat_layout layouts[] = {
#include "launch/text/layouts.def"
};
#undef BANYAN_LAYOUT

/* How many of these added tokens, parted by spaces, there are; *all: of how many. */
static int count_added(const tokenizer *t, const char *names, int *all)
{
    int found = 0;
    char name[64];
    for (*all = 0; *names; names += *names == ' ') {
        int length = (int)strcspn(names, " ");
        snprintf(name, sizeof name, "%.*s", length, names);
        found += tokenizer_added(t, name) >= 0;
        ++*all;
        names += length;
    }
    return found;
}

const chat_layout *chat_choose(const tokenizer *t, char *why, size_t why_bytes)
{
    int coding = t->is_byte_level ? CODING_BYTES : CODING_FALLBACK, all;
    size_t used = 0;
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        const chat_layout *l = &layouts[i];
        if (l->coding != CODING_ANY && l->coding != coding) continue;
        if (count_added(t, l->needs, &all) == all && count_added(t, l->lacks, &all) == 0)
            return l;
    }
    used = (size_t)snprintf(why, why_bytes,
                            "no known chat layout has this tokenizer's tokens; known:");
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0] && used < why_bytes; i++)
        if (i == 0 || strcmp(layouts[i].name, layouts[i - 1].name) != 0)
            used += (size_t)snprintf(why + used, why_bytes - used, " %s (%s)", layouts[i].name,
                                     layouts[i].needs);
    return NULL;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* `format` with the words in place of its %s. */
static bool fill_format(const char *format, const char *words, bool trims, text *out)
{
    const char *place = strstr(format, "%s");
    size_t bytes = strlen(words);
    while (trims && bytes && is_blank(words[bytes - 1])) bytes--;
    while (trims && bytes && is_blank(*words)) words++, bytes--;
    return text_add(out, format, (size_t)(place - format)) && text_add(out, words, bytes) &&
           text_add(out, place + 2, strlen(place + 2));
}

bool chat_frame(const chat_layout *layout, const char *system, text *before, text *after)
{
    const char *place = strstr(layout->user, "%s");
    return text_add(before, layout->begin, strlen(layout->begin)) &&
           (!system ||
            fill_format(layout->system, system, layout->trims == TRIM_ALL, before)) &&
           text_add(before, layout->user, (size_t)(place - layout->user)) &&
           text_add(after, place + 2, strlen(place + 2)) &&
           text_add(after, layout->answer, strlen(layout->answer));
}

bool chat_write(const chat_layout *layout, const char *system, const char *user, text *out)
{
    return text_add(out, layout->begin, strlen(layout->begin)) &&
           (!system || fill_format(layout->system, system, layout->trims == TRIM_ALL, out)) &&
           fill_format(layout->user, user, layout->trims != TRIM_NONE, out) &&
           text_add(out, layout->answer, strlen(layout->answer));
}

const chat_layout *chat_encode(tokenizer *t, const char *system, const char *user, size_t bytes,
                               token_ids *ids, char *why, size_t why_bytes)
{
    const chat_layout *layout = chat_choose(t, why, why_bytes);
    text laid = {0};
    bool good = layout != NULL;
    if (good && memchr(user, 0, bytes)) {
        snprintf(why, why_bytes, "a byte 0 in the question");
        good = false;
    }
    if (good && !chat_write(layout, system, user, &laid)) {
        snprintf(why, why_bytes, "out of memory for the question");
        good = false;
    }
    good = good && tokenizer_encode(t, laid.data, laid.bytes, false, ids, why, why_bytes);
    free(laid.data);
    return good ? layout : NULL;
}
