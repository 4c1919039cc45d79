/* SPDX-License-Identifier: Apache-2.0 */
/* The five tables, for people. Names, needs and words come from the .def files themselves, so
 * that rows which this build left out are listed too; whether a row is here is asked of its
 * table. */
#include "attention/attention.h"
#include "comm/comm.h"
#include "dist/dist.h"

#include <stddef.h>
#include <string.h>

typedef struct row {
    const char *name, *needs, *doc;
} row;

#define BANYAN_ROW(name, needs, doc) {#name, #needs, doc},
static const row selectors[] = {
#include "attention/selectors.def"
    {NULL, NULL, NULL}};
static const row kernels[] = {
#include "attention/kernels.def"
    {NULL, NULL, NULL}};
static const row placements[] = {
#include "dist/placements.def"
    {NULL, NULL, NULL}};
static const row merges[] = {
#include "comm/merges.def"
    {NULL, NULL, NULL}};
static const row transports[] = {
#include "comm/transports.def"
    {NULL, NULL, NULL}};
#undef BANYAN_ROW

static const row *const tables[] = {
    [BANYAN_SELECTORS] = selectors,   [BANYAN_KERNELS] = kernels,
    [BANYAN_PLACEMENTS] = placements, [BANYAN_MERGES] = merges,
    [BANYAN_TRANSPORTS] = transports,
};

static const char *what_is_missing(const char *needs)
{
    if (strcmp(needs, "X86") == 0) return "not in this build: needs an x86-64 processor";
    if (strcmp(needs, "MPI") == 0) return "not in this build: needs MPI";
    if (strcmp(needs, "CUDA") == 0) return "not in this build: needs CUDA";
    if (strcmp(needs, "NCCL") == 0) return "not in this build: needs CUDA and NCCL";
    return "not in this build";
}

/* A kernel that was left out has a row and nothing in it; one that is here may not be
 * usable. */
static const char *why_no_kernel(const row *r)
{
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        if (strcmp(kernel->name, r->name) != 0 || (!kernel->attend && !kernel->device))
            continue;
        if (kernel->usable()) return NULL;
        const char *reason = kernel->device ? kernel->device->missing() : NULL;
        if (reason) return reason;
        return kernel->device ? "this device cannot run it" : "this processor cannot run it";
    }
    return what_is_missing(r->needs);
}

static const char *why_no_transport(const row *r)
{
    for (int i = 0; banyan_transport_row(i); i++)
        if (strcmp(banyan_transport_row(i)->name, r->name) == 0) return NULL;
    return what_is_missing(r->needs);
}

static const char *why_not(banyan_table table, const row *r)
{
    switch (table) {
    case BANYAN_SELECTORS:
        return banyan_selector_find(r->name) ? NULL : what_is_missing(r->needs);
    case BANYAN_KERNELS: return why_no_kernel(r);
    case BANYAN_PLACEMENTS:
        return banyan_placement_find(r->name) ? NULL : what_is_missing(r->needs);
    case BANYAN_MERGES: return banyan_merge_find(r->name) ? NULL : what_is_missing(r->needs);
    case BANYAN_TRANSPORTS: return why_no_transport(r);
    }
    return NULL;
}

int banyan_list(banyan_table table, int index, const char **name, const char **doc,
                int *available, const char **why)
{
    if ((int)table < 0 || (size_t)table >= sizeof tables / sizeof tables[0] || index < 0)
        return 0;
    for (int i = 0; i <= index; i++)
        if (!tables[table][i].name) return 0;
    const row *r = &tables[table][index];
    const char *reason = why_not(table, r);
    if (name) *name = r->name;
    if (doc) *doc = r->doc;
    if (available) *available = reason == NULL;
    if (why) *why = reason ? reason : "";
    return 1;
}
