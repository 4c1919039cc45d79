/* SPDX-License-Identifier: Apache-2.0 */
#include <banyan.h> /* cc example.c $(pkg-config --cflags --libs banyan) */

int main(void)
{
    static float q[100 * 2 * 8], out[100 * 2 * 8], lse[100 * 2]; /* [tokens][heads][dim] */
    banyan_spec spec;
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    banyan_rows all = {.rows = 100}; /* at token 0 */
    for (int i = 0; i < 100 * 2 * 8; i++) q[i] = (float)(i % 7) - 3;
    banyan_spec_init(&spec);
    spec.layers = 1, spec.heads = 2, spec.key_dim = 8, spec.max_tokens = 100;
    int failed = banyan_comm_create("self", NULL, &comm) ||
                 banyan_plan_create(&spec, comm, &plan) ||
                 banyan_cache_create(plan, NULL, &cache) ||
                 banyan_sequence_create(cache, 0, &all.sequence) ||
                 banyan_attend(cache, 0, &all, 1, q, q, q, out, lse);
    if (failed) fprintf(stderr, "%s\n", banyan_error_message());
    if (!failed) printf("banyan %s: lse of the last row %.4f\n", banyan_version(), lse[199]);
    banyan_cache_destroy(cache), banyan_plan_destroy(plan), banyan_comm_destroy(comm);
    return failed;
}
