/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of MPI that mean something else in a simulation, or that SMPI has not, replaced through
 * MPI's profiling interface.
 *
 * MPI_Test: a simulated rank that polls would keep the simulator busy with nothing but polls,
 * or see what arrives only at its next one. It waits instead until the message is through,
 * which is a correct answer of MPI_Test too; and a round ends with the last of its messages, in
 * whatever order a rank waits for them.
 *
 * MPI_Comm_split_type: each rank has a simulated host of its own, with its own links; eight of
 * them make a node.
 *
 * MPI_Get_elements_x: SMPI has it for counts that an int holds only, under its old name. */
#include "tests/sim/sim.h"

int MPI_Test(MPI_Request *request, int *done, MPI_Status *status)
{
    *done = 1;
    return PMPI_Wait(request, status);
}

int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *out)
{
    int rank;
    (void)type, (void)info;
    PMPI_Comm_rank(comm, &rank);
    return PMPI_Comm_split(comm, rank / sim_per_node, key, out);
}

int MPI_Get_elements_x(MPI_Status *status, MPI_Datatype type, MPI_Count *out)
{
    int count;
    const int error = PMPI_Get_count(status, type, &count);
    *out = count;
    return error;
}
