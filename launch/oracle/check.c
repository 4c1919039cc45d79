/* SPDX-License-Identifier: Apache-2.0 */
/* A row against the oracle. Its bound is derived in launch/bounds.h from the row's own
 * figures; an error is reported as its share of that bound, so that 1 is the limit
 * everywhere. */
#include "launch/oracle/oracle.h"

#include "launch/bounds.h"

#include <math.h>

/* NaN counts as beyond every bound. */
static double share(double error, double bound)
{
    return error <= bound ? error / bound : isnan(error) ? INFINITY : error / bound;
}

oracle_error oracle_check(const oracle_task *t, int32_t layer, int32_t head, int64_t token,
                          int64_t combines, const float *out, float lse, oracle_row *row)
{
    const banyan_spec *s = t->spec;
    oracle_error worst = {0};
    oracle_compute(t, layer, head, token, row);
    worst.is_near_tie = row->is_near_tie;
    worst.is_lined = row->is_lined;
    if (worst.is_near_tie || worst.is_lined) return worst;
    bound b = {.key_dim = s->key_dim,
               .block_tokens = s->block_tokens,
               .tokens = row->tokens,
               .combines = combines,
               .score = row->size,
               .value = row->largest_value,
               .spread = row->spread,
               .rounds = bound_rounds(s->kernel, s->cache_dtype)};
    if (row->tokens == 0) { /* everything that it reads is lost: zeros and -inf by contract */
        for (int32_t d = 0; d < s->value_dim; d++)
            if (out[d] != 0 || lse != -INFINITY) worst.share = INFINITY;
        return worst;
    }
    for (int32_t d = 0; d < s->value_dim; d++) {
        double error = fabs((double)out[d] - row->out[d]);
        worst.error = fmax(worst.error, error);
        worst.share = fmax(worst.share, share(error, bound_out(&b, row->out[d], BANYAN_F32)));
    }
    double error = fabs((double)lse - row->lse);
    worst.share = fmax(worst.share, share(error, bound_lse(&b)));
    return worst;
}
