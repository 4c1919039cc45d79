/* SPDX-License-Identifier: Apache-2.0 */
/* A comm: which transport, how many ranks, who is near whom. What moves is in collectives.c and
 * exchange.c; how it moves is in transport_<name>.c. */
#include "comm/comm.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows whose needs are missing are not linked, so the table may not name them: BUILT(needs) is 1
 * when the build defines BANYAN_HAS_<needs> as 1, else 0. A defined macro turns into "0," and
 * shifts the 1 into second place. */
#define BANYAN_HAS_ALWAYS 1
#define SHIFT_1 0,
#define SECOND(a, b, ...) b
#define SECOND_OF(...) SECOND(__VA_ARGS__)
#define BUILT_IF(flag) BUILT_PASTE(flag)
#define BUILT_PASTE(flag) SECOND_OF(SHIFT_##flag 1, 0, 0)
#define BUILT(needs) BUILT_IF(BANYAN_HAS_##needs)
#define WHEN_0(...)
#define WHEN_1(...) __VA_ARGS__
#define WHEN(built, ...) WHEN_PASTE(built, __VA_ARGS__)
#define WHEN_PASTE(built, ...) WHEN_##built(__VA_ARGS__)

#define BANYAN_ROW(name, needs, doc)                                                           \
    WHEN(BUILT(needs), extern const banyan_transport banyan_transport_##name;)
#include "comm/transports.def"
#undef BANYAN_ROW

static const banyan_transport *const built_rows[] = {
#define BANYAN_ROW(name, needs, doc) WHEN(BUILT(needs), &banyan_transport_##name, )
#include "comm/transports.def"
#undef BANYAN_ROW
};

static const struct {
    const char *name, *needs;
} all_rows[] = {
#define BANYAN_ROW(name, needs, doc) {#name, #needs},
#include "comm/transports.def"
#undef BANYAN_ROW
};

enum {
    built_count = sizeof built_rows / sizeof *built_rows,
    row_count = sizeof all_rows / sizeof *all_rows
};

static const double default_timeout = 600; /* seconds */

const banyan_transport *banyan_transport_row(int index)
{
    return index >= 0 && index < built_count ? built_rows[index] : NULL;
}

static const banyan_transport *find_row(const char *name)
{
    for (int i = 0; i < built_count; i++)
        if (!strcmp(built_rows[i]->name, name)) return built_rows[i];
    return NULL;
}

static banyan_status fail_unknown(const char *name)
{
    const char *names[row_count + 1] = {NULL};
    for (int i = 0; i < row_count; i++) {
        names[i] = all_rows[i].name;
        if (!strcmp(names[i], name))
            return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                               "transport \"%s\" is not in this build: it needs %s", name,
                               all_rows[i].needs);
    }
    const char *nearest = banyan_nearest(name, names);
    char list[256] = "";
    for (int i = 0; i < row_count; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return banyan_fail(BANYAN_ERR_CONFIG, "unknown transport \"%s\"; expected one of %s%s%s%s",
                       name, list, nearest ? " (did you mean \"" : "", nearest ? nearest : "",
                       nearest ? "\"?)" : "");
}

static const char *default_transport(void)
{
    return banyan_launched_by_mpi() && find_row("mpi") ? "mpi" : "self";
}

static banyan_comm *new_comm(const banyan_transport *row)
{
    banyan_comm *comm = calloc(1, sizeof *comm);
    if (!comm) {
        banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a comm");
        return NULL;
    }
    comm->transport = row;
    comm->timeout = default_timeout;
    comm->piece = INT_MAX;
    return comm;
}

static void free_comm(banyan_comm *comm)
{
    banyan_topology_free(&comm->topology);
    free(comm->scratch);
    free(comm);
}

banyan_status banyan_comm_create(const char *transport, void *native, banyan_comm **out)
{
    if (!out) return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_create: out is NULL");
    const char *name = transport ? transport : default_transport();
    const banyan_transport *row = find_row(name);
    if (!row) return fail_unknown(name);
    banyan_comm *comm = new_comm(row);
    if (!comm) return BANYAN_ERR_MEMORY;
    banyan_status status = row->open(comm, native);
    if (status) {
        free_comm(comm);
        return status;
    }
    if (!native && (!transport || !strcmp(name, "mpi")))
        status = banyan_launcher_check(row->name, comm->size);
    if (status)
        banyan_comm_destroy(comm);
    else
        *out = comm;
    return status;
}

const char *banyan_mpi_library(size_t *handle_bytes)
{
    for (int i = 0; i < built_count; i++)
        if (built_rows[i]->library) return built_rows[i]->library(handle_bytes);
    return NULL;
}

void banyan_comm_destroy(banyan_comm *comm)
{
    if (!comm) return;
    comm->transport->close(comm);
    free_comm(comm);
}

void *banyan_comm_scratch(banyan_comm *comm)
{
    if (!comm->scratch) comm->scratch = malloc((size_t)comm->size * BANYAN_SCRATCH_BYTES);
    if (!comm->scratch)
        banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d ranks", (int)comm->size);
    return comm->scratch;
}

int banyan_comm_rank(const banyan_comm *comm)
{
    return comm->rank;
}

int banyan_comm_size(const banyan_comm *comm)
{
    return comm->size;
}

int banyan_comm_node(const banyan_comm *comm, int rank)
{
    return rank >= 0 && rank < comm->size ? comm->topology.node[rank] : -1;
}

int banyan_comm_nodes(const banyan_comm *comm)
{
    return comm->topology.nodes;
}

void banyan_comm_timeout(banyan_comm *comm, double seconds)
{
    comm->timeout = seconds > 0 ? seconds : 0;
}

void banyan_comm_checksums(banyan_comm *comm, int on)
{
    comm->has_checksums = on != 0;
}

static banyan_status check_link(const banyan_link *link, const char *where)
{
    if (!link ||
        (link->alpha >= 0 && link->beta >= 0 && isfinite(link->alpha) && isfinite(link->beta)))
        return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT,
                       "comm_links: %s nodes %g s and %g s/byte; expected finite numbers, 0 or "
                       "more",
                       where, link->alpha, link->beta);
}

banyan_status banyan_comm_links(banyan_comm *comm, const banyan_link *inside,
                                const banyan_link *between)
{
    banyan_status status = check_link(inside, "inside");
    if (!status) status = check_link(between, "between");
    if (status) return status;
    if (inside) comm->topology.inside = *inside;
    if (between) comm->topology.between = *between;
    return BANYAN_OK;
}

/* ---- split --------------------------------------------------------------------------------- */

/* What every rank said, and who it is. */
typedef struct choice {
    int32_t color, key, rank;
} choice;

static int compare_choices(const void *a, const void *b)
{
    const choice *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* The new comm's rank, size and topology: its ranks keep the nodes and links that they have. */
static banyan_status describe_split(const banyan_comm *comm, int color, choice *all,
                                    banyan_comm *out)
{
    int32_t size = 0;
    for (int32_t r = 0; r < comm->size; r++)
        if (all[r].color == color) all[size++] = all[r];
    qsort(all, (size_t)size, sizeof *all, compare_choices);
    int32_t *node = malloc((size_t)size * sizeof *node);
    if (!node) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d ranks", (int)size);
    for (int32_t r = 0; r < size; r++) {
        node[r] = comm->topology.node[all[r].rank];
        if (all[r].rank == comm->rank) out->rank = r;
    }
    out->size = size;
    const banyan_status status = banyan_topology_make(node, size, &out->topology);
    free(node);
    if (status) return status;
    out->topology.inside = comm->topology.inside;
    out->topology.between = comm->topology.between;
    out->timeout = comm->timeout;
    out->piece = comm->piece;
    out->has_checksums = comm->has_checksums;
    return BANYAN_OK;
}

banyan_status banyan_comm_split(banyan_comm *comm, int color, int key, banyan_comm **out)
{
    if (!out) return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_split: out is NULL");
    const choice mine = {color < 0 ? -1 : color, key, comm->rank};
    banyan_comm *made = NULL;
    _Static_assert(sizeof mine <= BANYAN_SCRATCH_BYTES, "choices fit in the scratch");
    choice *all = banyan_comm_scratch(comm);
    if (!all) return BANYAN_ERR_MEMORY;
    banyan_status status = banyan_comm_allgather(comm, &mine, sizeof mine, all);
    if (status) return status;
    if (color >= 0) {
        made = new_comm(comm->transport);
        status = made ? describe_split(comm, color, all, made) : BANYAN_ERR_MEMORY;
        if (!status && !banyan_comm_scratch(made)) status = BANYAN_ERR_MEMORY;
    }
    status = banyan_comm_agree(comm, status);
    if (!status) status = comm->transport->split(comm, mine.color, key, made);
    if (status && made) free_comm(made);
    if (!status) *out = made;
    return status;
}
