/* SPDX-License-Identifier: Apache-2.0 */
/* The real NCCL, on whatever there is. All ranks take device 0: without a device all of them
 * say so, two on one are refused in words, and one alone works. Nothing hangs, and MPI goes
 * on. */
#include "comm/comm.h"
#include "tests/test.h"

int main(int argc, char **argv)
{
    banyan_comm *world = NULL, *comm = NULL;
    const int ranks = argc > 1 ? atoi(argv[1]) : 1;
    CHECK(banyan_comm_create(NULL, NULL, &world) == BANYAN_OK);
    CHECK(banyan_comm_size(world) == ranks);
    const banyan_status status = banyan_comm_create("nccl", NULL, &comm);
    CHECK_MSG(status == BANYAN_ERR_DEVICE || (!status && ranks == 1), "%s",
              banyan_error_message());
    if (status) {
        CHECK(!comm);
        CHECK_MSG(strstr(banyan_error_message(), "transport \"nccl\" needs a CUDA device: ") ||
                      (ranks > 1 && strstr(banyan_error_message(),
                                           "ranks 0 and 1 share the CUDA device at ")),
                  "%s", banyan_error_message());
    } else {
        double one = 1;
        CHECK(banyan_comm_allreduce(comm, &one, 1, BANYAN_SUM) == BANYAN_OK && one == 1);
        CHECK(banyan_comm_device_poll(comm) == BANYAN_OK);
        banyan_comm_destroy(comm);
    }
    CHECK(banyan_comm_agree(world, BANYAN_OK) == BANYAN_OK);
    banyan_comm_destroy(world);
    return test_end();
}
