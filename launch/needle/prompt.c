/* SPDX-License-Identifier: Apache-2.0 */
/* What is read: a haystack of random words, needles spliced in, and the proof that each trigram
 * which the model will look for occurs where its needle is and nowhere else.
 *
 * The constructed model answers token by token: its row at token t looks for the place where
 * ids t-2, t-1, t stood before, and copies what followed. An answer v1 v2 v3 v4 . to the
 * question <Q> k1 k2 k3 <V> thus looks up the five trigrams
 *
 *     k2 k3 <V>   k3 <V> v1   <V> v1 v2   v1 v2 v3   v2 v3 v4
 *
 * A second occurrence would get half of the mass, and a queried trigram of an absent key would
 * be found. Random words collide seldom, but among millions of tokens made of distractors
 * they do; so the haystack is scanned for the queried trigrams (a bitmap of hashes, then binary
 * search), a word of each wrong occurrence is drawn anew, and the scan repeated until it is
 * clean. Ids are below 2^21, so that three make one 63-bit number. */
#include "launch/needle/needle.h"

#include <stdlib.h>
#include <string.h>

uint64_t trigram_code(uint32_t a, uint32_t b, uint32_t c)
{
    return (uint64_t)a << 42 | (uint64_t)b << 21 | c;
}

static int by_code(const void *a, const void *b)
{
    const trigram *x = a, *y = b;
    if (x->code != y->code) return x->code < y->code ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

void trigram_sort(trigram *set, int32_t count)
{
    qsort(set, (size_t)count, sizeof *set, by_code);
}

static const trigram *trigram_find(const trigram *set, int32_t count, uint64_t code)
{
    int32_t low = 0, high = count;
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if (set[mid].code < code)
            low = mid + 1;
        else
            high = mid;
    }
    return low < count && set[low].code == code ? &set[low] : NULL;
}

enum { BITS = 1 << 16 };

static uint32_t bit_of(uint64_t code)
{
    return (uint32_t)((code * 0x9e3779b97f4a7c15u) >> 48);
}

int64_t trigram_fault(const trigram *set, int32_t count, const prompt *p, int64_t from)
{
    uint8_t bits[BITS / 8];
    memset(bits, 0, sizeof bits);
    for (int32_t i = 0; i < count; i++) {
        uint32_t bit = bit_of(set[i].code);
        bits[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
    for (int64_t t = from < 2 ? 2 : from; t < p->count; t++) {
        uint64_t code = trigram_code(p->ids[t - 2], p->ids[t - 1], p->ids[t]);
        uint32_t bit = bit_of(code);
        if (!(bits[bit / 8] >> bit % 8 & 1)) continue;
        const trigram *found = trigram_find(set, count, code);
        if (!found || found->at == t) continue;
        if (found->at == TRIGRAM_FIXED && p->fixed[t] && p->fixed[t - 1] && p->fixed[t - 2])
            continue;
        return t;
    }
    return -1;
}

static uint32_t any_word(uint64_t *random)
{
    return CONSTRUCTED_WORDS +
           (uint32_t)needle_below(random, CONSTRUCTED_VOCAB - CONSTRUCTED_WORDS);
}

bool prompt_settle(prompt *p, const trigram *set, int32_t count, uint64_t *random, char *why,
                   size_t why_bytes)
{
    enum { PASSES = 64 };
    for (int pass = 0; pass < PASSES; pass++) {
        int64_t t = -1, from = 0;
        int32_t repaired = 0;
        while ((t = trigram_fault(set, count, p, from)) >= 0) {
            int64_t change = t;
            while (change > t - 3 && p->fixed[change]) change--;
            if (change == t - 3) {
                snprintf(why, why_bytes,
                         "a queried trigram occurs twice inside needles, at token %lld",
                         (long long)t);
                return false;
            }
            p->ids[change] = any_word(random);
            repaired++;
            from = t - 2;
        }
        if (!repaired) return true;
    }
    snprintf(why, why_bytes, "no haystack without a second occurrence after %d passes", PASSES);
    return false;
}

bool prompt_begin(int64_t count, uint64_t *random, prompt *out, char *why, size_t why_bytes)
{
    memset(out, 0, sizeof *out);
    out->count = count;
    out->ids = malloc((size_t)count * sizeof *out->ids);
    out->fixed = calloc((size_t)count, 1);
    if (!out->ids || !out->fixed) {
        prompt_free(out);
        snprintf(why, why_bytes, "out of memory for a haystack of %lld tokens",
                 (long long)count);
        return false;
    }
    for (int64_t t = 0; t < count; t++)
        out->ids[t] = t < NEEDLE_FIRST ? CONSTRUCTED_BOS : any_word(random);
    for (int64_t t = 0; t < NEEDLE_FIRST && t < count; t++) out->fixed[t] = 1;
    return true;
}

void prompt_free(prompt *p)
{
    free(p->ids);
    free(p->fixed);
    free(p->fact);
    free(p->absent);
    memset(p, 0, sizeof *p);
}

void prompt_splice(prompt *p, int64_t first, const uint32_t *ids, int32_t count)
{
    memcpy(p->ids + first, ids, (size_t)count * sizeof *ids);
    memset(p->fixed + first, 1, (size_t)count);
}

bool prompt_words(uint64_t *random, uint32_t *words, int32_t count, char *why, size_t why_bytes)
{
    uint8_t taken[CONSTRUCTED_VOCAB / 8] = {0};
    if (count > CONSTRUCTED_VOCAB / 2) {
        snprintf(why, why_bytes, "%d different words are needed, at most %d can be had", count,
                 CONSTRUCTED_VOCAB / 2);
        return false;
    }
    for (int32_t i = 0; i < count; i++) {
        do words[i] = any_word(random);
        while (taken[words[i] / 8] >> words[i] % 8 & 1);
        taken[words[i] / 8] |= (uint8_t)(1u << words[i] % 8);
    }
    return true;
}

uint32_t prompt_answer(const needle_fact *fact, int32_t index)
{
    return index < 4 ? fact->value[index] : CONSTRUCTED_DOT;
}

void prompt_question(const needle_fact *fact, uint32_t *ids)
{
    ids[0] = CONSTRUCTED_QUESTION;
    memcpy(ids + 1, fact->key, sizeof fact->key);
    ids[4] = CONSTRUCTED_VALUE;
    memcpy(ids + NEEDLE_QUESTION, fact->value, sizeof fact->value);
}

static void fact_tokens(const needle_fact *fact, uint32_t ids[NEEDLE_TOKENS])
{
    prompt_question(fact, ids);
    ids[0] = CONSTRUCTED_KEY;
    ids[NEEDLE_TOKENS - 1] = CONSTRUCTED_DOT;
}

/* A needle with another key that shares the second or the third word, or <V> and the rest, with
 * a queried one: the nearest misses that exist. */
static void near_miss(const needle_fact *fact, uint64_t *random, uint32_t ids[NEEDLE_TOKENS])
{
    needle_fact other;
    for (int i = 0; i < 3; i++) other.key[i] = any_word(random);
    for (int i = 0; i < 4; i++) other.value[i] = any_word(random);
    int64_t kind = needle_below(random, 4);
    if (kind == 0) other.key[1] = fact->key[1];
    if (kind == 1) other.key[2] = fact->key[2];
    if (kind == 2) other.key[0] = fact->key[0], other.key[1] = fact->key[1];
    if (kind == 3) other.key[0] = fact->key[0], other.key[2] = fact->key[2];
    fact_tokens(&other, ids);
}

static const needle_fact *any_fact(const prompt *p, uint64_t *random)
{
    int64_t i = needle_below(random, p->facts + p->absents);
    return i < p->facts ? &p->fact[i] : &p->absent[i - p->facts];
}

static bool draw_facts(const haystack_wish *wish, prompt *p, uint64_t *random, char *why,
                       size_t why_bytes)
{
    int32_t total = wish->facts + wish->absents;
    uint32_t *words = malloc((size_t)total * 7 * sizeof *words + 1);
    p->fact = calloc((size_t)wish->facts + 1, sizeof *p->fact);
    p->absent = calloc((size_t)wish->absents + 1, sizeof *p->absent);
    p->facts = wish->facts;
    p->absents = wish->absents;
    if (!words || !p->fact || !p->absent) {
        snprintf(why, why_bytes, "out of memory for %d needles", total);
        free(words);
        return false;
    }
    bool ok = prompt_words(random, words, total * 7, why, why_bytes);
    for (int32_t i = 0; ok && i < total; i++) {
        needle_fact *fact = i < wish->facts ? &p->fact[i] : &p->absent[i - wish->facts];
        memcpy(fact->key, words + i * 7, sizeof fact->key);
        memcpy(fact->value, words + i * 7 + 3, sizeof fact->value);
        fact->first = i < wish->facts ? wish->first[i] : -1;
    }
    free(words);
    return ok;
}

static bool span_is_free(const prompt *p, int64_t first, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (p->fixed[first + i]) return false;
    return true;
}

/* Needles first, so that distractors keep off them. */
static void fill_haystack(const haystack_wish *wish, prompt *p, uint64_t *random)
{
    uint32_t ids[NEEDLE_TOKENS];
    if (wish->needles && p->facts + p->absents > 0)
        for (int64_t t = NEEDLE_FIRST; t + NEEDLE_TOKENS <= p->count; t += NEEDLE_TOKENS) {
            near_miss(any_fact(p, random), random, ids);
            memcpy(p->ids + t, ids, sizeof ids);
        }
    for (int32_t i = 0; i < p->facts; i++) {
        fact_tokens(&p->fact[i], ids);
        prompt_splice(p, p->fact[i].first, ids, NEEDLE_TOKENS);
    }
    for (int32_t i = 0; i < (p->facts + p->absents) * wish->distractors; i++) {
        const needle_fact *fact = i < p->facts * wish->distractors
                                      ? &p->fact[i / wish->distractors]
                                      : &p->absent[i / wish->distractors - p->facts];
        if (wish->mixed && (fact->first < 0 || (fact - p->fact) % 2 == 0)) continue;
        near_miss(fact, random, ids);
        for (int attempt = 0; attempt < 100; attempt++) {
            int64_t at =
                NEEDLE_FIRST + needle_below(random, p->count - NEEDLE_FIRST - NEEDLE_TOKENS);
            if (!span_is_free(p, at, NEEDLE_TOKENS)) continue;
            prompt_splice(p, at, ids, NEEDLE_TOKENS);
            break;
        }
    }
}

static int32_t fact_trigrams(const needle_fact *fact, trigram *out)
{
    uint32_t ids[NEEDLE_TOKENS];
    fact_tokens(fact, ids);
    int32_t queried = fact->first < 0 ? 1 : NEEDLE_ANSWERS;
    for (int32_t i = 0; i < queried; i++) {
        int32_t third = NEEDLE_ANSWER - 1 + i;
        out[i].code = trigram_code(ids[third - 2], ids[third - 1], ids[third]);
        out[i].at = fact->first < 0 ? TRIGRAM_NOWHERE : fact->first + third;
    }
    return queried;
}

bool prompt_make(const haystack_wish *wish, prompt *out, char *why, size_t why_bytes)
{
    uint64_t random = wish->seed;
    if (!prompt_begin(wish->count, &random, out, why, why_bytes)) return false;
    int32_t total = wish->facts + wish->absents, queried = 0;
    trigram *set = malloc(((size_t)total * NEEDLE_ANSWERS + 1) * sizeof *set);
    bool ok = set != NULL;
    if (!ok) snprintf(why, why_bytes, "out of memory for %d needles", total);
    ok = ok && draw_facts(wish, out, &random, why, why_bytes);
    if (ok) {
        fill_haystack(wish, out, &random);
        for (int32_t i = 0; i < out->facts; i++)
            queried += fact_trigrams(&out->fact[i], set + queried);
        for (int32_t i = 0; i < out->absents; i++)
            queried += fact_trigrams(&out->absent[i], set + queried);
        trigram_sort(set, queried);
        ok = prompt_settle(out, set, queried, &random, why, why_bytes);
    }
    free(set);
    if (!ok) prompt_free(out);
    return ok;
}
