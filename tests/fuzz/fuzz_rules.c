/* SPDX-License-Identifier: Apache-2.0 */
/* Head rules, "LAYERS|HEADS|USE", one a line, to the plan that they make on three imaginary
 * ranks. */
#include "launch/launch.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { most_rules = 8 };

static void fill_rules(char *text, Banyan__Rule *rule, Banyan__Rule **list, size_t *count)
{
    for (char *line; *count < most_rules && (line = fuzz_line(&text)); ++*count) {
        Banyan__Rule *r = &rule[*count];
        banyan__rule__init(r);
        char *use = strchr(line, '|'), *rest = use ? strchr(use + 1, '|') : NULL;
        r->use = line;
        if (rest) {
            *use = *rest = 0;
            r->layers = line;
            r->heads = use + 1;
            r->use = rest + 1;
        }
        list[*count] = r;
    }
}

static void make_plan(const Banyan__Config *c)
{
    char why[1024] = "";
    config_spec asked;
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    if (spec_from_config(c, &asked, why, sizeof why)) {
        FUZZ_CHECK(*why);
        return;
    }
    static char machine[] = "node:2 rank:2,1";
    FUZZ_CHECK(!banyan_comm_create("imaginary", machine, &comm));
    const banyan_status status = banyan_plan_create(&asked.spec, comm, &plan);
    FUZZ_CHECK(!status || *banyan_error_message());
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    spec_free(&asked);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size);
    Banyan__Rule rule[most_rules], *list[most_rules];
    Banyan__Config config = BANYAN__CONFIG__INIT;
    Banyan__Shape shape = BANYAN__SHAPE__INIT;
    Banyan__Cache cache = BANYAN__CACHE__INIT;
    shape.has_layers = shape.has_heads = shape.has_kv_heads = shape.has_key_dim = 1;
    shape.layers = 3, shape.heads = 8, shape.kv_heads = 4, shape.key_dim = 16;
    cache.has_max_tokens = 1, cache.max_tokens = 5000;
    config.shape = &shape;
    config.cache = &cache;
    fill_rules(text, rule, list, &config.n_rule);
    config.rule = list;
    make_plan(&config);
    free(text);
    return 0;
}
