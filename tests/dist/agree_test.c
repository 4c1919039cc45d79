/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks of one job and their plans: the same for all, or none for any. Run under mpirun. */
#include "dist/plan.h"
#include "tests/test.h"

static banyan_spec spec_for_all(void)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 2;
    spec.heads = 8;
    spec.kv_heads = 4;
    spec.key_dim = 64;
    spec.max_tokens = 65536;
    spec.threads = 1;
    return spec;
}

static void test_same(banyan_comm *comm)
{
    const banyan_spec spec = spec_for_all();
    banyan_plan *plan = NULL;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    double hash = plan ? (double)(banyan_plan_hash(plan) >> 12) : 0, most = hash;
    CHECK(banyan_comm_allreduce(comm, &most, 1, BANYAN_MAX) == BANYAN_OK);
    CHECK(hash > 0 && most <= hash);
    banyan_plan_destroy(plan);
}

/* The last rank was told something else. All say so, and which. */
static void test_other_config(banyan_comm *comm)
{
    banyan_spec spec = spec_for_all();
    const int last = banyan_comm_size(comm) - 1;
    char words[96];
    if (banyan_comm_rank(comm) == last) spec.max_tokens = 65537;
    banyan_plan *plan = NULL;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_CONFIG);
    CHECK(!plan);
    snprintf(words, sizeof words, "ranks were given different configs: rank %d has plan hash ",
             last);
    CHECK_MSG(strstr(banyan_error_message(), words), "%s", banyan_error_message());
    CHECK_MSG(strstr(banyan_error_message(), ", rank 0 "), "%s", banyan_error_message());
}

/* One rank's spec cannot be: it says why, the others name it. */
static void test_bad_config(banyan_comm *comm)
{
    banyan_spec spec = spec_for_all();
    const int last = banyan_comm_size(comm) - 1, is_last = banyan_comm_rank(comm) == last;
    if (is_last) spec.block_tokens = 65;
    banyan_plan *plan = NULL;
    const banyan_status status = banyan_plan_create(&spec, comm, &plan);
    CHECK_MSG(status == (is_last ? BANYAN_ERR_CONFIG : BANYAN_ERR_PEER), "%s",
              banyan_status_name(status));
    CHECK_MSG(strstr(banyan_error_message(), "block_tokens is 65"), "%s",
              banyan_error_message());
    CHECK(!plan);
}

/* Ranks that would run different kernels take the slower one. */
static void test_kernel(banyan_comm *comm)
{
    banyan_spec spec = spec_for_all();
    if (banyan_comm_rank(comm) == 1) spec.kernel = "scalar";
    banyan_plan *plan = NULL;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK(plan && strcmp(plan->kernel->name, "scalar") == 0);
    banyan_plan_destroy(plan);
}

int main(void)
{
    banyan_comm *comm = NULL;
    CHECK_MSG(banyan_comm_create("mpi", NULL, &comm) == BANYAN_OK, "%s",
              banyan_error_message());
    if (comm && banyan_comm_size(comm) > 1) {
        test_same(comm);
        test_other_config(comm);
        test_bad_config(comm);
        test_kernel(comm);
        test_same(comm);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
