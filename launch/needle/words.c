/* SPDX-License-Identifier: Apache-2.0 */
/* Haystack, needle, question and answer in words, as ids of a checkpoint's tokenizer. The
 * haystack is tokenised once, and needles are put between its ids: tokenising every prompt anew
 * takes longer than reading it, and gives no length that was asked for. What the text of a
 * prompt gives as a whole is found out apart (words_again).
 *
 *     prefix  haystack .. \n needle \n .. haystack  \n\n question  beginning of the answer
 *                                                                              -> answer
 *
 * With a chat's layout, its frame stands around all of it. Needles of a set are other people's:
 * JSON, an array or one object a line, with the words that they use. */
#define _GNU_SOURCE /* strcasestr */
#include "launch/needle/evaluate.h"
#include "launch/text/text.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { MOST_NEEDLES = 10000, REPLY = 24 };

typedef struct foreign_texts {
    tokenizer *tokenizer;
    char **answer; /* [facts] */
    int32_t facts;
    int64_t end; /* the id that ends a chat's answer; -1: none */
} foreign_texts;

/* What is being made. */
typedef struct words_making {
    const words_wish *wish;
    foreign_ids *out;
    foreign_texts *texts;
    text before, after; /* the frame of a chat; empty */
    char *why;
    size_t why_bytes;
} words_making;

void words_free(foreign_texts *t)
{
    for (int32_t i = 0; t && i < t->facts; i++) free(t->answer[i]);
    if (!t) return;
    free(t->answer);
    tokenizer_close(t->tokenizer);
    free(t);
}

static bool no_text_memory(words_making *k)
{
    snprintf(k->why, k->why_bytes, "out of memory for the texts");
    return false;
}

/* A text, or what the file of that name holds. */
static char *given_text(words_making *k, const char *given)
{
    size_t bytes;
    if (strcmp(given, "-") != 0 && access(given, F_OK) != 0) {
        char *copy = strdup(given);
        if (!copy) no_text_memory(k);
        return copy;
    }
    char *data = input_read(given, &bytes, k->why, k->why_bytes);
    if (data && strlen(data) != bytes) {
        snprintf(k->why, k->why_bytes, "%s: a byte 0; expected a text (--ids: token ids)",
                 given);
        free(data);
        data = NULL;
    }
    return data;
}

/* Without the white space around it, between `before` and `after`. */
static bool add_words(text *out, const char *before, const char *words, const char *after)
{
    size_t bytes = strlen(words);
    while (bytes && strchr(" \t\r\n", words[bytes - 1])) bytes--;
    while (bytes && strchr(" \t\r\n", *words)) words++, bytes--;
    return text_add(out, before, strlen(before)) && text_add(out, words, bytes) &&
           text_add(out, after, strlen(after));
}

static bool encode_words(words_making *k, const char *what, const text *t, bool with_ends,
                         id_list *out)
{
    token_ids ids = {0};
    char reason[512];
    if (!tokenizer_encode(k->texts->tokenizer, t->data ? t->data : "", t->bytes, with_ends,
                          &ids, reason, sizeof reason)) {
        snprintf(k->why, k->why_bytes, "the %s: %s", what, reason);
        free(ids.id);
        return false;
    }
    *out = (id_list){ids.id, ids.count};
    return true;
}

/* ---- prefix and haystack --------------------- */

static bool make_prefix(words_making *k)
{
    const words_wish *w = k->wish;
    text all = {0};
    char *given = w->prefix ? given_text(k, w->prefix) : NULL;
    bool good = !w->prefix || given;
    if (good && !text_add(&all, k->before.data ? k->before.data : "", k->before.bytes))
        good = no_text_memory(k);
    if (good && given && !add_words(&all, "", given, "\n\n")) good = no_text_memory(k);
    good = good && encode_words(k, "prefix", &all, !w->chat, &k->out->prefix);
    free(given);
    free(all.data);
    return good;
}

/* Tokens before which a line or a sentence ends. */
static bool find_pauses(words_making *k)
{
    const id_list *hay = &k->out->haystack;
    id_list *pauses = &k->out->pauses;
    token_decoder d = {.t = k->texts->tokenizer, .has_begun = true};
    text said = {0};
    bool good = (pauses->ids = malloc((size_t)hay->count * sizeof *pauses->ids)) != NULL;
    for (int64_t i = 0; good && i < hay->count; i++) {
        const char last = said.bytes ? said.data[said.bytes - 1] : '\n';
        if (strchr(".!?\n", last) && last) pauses->ids[pauses->count++] = (uint32_t)i;
        if (said.bytes) said.data[0] = last, said.bytes = 1;
        good = decoder_add(&d, hay->ids[i], &said);
    }
    free(said.data);
    return good || no_text_memory(k);
}

static bool make_haystack(words_making *k)
{
    size_t bytes;
    char *data = input_read(k->wish->haystack, &bytes, k->why, k->why_bytes);
    const text all = {data, bytes, bytes};
    bool good = data && encode_words(k, "haystack", &all, false, &k->out->haystack);
    if (good && k->out->haystack.count == 0) {
        snprintf(k->why, k->why_bytes, "%s: empty; expected a text", k->wish->haystack);
        good = false;
    }
    free(data);
    return good && find_pauses(k);
}

/* ---- needles --------------------- */

/* Which tokens of the needle say the answer: the same, or other ones with its text. */
static bool find_said(words_making *k, foreign_fact *fact, const char *answer)
{
    if (foreign_find(fact)) return true;
    token_decoder d = {.t = k->texts->tokenizer, .has_begun = true};
    text said = {0};
    int64_t *ends = malloc((size_t)fact->needle.count * sizeof *ends);
    bool good = ends != NULL;
    for (int64_t i = 0; good && i < fact->needle.count; i++) {
        good = decoder_add(&d, fact->needle.ids[i], &said);
        ends[i] = (int64_t)said.bytes;
    }
    good = good && text_add(&said, "", 1);
    const char *place = good ? strstr(said.data, answer) : NULL;
    if (place) {
        const int64_t from = place - said.data, to = from + (int64_t)strlen(answer);
        int64_t last = 0;
        while (ends[fact->said] <= from) fact->said++;
        for (last = fact->said; ends[last] < to; last++) continue;
        fact->said_count = last - fact->said + 1;
    }
    free(ends);
    free(said.data);
    return good || no_text_memory(k);
}

/* The question, and the answer as what follows it: tokens of both together, cut where they
 * differ from the question's own. */
static bool make_question(words_making *k, const char *question, const char *answer,
                          foreign_fact *fact)
{
    const char *begin = k->wish->begin ? k->wish->begin : "";
    text all = {0};
    id_list whole = {0};
    bool good = add_words(&all, "\n\n", question, "") &&
                text_add(&all, k->after.data, k->after.bytes) &&
                text_add(&all, begin, strlen(begin));
    if (!good) no_text_memory(k);
    good = good && encode_words(k, "question", &all, false, &fact->question);
    const bool apart = good && (!*begin || strchr(" \n", begin[strlen(begin) - 1]));
    if (good && !add_words(&all, apart ? "" : " ", answer, "")) good = no_text_memory(k);
    good = good && encode_words(k, "answer", &all, false, &whole);
    int64_t same = 0;
    while (good && same < fact->question.count && same < whole.count &&
           fact->question.ids[same] == whole.ids[same])
        same++;
    if (good && (same == whole.count || same == 0)) {
        snprintf(k->why, k->why_bytes, "the answer \"%s\": no token of its own", answer);
        good = false;
    }
    if (good) {
        fact->question.count = same;
        fact->answer.count = whole.count - same;
        fact->answer.ids = malloc((size_t)fact->answer.count * sizeof *whole.ids);
        if (!fact->answer.ids) good = no_text_memory(k);
    }
    if (good)
        memcpy(fact->answer.ids, whole.ids + same,
               (size_t)fact->answer.count * sizeof *whole.ids);
    free(whole.ids);
    free(all.data);
    return good;
}

static bool add_fact(words_making *k, const char *needle, const char *question,
                     const char *answer)
{
    foreign_ids *f = k->out;
    text words = {0}, plain = {0};
    foreign_fact *grown = realloc(f->fact, (size_t)(f->facts + 1) * sizeof *grown);
    if (!grown) return no_text_memory(k);
    f->fact = grown;
    foreign_fact *fact = &f->fact[f->facts++];
    memset(fact, 0, sizeof *fact);
    char **texts = realloc(k->texts->answer, (size_t)f->facts * sizeof *texts);
    if (!texts) return no_text_memory(k);
    k->texts->answer = texts;
    bool good = add_words(&words, "\n", needle, "\n") && add_words(&plain, "", answer, "") &&
                text_add(&plain, "", 1);
    if (!good) no_text_memory(k);
    if (good && plain.bytes == 1) {
        snprintf(k->why, k->why_bytes, "needle %d: an empty answer", (int)f->facts);
        good = false;
    }
    good = good && encode_words(k, "needle", &words, false, &fact->needle) &&
           make_question(k, question, plain.data, fact) && find_said(k, fact, plain.data);
    free(words.data);
    texts[f->facts - 1] = plain.data;
    k->texts->facts = f->facts;
    return good;
}

/* ---- sets --------------------- */

static const char *member_text(const json_t *object, const char *const names[4])
{
    for (int i = 0; i < 4 && names[i]; i++) {
        const char *text = json_string_value(json_object_get(object, names[i]));
        if (text) return text;
    }
    return NULL;
}

static bool add_object(words_making *k, const json_t *object, int number)
{
    static const char *const names[3][4] = {{"needle", NULL},
                                            {"question", "retrieval_question", NULL},
                                            {"answer", "arg2", "gold_standard_answer", NULL}};
    const char *text[3];
    for (int i = 0; i < 3; i++) {
        text[i] = member_text(object, names[i]);
        if (text[i]) continue;
        snprintf(k->why, k->why_bytes, "%s: needle %d: no text \"%s\"%s", k->wish->set, number,
                 names[i][0], i ? " (or under the names that other sets have)" : "");
        return false;
    }
    return add_fact(k, text[0], text[1], text[2]);
}

static bool read_set(words_making *k)
{
    size_t bytes;
    json_error_t error;
    char *data = input_read(k->wish->set, &bytes, k->why, k->why_bytes);
    if (!data) return false;
    json_t *array = json_loadb(data, bytes, 0, &error);
    int number = 0;
    bool good = true;
    if (json_is_array(array)) {
        size_t i;
        json_t *object;
        json_array_foreach(array, i, object) good = good && add_object(k, object, ++number);
    } else {
        char *rest = data;
        for (char *line; good && (line = strsep(&rest, "\n"));) {
            if (!line[strspn(line, " \t\r")]) continue;
            json_t *object = json_loads(line, 0, &error);
            if (!object)
                snprintf(k->why, k->why_bytes, "%s: line %d: %s", k->wish->set, number + 1,
                         error.text);
            good = object && add_object(k, object, number + 1);
            number++;
            json_decref(object);
        }
    }
    if (good && (number == 0 || number > MOST_NEEDLES)) {
        snprintf(k->why, k->why_bytes, "%s: %d needles; expected 1 .. %d", k->wish->set, number,
                 MOST_NEEDLES);
        good = false;
    }
    json_decref(array);
    free(data);
    return good;
}

/* ---- all of it --------------------- */

static bool make_frame(words_making *k)
{
    if (!k->wish->chat) return text_add(&k->after, "\n", 1) || no_text_memory(k);
    const chat_layout *layout = chat_choose(k->texts->tokenizer, k->why, k->why_bytes);
    if (!layout) return false;
    k->texts->end = tokenizer_added(k->texts->tokenizer, layout->end);
    return chat_frame(layout, k->wish->system, &k->before, &k->after) || no_text_memory(k);
}

static bool read_asked_fact(words_making *k)
{
    const char *const given[] = {k->wish->needle, k->wish->question, k->wish->answer};
    char *text[3] = {NULL};
    bool good = true;
    for (int i = 0; good && i < 3; i++) good = (text[i] = given_text(k, given[i])) != NULL;
    good = good && add_fact(k, text[0], text[1], text[2]);
    for (int i = 0; i < 3; i++) free(text[i]);
    return good;
}

bool words_read(const words_wish *w, foreign_ids *out, char *why, size_t why_bytes)
{
    words_making k = {.wish = w, .out = out, .why = why, .why_bytes = why_bytes};
    out->texts = k.texts = calloc(1, sizeof *k.texts);
    if (!k.texts) return no_text_memory(&k);
    k.texts->end = -1;
    out->reply = REPLY;
    k.texts->tokenizer = tokenizer_open(w->dir, why, why_bytes);
    bool good = k.texts->tokenizer && make_frame(&k) && make_prefix(&k) && make_haystack(&k) &&
                (w->set ? read_set(&k) : read_asked_fact(&k));
    free(k.before.data);
    free(k.after.data);
    return good;
}

/* ---- what was said --------------------- */

static bool spell(const foreign_texts *t, const uint32_t *ids, int64_t count, bool skips,
                  text *out)
{
    token_decoder d = {.t = t->tokenizer, .has_begun = true, .skips_special = skips};
    bool good = true;
    for (int64_t i = 0; good && i < count; i++) good = decoder_add(&d, ids[i], out);
    return good && decoder_end(&d, out);
}

char *words_reply(const foreign_texts *t, int32_t fact, const uint32_t *ids, int64_t count,
                  bool *contains)
{
    text said = {0};
    int64_t n = 0;
    while (n < count && ids[n] != t->end) n++;
    bool good = spell(t, ids, n, true, &said) && text_add(&said, "", 1);
    *contains = good && strcasestr(said.data, t->answer[fact]);
    if (good) return said.data;
    free(said.data);
    return NULL;
}

bool words_again(const foreign_texts *t, const id_list *prompt, const id_list *needle,
                 int64_t *tokens, bool *stands)
{
    text said = {0};
    token_ids ids = {0};
    char why[256];
    bool good =
        spell(t, prompt->ids, prompt->count, false, &said) &&
        tokenizer_encode(t->tokenizer, said.data, said.bytes, false, &ids, why, sizeof why);
    *tokens = ids.count;
    *stands = false;
    for (int64_t i = 0; good && !*stands && i + needle->count <= ids.count; i++)
        *stands = !memcmp(ids.id + i, needle->ids, (size_t)needle->count * sizeof *ids.id);
    free(said.data);
    free(ids.id);
    return good;
}

bool foreign_find(foreign_fact *fact)
{
    const id_list *a = &fact->answer, *n = &fact->needle;
    fact->said = 0;
    fact->said_count = n->count;
    for (int64_t i = 0; i + a->count <= n->count; i++)
        if (memcmp(n->ids + i, a->ids, (size_t)a->count * sizeof *a->ids) == 0) {
            fact->said = i;
            fact->said_count = a->count;
            return true;
        }
    return false;
}
