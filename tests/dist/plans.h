/* SPDX-License-Identifier: Apache-2.0 */
/* plans.h - short ways to a plan of an imaginary cluster, for the tests of dist/. */
#ifndef BANYAN_TEST_PLANS_H
#define BANYAN_TEST_PLANS_H

#include "dist/plan.h"
#include "tests/test.h"

typedef struct planned {
    banyan_comm *comm;
    banyan_plan *plan; /* NULL: it failed, see banyan_error_message */
    banyan_status status;
} planned;

static inline banyan_spec small_spec(void)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 2;
    spec.heads = 8;
    spec.kv_heads = 4;
    spec.key_dim = 64;
    spec.max_tokens = 65536;
    spec.kernel = "scalar";
    spec.threads = 1;
    return spec;
}

static inline planned plan_on(const char *cluster, const banyan_spec *spec)
{
    planned p = {0};
    CHECK(banyan_comm_create("imaginary", (void *)(uintptr_t)cluster, &p.comm) == BANYAN_OK);
    p.status = banyan_plan_create(spec, p.comm, &p.plan);
    return p;
}

static inline void unplan(planned *p)
{
    banyan_plan_destroy(p->plan);
    banyan_comm_destroy(p->comm);
    *p = (planned){0};
}

#endif
