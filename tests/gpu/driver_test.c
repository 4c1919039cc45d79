/* SPDX-License-Identifier: Apache-2.0 */
/* A library with CUDA in it starts on a machine without a driver, lists its kernels with the
 * reason why they cannot run, and refuses a cache on a device in the same words; a plan can be
 * made all the same. */
#include "banyan.h"
#include "tests/test.h"

#include <string.h>

/* The reason why kernel `name` cannot run here; "" when it can, NULL when it is not listed. */
static const char *why_not(const char *name)
{
    const char *row, *doc, *why;
    int available;
    for (int i = 0; banyan_list(BANYAN_KERNELS, i, &row, &doc, &available, &why); i++)
        if (!strcmp(row, name)) return available ? "" : why;
    return NULL;
}

static banyan_status make_plan(const char *transport, void *native, banyan_comm **comm,
                               banyan_plan **plan)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = 8;
    spec.kv_heads = 2;
    spec.key_dim = 128;
    spec.max_tokens = 4096;
    spec.device = "cuda";
    banyan_status status = banyan_comm_create(transport, native, comm);
    return status ? status : banyan_plan_create(&spec, *comm, plan);
}

int main(void)
{
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    const char *why = why_not("cuda");
    CHECK(why != NULL && why_not("hopper") != NULL);
    if (!why) return test_end();
    char words[256];
    snprintf(words, sizeof words, "%s", why);

    CHECK(make_plan("imaginary", "node:2 rank:4", &comm, &plan) == BANYAN_OK);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);

    comm = NULL;
    plan = NULL;
    banyan_status status = make_plan("self", NULL, &comm, &plan);
    if (!status) status = banyan_cache_create(plan, NULL, &cache);
    CHECK_MSG(!status == !words[0], "a cache on a device: %s", banyan_error_message());
    CHECK_MSG(!status || strstr(banyan_error_message(), "CUDA"), "words: %s",
              banyan_error_message());
    CHECK_MSG(!words[0] || strstr(words, "CUDA"), "words: %s", words);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    return test_end();
}
