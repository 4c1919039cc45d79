/* SPDX-License-Identifier: Apache-2.0 */
/* A pattern file, behind a line "LAYERS HEADS KV_HEADS SPARSITY" of what is known (0: it is
 * not; a SPARSITY of - is not given): what is accepted reads as rules of a config, for the
 * shape that it says. */
#include "launch/command.h"
#include "launch/pattern/pattern.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void check_rules(const char *rules, const pattern_wish *wish)
{
    char why[1024] = "";
    unsigned char *wire = NULL;
    size_t bytes = 0;
    FUZZ_CHECK(textformat_parse(rules, strlen(rules), &wire, &bytes, why, sizeof why));
    Banyan__Config *c = banyan__config__unpack(NULL, bytes, wire);
    FUZZ_CHECK(c && c->n_rule > 0);
    FUZZ_CHECK(wish->layers > 0 && wish->heads > 0);
    config_spec asked;
    FUZZ_CHECK(!spec_from_config(c, &asked, why, sizeof why));
    for (int32_t i = 0; i < asked.spec.rule_count; i++) {
        const banyan_rule *r = &asked.spec.rules[i];
        FUZZ_CHECK(r->first_layer <= r->last_layer && r->last_layer < wish->layers);
        FUZZ_CHECK(r->first_head <= r->last_head && r->last_head < wish->heads);
    }
    spec_free(&asked);
    banyan__config__free_unpacked(c, NULL);
    free(wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[1024] = "", note[256] = "", path[512], sparsity[16] = "", *head;
    int known[3] = {0};
    const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
    if (!end) return 0;
    head = fuzz_text(data, (size_t)(end - data));
    if (sscanf(head, "%4d %4d %4d %15s", &known[0], &known[1], &known[2], sparsity) < 3 ||
        known[0] < 0 || known[1] < 0 || known[2] < 0)
        memset(known, 0, sizeof known);
    free(head);
    fuzz_put("pattern", end + 1, size - (size_t)(end + 1 - data));
    snprintf(path, sizeof path, "%s/pattern", fuzz_folder());
    pattern_wish wish = {.path = path,
                         .layers = known[0],
                         .heads = known[1],
                         .kv_heads = known[2],
                         .sparsity = *sparsity && *sparsity != '-' ? sparsity : NULL};
    char *rules = pattern_read(&wish, note, sizeof note, why, sizeof why);
    FUZZ_CHECK(rules || *why);
    if (rules) check_rules(rules, &wish);
    free(rules);
    return 0;
}
