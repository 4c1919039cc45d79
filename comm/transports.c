/* SPDX-License-Identifier: Apache-2.0 */
/* The transports of this build, and comms made with one of them. */
#include "comm/comm.h"

#include <string.h>

/* Rows whose needs are missing are not linked, so the table may not name them: BUILT(needs) is
 * 1 when the build defines BANYAN_HAS_<needs> as 1, else 0. A defined macro turns into "0," and
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

const banyan_transport *banyan_transport_row(int index)
{
    return index >= 0 && index < built_count ? built_rows[index] : NULL;
}

static const banyan_transport *find_transport(const char *name)
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

static const char *launched_transport(void)
{
    return banyan_launched_by_mpi() && find_transport("mpi") ? "mpi" : "self";
}

banyan_status banyan_comm_open(const banyan_transport *row, void *native, banyan_comm **out)
{
    banyan_comm *comm = banyan_comm_new(row), *host = NULL;
    if (!comm) return BANYAN_ERR_MEMORY;
    banyan_status status = BANYAN_OK;
    if (row->has_host) status = banyan_comm_create(native ? "mpi" : NULL, native, &host);
    if (!status) status = row->open(comm, row->has_host ? host : native);
    if (status)
        banyan_comm_free(comm);
    else
        *out = comm;
    return status;
}

banyan_status banyan_comm_create(const char *transport, void *native, banyan_comm **out)
{
    if (!out) return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_create: out is NULL");
    const char *name = transport ? transport : launched_transport();
    const banyan_transport *row = find_transport(name);
    if (!row) return fail_unknown(name);
    banyan_comm *comm = NULL;
    banyan_status status = banyan_comm_open(row, native, &comm);
    if (status) return status;
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
