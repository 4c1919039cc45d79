/* SPDX-License-Identifier: Apache-2.0 */
/* What the launcher that started this process says of its job, in environment variables. A
 * launcher that speaks another protocol than the MPI that is linked here (MPICH's mpirun; srun
 * --mpi=pmi2 with an MPI that was built for PMIx) starts N processes, each of which MPI takes
 * for a job of one. Each would then do all of the work and write the same files; so what the
 * launcher says is compared with what MPI says. */
#include "comm/comm.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The innermost launcher comes first: mpirun in a step of Slurm passes Slurm's words on.
 * Slurm's own say nothing of MPI: a plain program in a step has them too. PMIx tells no
 * size. */
static const struct {
    const char *size, *rank;
    int is_mpi;
} launchers[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", 1},
                 {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", 1},
                 {"PMI_SIZE", "PMI_RANK", 1},
                 {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", 0},
                 {NULL, "PMIX_RANK", 1}};

/* A number of the environment; -1: there is none. */
static int environment_number(const char *name)
{
    const char *text = name ? getenv(name) : NULL;
    char *end;
    if (!text) return -1;
    long n = strtol(text, &end, 10);
    return end != text && !*end && n >= 0 && n <= INT_MAX ? (int)n : -1;
}

int banyan_launched_by_mpi(void)
{
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        if (!launchers[i].is_mpi) continue;
        if ((launchers[i].size && getenv(launchers[i].size)) || getenv(launchers[i].rank))
            return 1;
    }
    return 0;
}

banyan_status banyan_launcher_check(const char *transport, int ranks)
{
    if (ranks != 1) return BANYAN_OK;
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const char *size_name = launchers[i].size, *rank_name = launchers[i].rank;
        int size = environment_number(size_name), rank = environment_number(rank_name);
        if (size < 0 && (size_name || rank < 0)) continue;
        if (size < 0) size = rank + 1; /* at least */
        if (size == 1) return BANYAN_OK;
        const char *way = strcmp(transport, "self")
                              ? "MPI says that there is 1 rank: they do not understand each "
                                "other; start with \"srun --mpi=pmix\", or with the mpirun of "
                                "this build's own Open MPI"
                              : "this process is alone: expected a build with Open MPI, "
                                "started by \"srun --mpi=pmix\" or by its mpirun";
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "the launcher says rank %d of %d%s (%s%s%s), but %s (to run alone, "
                           "unset %s)",
                           rank < 0 ? 0 : rank, size, size_name ? "" : " or more", rank_name,
                           size_name ? ", " : "", size_name ? size_name : "", way,
                           size_name ? size_name : rank_name);
    }
    return BANYAN_OK;
}
