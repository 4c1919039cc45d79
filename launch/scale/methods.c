/* SPDX-License-Identifier: Apache-2.0 */
/* The methods that are compared, ours first. Tree Attention as published: every head over all
 * ranks, three all-reduces, the result on all of them. Decode context parallelism as it is
 * deployed (Helix, arXiv 2507.07120; vLLM's dcp): every head over all ranks, and each rank
 * sends each home the partials of all of its heads in one message, so that rank r ends up with
 * an equal share of the heads. */
#include "launch/scale/scale.h"

#include <string.h>

const scale_method scale_methods[] = {
    {.name = "line",
     .doc = "the plan's line: equal work, merges where a cut falls",
     .placement = "line",
     .decode = &scale_attend,
     .prefill = &scale_attend},
    {.name = "spread",
     .doc = "every head over all ranks, merged in a tree",
     .placement = "spread",
     .merge = "tree",
     .decode = &scale_attend,
     .prefill = &scale_attend},
    {.name = "dcp",
     .doc = "every head over all ranks, one all-to-all to homes dealt over them",
     .placement = "spread",
     .merge = "direct",
     .deals = true,
     .decode = &scale_attend,
     .prefill = &scale_attend},
    {.name = "tree-attention",
     .doc = "every head over all ranks, three all-reduces",
     .placement = "spread",
     .merge = "allreduce",
     .everywhere = true,
     .decode = &scale_attend,
     .prefill = &scale_attend},
    {.name = "ring",
     .doc = "ring attention: keys and values rotate past the queries",
     .dense_only = true,
     .prefills_on_cpu = true,
     .decode = &scale_ring,
     .prefill = &scale_ring_prefill},
    {.name = "ring-q",
     .doc = "the same, but the partial result goes round, not the cache",
     .dense_only = true,
     .decode = &scale_ring_q},
    {.name = "heads",
     .doc = "whole heads on ranks: nothing is merged",
     .placement = "heads",
     .decode = &scale_attend,
     .prefill = &scale_attend},
    {.name = "reproducible",
     .doc = "the line in fixed-point sums: one hash of the output for any number of ranks",
     .placement = "line",
     .reproducible = true,
     .decode = &scale_attend,
     .prefill = &scale_attend},
    {.name = NULL}};

/* Is this row of the library's table there, and can it run? */
static bool is_row(banyan_table table, const char *name)
{
    const char *row;
    int available;
    for (int i = 0; banyan_list(table, i, &row, NULL, &available, NULL); i++)
        if (!strcmp(row, name)) return available;
    return false;
}

const scale_method *scale_method_find(const job *j, const char *name)
{
    const char *names[16];
    int count = 0;
    for (const scale_method *m = scale_methods; m->name; m++) {
        if (!strcmp(m->name, name)) {
            if (!m->merge || is_row(BANYAN_MERGES, m->merge)) return m;
            say_error(j, "method \"%s\" needs merge \"%s\", which this build lacks", name,
                      m->merge);
            return NULL;
        }
        names[count++] = m->name;
    }
    names[count] = NULL;
    const char *near = banyan_nearest(name, names);
    char list[128] = "";
    for (int i = 0; i < count; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    say_error(j, "no method \"%s\"; expected %s%s%s%s", name, list,
              near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
    return NULL;
}
