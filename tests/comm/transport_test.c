/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of a transport, for every row of comm/transports.def that this build has: it
 * opens, describes its ranks, moves bytes (or says why not), splits, and closes. Then the words
 * of what comm_create refuses. */
#include "comm/comm.h"
#include "tests/test.h"

static const char *const launcher_words[] = {"OMPI_COMM_WORLD_SIZE",
                                             "OMPI_COMM_WORLD_RANK",
                                             "PMIX_RANK",
                                             "PMI_SIZE",
                                             "PMI_RANK",
                                             "MV2_COMM_WORLD_SIZE",
                                             "MV2_COMM_WORLD_RANK",
                                             "SLURM_STEP_NUM_TASKS",
                                             "SLURM_PROCID"};

static void check_description(banyan_comm *comm)
{
    const int size = banyan_comm_size(comm), nodes = banyan_comm_nodes(comm);
    CHECK(size >= 1 && banyan_comm_rank(comm) >= 0 && banyan_comm_rank(comm) < size);
    CHECK(nodes >= 1 && nodes <= size && banyan_comm_node(comm, 0) == 0);
    CHECK(banyan_comm_node(comm, -1) == -1 && banyan_comm_node(comm, size) == -1);
    for (int r = 0, met = 0; r < size; r++) {
        CHECK(banyan_comm_node(comm, r) >= 0 && banyan_comm_node(comm, r) <= met);
        met += banyan_comm_node(comm, r) == met;
        CHECK(r < size - 1 || met == nodes);
    }
    CHECK(banyan_comm_topology(comm)->ranks == size && comm->piece > 0);
    CHECK(comm->timeout == 600);
    banyan_comm_timeout(comm, -3);
    CHECK(comm->timeout == 0);
    banyan_comm_timeout(comm, 60);
}

static void check_moves(banyan_comm *comm)
{
    const int rank = banyan_comm_rank(comm), size = banyan_comm_size(comm);
    int mine = 1000 + rank, got = -1, *all = calloc((size_t)size, sizeof *all);
    double sum = rank + 0.5;
    const banyan_message send = {(rank + 1) % size, &mine, sizeof mine},
                         recv = {(rank + size - 1) % size, &got, sizeof got};
    CHECK(banyan_comm_exchange(comm, NULL, 0, NULL, 0) == BANYAN_OK);
    CHECK(banyan_comm_exchange(comm, &send, 1, &recv, 1) == BANYAN_OK);
    CHECK(got == 1000 + (rank + size - 1) % size);
    CHECK(banyan_comm_allgather(comm, &mine, sizeof mine, all) == BANYAN_OK);
    for (int r = 0; r < size; r++) CHECK(all[r] == 1000 + r);
    got = rank == size - 1 ? 77 : 0;
    CHECK(banyan_comm_broadcast(comm, &got, sizeof got, size - 1) == BANYAN_OK && got == 77);
    CHECK(banyan_comm_allreduce(comm, &sum, 1, BANYAN_SUM) == BANYAN_OK);
    CHECK(sum == size * size / 2.0);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    const banyan_status mine_is = rank ? BANYAN_OK : banyan_fail(BANYAN_ERR_CONFIG, "bad");
    CHECK(banyan_comm_agree(comm, mine_is) == (rank ? BANYAN_ERR_PEER : BANYAN_ERR_CONFIG));
    CHECK(!strcmp(banyan_error_message(), rank ? "rank 0: bad" : "bad"));

    banyan_comm *own = NULL, *none = comm;
    CHECK(banyan_comm_split(comm, rank, 0, &own) == BANYAN_OK);
    CHECK(banyan_comm_size(own) == 1 && own->timeout == comm->timeout);
    CHECK(banyan_comm_agree(own, BANYAN_OK) == BANYAN_OK);
    banyan_comm_destroy(own);
    CHECK(banyan_comm_split(comm, -1, 0, &none) == BANYAN_OK && !none);
    CHECK(banyan_comm_split(comm, 0, 0, NULL) == BANYAN_ERR_ARGUMENT);
    free(all);
}

static void check_imaginary(banyan_comm *comm)
{
    static const char words[] =
        "the 4 ranks of this comm are imaginary: it serves plans, and moves no bytes";
    char all[4], byte = 0;
    double value = 0;
    banyan_comm *part = NULL;
    const banyan_message send = {1, &byte, 1};
    CHECK(banyan_comm_exchange(comm, &send, 1, NULL, 0) == BANYAN_ERR_UNSUPPORTED);
    CHECK(!strcmp(banyan_error_message(), words));
    CHECK(banyan_comm_allgather(comm, &byte, 1, all) == BANYAN_ERR_UNSUPPORTED);
    CHECK(banyan_comm_broadcast(comm, &byte, 1, 0) == BANYAN_ERR_UNSUPPORTED);
    CHECK(banyan_comm_allreduce(comm, &value, 1, BANYAN_SUM) == BANYAN_ERR_UNSUPPORTED);
    CHECK(banyan_comm_split(comm, 0, 0, &part) == BANYAN_ERR_UNSUPPORTED && !part);
    CHECK(!strcmp(banyan_error_message(), words));
    CHECK(!comm->broken);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    CHECK(banyan_comm_agree(comm, BANYAN_ERR_CONFIG) == BANYAN_ERR_CONFIG);
}

static void check_row(const banyan_transport *row)
{
    char machine[] = "node:2 rank:2";
    banyan_comm *comm = NULL;
    const banyan_status status =
        banyan_comm_create(row->name, row->is_imaginary ? machine : NULL, &comm);
    if (row->device && status == BANYAN_ERR_DEVICE) { /* it may be that there is none */
        CHECK_MSG(strstr(banyan_error_message(), "CUDA device"), "%s", banyan_error_message());
        return;
    }
    CHECK_MSG(status == BANYAN_OK, "%s: %s", row->name, banyan_error_message());
    if (status) return;
    check_description(comm);
    if (row->is_imaginary)
        check_imaginary(comm);
    else
        check_moves(comm);
    banyan_comm_destroy(comm);
}

static void check_refused(const char *name, void *native, banyan_status status,
                          const char *words)
{
    banyan_comm *comm = (banyan_comm *)&comm;
    CHECK(banyan_comm_create(name, native, &comm) == status);
    CHECK_MSG(!strcmp(banyan_error_message(), words), "got      %s\n    expected %s",
              banyan_error_message(), words);
    CHECK(comm == (banyan_comm *)&comm);
}

static void test_refusals(void)
{
    char machine[] = "node:2 bank:2";
    char names[256] = "", words[512];
    const char *name;
    for (int i = 0; banyan_list(BANYAN_TRANSPORTS, i, &name, NULL, NULL, NULL); i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 name);
    snprintf(words, sizeof words,
             "unknown transport \"mpy\"; expected one of %s (did you mean \"mpi\"?)", names);
    check_refused("mpy", NULL, BANYAN_ERR_CONFIG, words);
    snprintf(words, sizeof words, "unknown transport \"carrier pigeon\"; expected one of %s",
             names);
    check_refused("carrier pigeon", NULL, BANYAN_ERR_CONFIG, words);
    check_refused("imaginary", NULL, BANYAN_ERR_ARGUMENT,
                  "transport \"imaginary\" needs a description; expected text like \"node:4 "
                  "rank:8\"");
    check_refused("imaginary", machine, BANYAN_ERR_CONFIG,
                  "topology \"node:2 bank:2\", column 8: \"bank\"; expected rank:COUNT");
    check_refused("self", machine, BANYAN_ERR_ARGUMENT,
                  "transport \"self\" takes no native handle; expected NULL");
    CHECK(banyan_comm_create("self", NULL, NULL) == BANYAN_ERR_ARGUMENT);
    banyan_comm_destroy(NULL);
}

/* One rank is refused where the launcher, the innermost that speaks, says that there are
 * more. */
static void test_launchers(void)
{
    static const struct {
        const char *set[3], *words; /* NAME=VALUE; words NULL: no objection */
    } cases[] = {
        {{"PMI_SIZE=4", "PMI_RANK=2"}, "rank 2 of 4 (PMI_RANK, PMI_SIZE)"},
        {{"PMI_SIZE=1", "PMI_RANK=0"}, NULL},
        {{"SLURM_STEP_NUM_TASKS=3", "SLURM_PROCID=1"}, "rank 1 of 3 (SLURM_PROCID, "},
        {{"SLURM_STEP_NUM_TASKS=3", "PMIX_RANK=0"}, "srun --mpi=pmix"},
        {{"OMPI_COMM_WORLD_SIZE=1", "SLURM_STEP_NUM_TASKS=3", "PMIX_RANK=0"}, NULL},
        {{"PMIX_RANK=0"}, NULL},
        {{"PMIX_RANK=5"}, "rank 5 of 6 or more (PMIX_RANK)"},
        {{"SLURM_PROCID=3"}, NULL}, /* a plain program in a job script */
        {{"MV2_COMM_WORLD_SIZE=2"}, "(to run alone, unset MV2_COMM_WORLD_SIZE)"},
        {{"PMI_SIZE=four"}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t w = 0; w < sizeof launcher_words / sizeof *launcher_words; w++)
            unsetenv(launcher_words[w]);
        for (int n = 0; n < 3 && cases[i].set[n]; n++) {
            char name[64];
            const char *equal = strchr(cases[i].set[n], '=');
            snprintf(name, sizeof name, "%.*s", (int)(equal - cases[i].set[n]),
                     cases[i].set[n]);
            setenv(name, equal + 1, 1);
        }
        CHECK(banyan_launcher_check("mpi", 4) == BANYAN_OK);
        banyan_status status = banyan_launcher_check("mpi", 1);
        CHECK_MSG(status == (cases[i].words ? BANYAN_ERR_CONFIG : BANYAN_OK), "case %zu", i);
        if (!cases[i].words) continue;
        CHECK_MSG(strstr(banyan_error_message(), cases[i].words), "case %zu: %s", i,
                  banyan_error_message());
        CHECK(banyan_launcher_check("self", 1) == BANYAN_ERR_CONFIG &&
              strstr(banyan_error_message(), "this process is alone"));
    }
}

/* Without a launcher's words in the environment a process is alone. */
static void test_default(void)
{
    int is_launched = 0;
    for (size_t i = 0; i < sizeof launcher_words / sizeof *launcher_words; i++)
        is_launched |= getenv(launcher_words[i]) != NULL;
    banyan_comm *comm = NULL;
    if (is_launched) return;
    CHECK(banyan_comm_create(NULL, NULL, &comm) == BANYAN_OK);
    CHECK(!strcmp(comm->transport->name, "self"));
    banyan_comm_destroy(comm);
}

static void test_large_machine(void)
{
    char machine[] = "node:200 rank:8";
    banyan_comm *comm = NULL;
    CHECK(banyan_comm_create("imaginary", machine, &comm) == BANYAN_OK);
    CHECK(banyan_comm_size(comm) == 1600 && banyan_comm_nodes(comm) == 200);
    CHECK(banyan_comm_rank(comm) == 0 && banyan_comm_node(comm, 1599) == 199);
    banyan_comm_destroy(comm);
}

int main(void)
{
    banyan_comm *whole = NULL; /* under mpirun it keeps MPI until the end */
    CHECK(banyan_comm_create(NULL, NULL, &whole) == BANYAN_OK);
    for (int i = 0; banyan_transport_row(i); i++) check_row(banyan_transport_row(i));
    CHECK(banyan_transport_row(1) && !banyan_transport_row(-1));
    test_refusals();
    test_default();
    test_large_machine();
    banyan_comm_destroy(whole);
    test_launchers(); /* the last: it changes the environment */
    return test_end();
}
