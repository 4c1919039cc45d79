/* SPDX-License-Identifier: Apache-2.0 */
/* The table of selectors, and head rules: a selector's name and its parameters,
 *
 *     s2 stride=16 local=16 per=kv          sink_window sink=4t window=256t
 *
 * parsed against the row's own parameter list, so that a new selector needs nothing here. A
 * length counts in blocks, or in tokens with the suffix t. */
#include "attention/attention.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define BANYAN_ROW(name, needs, doc) extern const banyan_selector banyan_select_##name;
#include "attention/selectors.def"
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) &banyan_select_##name,
static const banyan_selector *const table[] = {
#include "attention/selectors.def"
};
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) #name,
static const char *const names[] = {
#include "attention/selectors.def"
    NULL};
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) " " #name
static const char all_names[] =
#include "attention/selectors.def"
    ;
#undef BANYAN_ROW

enum { ROWS = sizeof(table) / sizeof(table[0]), MAX_WORD = 64 };

/* Where the reason of a refusal goes. */
typedef struct reason {
    char *text;
    size_t bytes;
} reason;

static banyan_status refuse_pattern(reason why, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static banyan_status refuse_pattern(reason why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (why.text && why.bytes) vsnprintf(why.text, why.bytes, format, args);
    va_end(args);
    return BANYAN_ERR_CONFIG;
}

const banyan_selector *banyan_selector_row(int index)
{
    return index >= 0 && index < ROWS ? table[index] : NULL;
}

const banyan_selector *banyan_selector_find(const char *name)
{
    for (int i = 0; i < ROWS; i++)
        if (strcmp(table[i]->name, name) == 0) return table[i];
    return NULL;
}

int banyan_list_param(const char *selector, int index, const char **name,
                      const char **default_text, const char **doc)
{
    const banyan_selector *row = selector ? banyan_selector_find(selector) : NULL;
    if (!row || index < 0 || index >= BANYAN_MAX_PARAMS) return 0;
    for (int i = 0; i <= index; i++)
        if (!row->params[i].name) return 0;
    if (name) *name = row->params[index].name;
    if (default_text) *default_text = row->params[index].default_text;
    if (doc) *doc = row->params[index].doc;
    return 1;
}

/* ---- values ------------------------------------------------------------------------------ */

/* "kv|query": the index of `text` among the choices, or -1. */
static int choice_index(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (int index = 0;; index++) {
        const char *end = strchr(choices, '|');
        size_t span = end ? (size_t)(end - choices) : strlen(choices);
        if (span == length && memcmp(choices, text, span) == 0) return index;
        if (!end) return -1;
        choices = end + 1;
    }
}

static banyan_status parse_fraction(const char *selector, const banyan_param *param,
                                    const char *text, banyan_value *out, reason why)
{
    char *end = NULL;
    const double number = strtod(text, &end);
    if (!isdigit((unsigned char)*text) || *end || strpbrk(text, "xX"))
        return refuse_pattern(why, "%s: %s=%s is not a number such as 0.125", selector,
                              param->name, text);
    if (!(number >= (double)param->min && number <= (double)param->max))
        return refuse_pattern(why, "%s: %s=%s is out of range, expected %lld..%lld", selector,
                              param->name, text, (long long)param->min, (long long)param->max);
    *out = (banyan_value){.fraction = number};
    return BANYAN_OK;
}

static const char *unit_of(const banyan_param *param, int in_tokens)
{
    if (in_tokens || param->in_tokens) return " tokens";
    return param->in_blocks ? " blocks" : "";
}

static banyan_status parse_number(const char *selector, const banyan_param *param,
                                  const char *text, int32_t block_tokens, banyan_value *out,
                                  reason why)
{
    char *end = NULL;
    int64_t number = strtoll(text, &end, 10); /* saturates, out of every range */
    int in_tokens = *end == 't' && end > text;
    if (!(isdigit((unsigned char)*text) || *text == '-') || end == text || end[in_tokens])
        return refuse_pattern(why, "%s: %s=%s is not a whole number%s", selector, param->name,
                              text,
                              param->in_blocks ? " of blocks (or of tokens, with the suffix t)"
                              : param->in_tokens ? " of tokens"
                                                 : "");
    if (in_tokens && !param->in_blocks && !param->in_tokens)
        return refuse_pattern(why, "%s: %s=%s counts tokens, but %s is not a length", selector,
                              param->name, text, param->name);
    int64_t max = in_tokens && param->in_blocks ? param->max * block_tokens : param->max;
    if (number < param->min || number > max)
        return refuse_pattern(why, "%s: %s=%s is out of range, expected %lld..%lld%s", selector,
                              param->name, text, (long long)param->min, (long long)max,
                              unit_of(param, in_tokens));
    *out = (banyan_value){.number = number, .in_tokens = in_tokens || param->in_tokens};
    return BANYAN_OK;
}

static banyan_status parse_value(const char *selector, const banyan_param *param,
                                 const char *text, int32_t block_tokens, banyan_value *out,
                                 reason why)
{
    if (param->is_fraction) return parse_fraction(selector, param, text, out, why);
    if (!param->choices) return parse_number(selector, param, text, block_tokens, out, why);
    *out = (banyan_value){.number = choice_index(param->choices, text)};
    if (out->number >= 0) return BANYAN_OK;
    return refuse_pattern(why, "%s: %s=%s is unknown, expected one of %s", selector,
                          param->name, text, param->choices);
}

static banyan_status unknown_param(const banyan_selector *selector, const char *name,
                                   reason why)
{
    const char *known[BANYAN_MAX_PARAMS + 1] = {NULL};
    char list[MAX_WORD * BANYAN_MAX_PARAMS] = "";
    for (int i = 0; i < BANYAN_MAX_PARAMS && selector->params[i].name; i++) {
        known[i] = selector->params[i].name;
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, " %s", known[i]);
    }
    if (!known[0])
        return refuse_pattern(why, "%s: unknown parameter \"%s\" (%s takes none)",
                              selector->name, name, selector->name);
    const char *near = banyan_nearest(name, known);
    return refuse_pattern(why, "%s: unknown parameter \"%s\"%s%s%s (there are:%s)",
                          selector->name, name, near ? ", did you mean \"" : "",
                          near ? near : "", near ? "\"?" : "", list);
}

/* ---- rules ------------------------------------------------------------------------------- */

/* The next word of *text: its length, 0 at the end, -1 when it does not fit. */
static int next_word(const char **text, char word[MAX_WORD])
{
    const char *p = *text;
    while (isspace((unsigned char)*p)) p++;
    const char *start = p;
    while (*p && !isspace((unsigned char)*p)) p++;
    *text = p;
    if (p - start >= MAX_WORD) return -1;
    memcpy(word, start, (size_t)(p - start));
    word[p - start] = '\0';
    return (int)(p - start);
}

/* One "name=value" of a rule. seen: bits of the parameters that were given before. */
static banyan_status parse_param(banyan_pattern *out, char *word, unsigned *seen, reason why)
{
    const banyan_selector *selector = out->selector;
    char *equals = strchr(word, '=');
    if (!equals)
        return refuse_pattern(why, "%s: expected parameter=value, got \"%s\"", selector->name,
                              word);
    *equals = '\0';

    int i = 0;
    while (i < BANYAN_MAX_PARAMS && selector->params[i].name &&
           strcmp(selector->params[i].name, word) != 0)
        i++;
    if (i == BANYAN_MAX_PARAMS || !selector->params[i].name)
        return unknown_param(selector, word, why);
    if (*seen >> i & 1)
        return refuse_pattern(why, "%s: %s is given twice", selector->name,
                              selector->params[i].name);
    *seen |= 1u << i;
    return parse_value(selector->name, &selector->params[i], equals + 1, out->block_tokens,
                       &out->value[i], why);
}

banyan_status banyan_pattern_parse(const char *use, int32_t head, int32_t heads,
                                   int32_t kv_heads, int32_t block_tokens,
                                   int64_t planned_tokens, banyan_pattern *out, char *why_text,
                                   size_t why_bytes)
{
    reason why = {why_text, why_bytes};
    char word[MAX_WORD];
    banyan_pattern p = {.head = head,
                        .heads = heads,
                        .kv_heads = kv_heads,
                        .block_tokens = block_tokens,
                        .planned_tokens = planned_tokens};
    const char *rest = use ? use : "";
    int length = next_word(&rest, word);

    if (length == 0)
        return refuse_pattern(why, "a head rule is empty, expected a selector:%s", all_names);
    p.selector = length > 0 ? banyan_selector_find(word) : NULL;
    if (!p.selector) {
        const char *near = length > 0 ? banyan_nearest(word, names) : NULL;
        return refuse_pattern(why, "unknown selector \"%.*s\"%s%s%s (there are:%s)",
                              MAX_WORD - 1, length > 0 ? word : use,
                              near ? ", did you mean \"" : "", near ? near : "",
                              near ? "\"?" : "", all_names);
    }
    for (int i = 0; i < BANYAN_MAX_PARAMS && p.selector->params[i].name; i++) {
        const banyan_param *param = &p.selector->params[i];
        banyan_status status = parse_value(p.selector->name, param, param->default_text,
                                           block_tokens, &p.value[i], why);
        if (status) return status;
    }
    unsigned seen = 0;
    while ((length = next_word(&rest, word)) != 0) {
        if (length < 0)
            return refuse_pattern(why, "%s: a parameter is longer than %d characters",
                                  p.selector->name, MAX_WORD - 1);
        banyan_status status = parse_param(&p, word, &seen, why);
        if (status) return status;
    }
    if (p.selector->check) {
        banyan_status status = p.selector->check(&p, why_text, why_bytes);
        if (status) return status;
    }
    *out = p;
    return BANYAN_OK;
}

/* ---- patterns ---------------------------------------------------------------------------- */

static int is_same(double a, double b)
{
    return !(a < b) && !(a > b);
}

/* Patterns that agree by accident, such as dense and a stride of 1, may count as different:
 * that costs nothing but a second class. */
int banyan_pattern_equal(const banyan_pattern *a, const banyan_pattern *b)
{
    if (a->selector != b->selector || a->block_tokens != b->block_tokens ||
        a->planned_tokens != b->planned_tokens)
        return 0;
    for (int i = 0; i < BANYAN_MAX_PARAMS && a->selector->params[i].name; i++)
        if (a->value[i].number != b->value[i].number ||
            a->value[i].in_tokens != b->value[i].in_tokens ||
            !is_same(a->value[i].fraction, b->value[i].fraction))
            return 0;
    return !a->selector->alike || a->selector->alike(a, b);
}

int banyan_pattern_reads(const banyan_pattern *pattern, int64_t row, int64_t token)
{
    return token >= 0 && token <= row && pattern->selector->reads(pattern, row, token);
}
