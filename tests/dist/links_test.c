/* SPDX-License-Identifier: Apache-2.0 */
/* What messages cost, as the caller measured it: plans predict their merge by it, and choose by
 * it. */
#include "tests/test.h"

#include "banyan.h"

#include <math.h>

enum { DIM = 64, ITEM = (DIM + 2) * 4, HEADER = 64 };

static const banyan_link slow = {1e-3, 1e-6}, fast = {1e-9, 1e-15};

static banyan_plan *plan_on(banyan_comm *comm, const char *placement, const char *merge)
{
    banyan_spec spec;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.layers = 3;
    spec.heads = 4;
    spec.kv_heads = 1;
    spec.key_dim = DIM;
    spec.max_tokens = 1 << 20;
    spec.max_rows = 1000;
    spec.placement = placement;
    spec.merge = merge;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    return plan;
}

static banyan_comm *machine(const char *text)
{
    banyan_comm *comm = NULL;
    CHECK(banyan_comm_create("imaginary", (void *)(uintptr_t)text, &comm) == BANYAN_OK);
    return comm;
}

static int is_near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fabs(b);
}

/* One KV head on two ranks: a message of its four query heads' partials, per layer and
 * panel. */
static void test_two_ranks(void)
{
    banyan_comm *comm = machine("rank:2");
    CHECK(banyan_comm_links(comm, &slow, &fast) == BANYAN_OK);
    banyan_plan *plan = plan_on(comm, "spread", "direct");
    CHECK(is_near(banyan_plan_merge_time(plan, 1), 3 * (1e-3 + (HEADER + 4 * ITEM) * 1e-6)));
    CHECK(is_near(banyan_plan_merge_time(plan, 256),
                  3 * (1e-3 + (HEADER + 256 * 4 * ITEM) * 1e-6)));
    CHECK(is_near(banyan_plan_merge_time(plan, 600),
                  3 * (3 * 1e-3 + (3 * HEADER + 600 * 4 * ITEM) * 1e-6)));
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

/* Between nodes it is the other link that counts, and one rank merges nothing. */
static void test_between(void)
{
    banyan_comm *comm = machine("node:2 rank:1"), *one = machine("rank:1");
    CHECK(banyan_comm_links(comm, &fast, &slow) == BANYAN_OK);
    banyan_plan *plan = plan_on(comm, "spread", "direct");
    CHECK(is_near(banyan_plan_merge_time(plan, 1), 3 * (1e-3 + (HEADER + 4 * ITEM) * 1e-6)));
    banyan_plan_destroy(plan);
    plan = plan_on(one, "spread", "direct");
    CHECK(banyan_plan_merge_time(plan, 1) == 0);
    banyan_plan_destroy(plan);
    CHECK(banyan_plan_merge_time(NULL, 1) == 0);
    banyan_comm_destroy(comm);
    banyan_comm_destroy(one);
}

/* With cheap links inside a node and dear ones between, the plan sends less between nodes. */
static void test_choice(void)
{
    banyan_comm *comm = machine("node:2 rank:8");
    banyan_link dear = {1e-9, 1e-6};
    CHECK(banyan_comm_links(comm, &fast, &dear) == BANYAN_OK);
    banyan_plan *chosen = plan_on(comm, "spread", NULL),
                *direct = plan_on(comm, "spread", "direct");
    CHECK(banyan_plan_merge_time(chosen, 1) < banyan_plan_merge_time(direct, 1) / 7);
    banyan_plan_destroy(chosen);
    banyan_plan_destroy(direct);
    banyan_comm_destroy(comm);
}

static void test_refusals(void)
{
    banyan_comm *comm = machine("rank:2");
    const banyan_link wrong[] = {{-1, 0}, {0, -1}, {NAN, 0}, {0, INFINITY}};
    for (int i = 0; i < 4; i++) {
        CHECK(banyan_comm_links(comm, &wrong[i], NULL) == BANYAN_ERR_ARGUMENT);
        CHECK(banyan_comm_links(comm, &fast, &wrong[i]) == BANYAN_ERR_ARGUMENT);
        CHECK(strstr(banyan_error_message(), "between nodes"));
        CHECK(strstr(banyan_error_message(), "expected finite numbers, 0 or more"));
    }
    banyan_comm_destroy(comm);
}

int main(void)
{
    test_two_ranks();
    test_between();
    test_choice();
    test_refusals();
    return test_end();
}
