/* SPDX-License-Identifier: Apache-2.0 */
/* golden_plans NAME: prints the plan of that name, for comparison with tests/golden/NAME.txt.
 * Without a name: lists them. The kernel is forced, so that machines agree. */
#include "banyan.h"

#include <stdio.h>
#include <string.h>

typedef struct golden {
    const char *name, *cluster;
    void (*set)(banyan_spec *spec);
} golden;

static void llama(banyan_spec *spec)
{
    spec->layers = 32;
    spec->heads = 32;
    spec->kv_heads = 8;
    spec->key_dim = 128;
    spec->max_tokens = 1048576;
}

static void alone(banyan_spec *spec)
{
    static const banyan_rule rules[] = {{0, 0, 0, -1, "sink_window sink=1 window=16"}};
    spec->layers = 2;
    spec->heads = 8;
    spec->kv_heads = 2;
    spec->key_dim = 64;
    spec->max_tokens = 65536;
    spec->rules = rules;
    spec->rule_count = 1;
}

static void two_dense(banyan_spec *spec)
{
    static const banyan_rule rules[] = {{0, -1, 8, -1, "s2 stride=16 local=16"}};
    llama(spec);
    spec->rules = rules;
    spec->rule_count = 1;
}

static void weighted(banyan_spec *spec)
{
    static const double bandwidth[] = {1, 2, 0};
    static const banyan_rule rules[] = {{0, -1, 4, -1, "s2 stride=8 local=4 step=1"}};
    alone(spec);
    spec->kv_heads = 8;
    spec->rules = rules;
    spec->rule_count = 1;
    spec->bandwidth = bandwidth;
    spec->home = BANYAN_HOME_DEALT;
    spec->value_dim = 128;
}

static void uneven(banyan_spec *spec)
{
    llama(spec);
    spec->layers = 1;
    spec->max_tokens = 262144;
    spec->planned_tokens = 131072;
    spec->rollback_tokens = 8;
    spec->merge = "tree";
    spec->out = BANYAN_OUT_ALL;
}

static void s2(banyan_spec *spec)
{
    static const banyan_rule rules[] = {{0, -1, 0, -1, "s2 stride=16 local=16"}};
    llama(spec);
    spec->rules = rules;
    spec->rule_count = 1;
}

/* Every second layer dense; patterns per query head, shifted by 1. */
static void phi3(banyan_spec *spec)
{
    static const banyan_rule rules[] = {
        {0, -1, 0, -1, "s2 stride=8 local=16 offset=1 per=query"},
        {1, 1, 0, -1, "dense"},
        {3, 3, 0, -1, "dense"},
        {5, 5, 0, -1, "dense"},
        {7, 7, 0, -1, "dense"},
    };
    llama(spec);
    spec->layers = 8;
    spec->max_tokens = 131072;
    spec->rules = rules;
    spec->rule_count = 5;
}

static void whole_heads(banyan_spec *spec)
{
    two_dense(spec);
    spec->placement = "heads";
}

static void spread(banyan_spec *spec)
{
    two_dense(spec);
    spec->placement = "spread";
    spec->balance = BANYAN_BALANCE_PREFILL;
}

static const golden plans[] = {
    {"one_rank", "rank:1", alone},
    {"two_dense_six_s2", "rank:8", two_dense},
    {"three_weighted", "rank:3", weighted},
    {"seven_uneven", "node:2 rank:4,3", uneven},
    {"llama3_8b_1m_s2", "node:8 rank:8", s2},
    {"llama3_8b_1m_dense", "node:128 rank:8", llama},
    {"phi3_small", "node:2 rank:2", phi3},
    {"whole_heads", "rank:5", whole_heads},
    {"spread", "node:3 rank:2", spread},
};

static int print_plan(const golden *g)
{
    banyan_spec spec;
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.kernel = "scalar";
    spec.threads = 1;
    g->set(&spec);
    banyan_status status = banyan_comm_create("imaginary", (char *)g->cluster, &comm);
    if (!status) status = banyan_plan_create(&spec, comm, &plan);
    if (status)
        fprintf(stderr, "%s: %s\n", g->name, banyan_error_message());
    else
        banyan_plan_print(plan, stdout);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    return status != BANYAN_OK;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        if (argc < 2)
            printf("%s\n", plans[i].name);
        else if (strcmp(plans[i].name, argv[1]) == 0)
            return print_plan(&plans[i]);
    }
    return argc < 2 ? 0 : 2;
}
