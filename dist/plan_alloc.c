/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a plan: a list of allocations, freed together. */
#include "dist/plan.h"

#include <stdlib.h>
#include <string.h>

/* What a plan owns is a list of allocations, freed together. */
typedef struct allocation {
    struct allocation *next;
    uint64_t align;
} allocation;

void *banyan_plan_alloc(banyan_plan *plan, size_t count, size_t bytes)
{
    allocation *p = NULL;
    if (!bytes || count < (SIZE_MAX - sizeof *p) / bytes)
        p = calloc(1, sizeof *p + count * bytes);
    if (!p) {
        banyan_fail(BANYAN_ERR_MEMORY, "out of memory: the plan needs %zu x %zu bytes", count,
                    bytes);
        return NULL;
    }
    p->next = plan->owned;
    plan->owned = p;
    return p + 1;
}

char *banyan_plan_copy(banyan_plan *plan, const char *text)
{
    if (!text) return NULL;
    char *copy = banyan_plan_alloc(plan, strlen(text) + 1, 1);
    return copy ? memcpy(copy, text, strlen(text) + 1) : NULL;
}

void banyan_plan_destroy(banyan_plan *plan)
{
    if (!plan) return;
    for (int32_t k = 0; k < plan->kinds; k++) {
        banyan_schedule_free(&plan->kind[k].schedule);
        banyan_schedule_free(&plan->kind[k].pick_schedule);
        banyan_schedule_free(&plan->kind[k].follow_schedule);
    }
    for (allocation *p = plan->owned, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    free(plan);
}
