/* SPDX-License-Identifier: Apache-2.0 */
/* Rules for the constructed model's two layers, from one line each:
 *
 *     "sink_window sink=1 window=3"                  all heads of the layer
 *     "0-1: dense; 2-: s2 stride=8 local=16"         ranges of query heads, the last match wins
 *
 * Layer 0 only copies the previous tokens and needs a local window; dense it would cost the
 * square of the context, so it gets a small one unless the config says otherwise. */
#include "launch/needle/evaluate.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_space(const char *text)
{
    while (isspace((unsigned char)*text)) text++;
    return text;
}

/* "2-5", "2-", "2" before a colon. false: it is no range, and *first, *last are all heads. */
static bool read_head_range(const char **text, int32_t *first, int32_t *last)
{
    const char *at = skip_space(*text);
    *first = 0;
    *last = -1;
    if (!isdigit((unsigned char)*at)) return false;
    char *end;
    long from = strtol(at, &end, 10), to = from;
    if (*end == '-') {
        at = end + 1;
        to = -1;
        end = (char *)at;
        if (isdigit((unsigned char)*at)) to = strtol(at, &end, 10);
    }
    end = (char *)skip_space(end);
    if (*end != ':' || from > INT32_MAX || to > INT32_MAX) return false;
    *first = (int32_t)from;
    *last = (int32_t)to;
    *text = end + 1;
    return true;
}

bool rules_append(banyan_rule *rules, int32_t *count, int32_t room, int32_t layer, char *text,
                  char *why, size_t why_bytes)
{
    char *rest = text;
    for (char *part = strtok_r(text, ";", &rest); part; part = strtok_r(NULL, ";", &rest)) {
        const char *use = part;
        banyan_rule rule = {.first_layer = layer, .last_layer = layer};
        read_head_range(&use, &rule.first_head, &rule.last_head);
        use = skip_space(use);
        if (!*use || *count == room) {
            snprintf(
                why, why_bytes,
                "\"%s\": expected \"SELECTOR ..\" or \"HEADS: SELECTOR ..\", with ; between "
                "at most %d of them",
                part, room);
            return false;
        }
        rule.use = use;
        rules[(*count)++] = rule;
    }
    return true;
}
