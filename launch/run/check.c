/* SPDX-License-Identifier: Apache-2.0 */
/* Samples against the oracle. The bound of each is derived in launch/bounds.h from the row's own
 * figures; an error is reported as its share of that bound, so that 1 is the limit everywhere. */
#include "launch/run/run.h"

#include "launch/bounds.h"

#include <math.h>
#include <stdlib.h>

/* NaN counts as beyond every bound. */
static double share(double error, double bound)
{
    return error <= bound ? error / bound : isnan(error) ? INFINITY : error / bound;
}

static void check_one(run_task *t, const run_sample *sample, oracle_row *row)
{
    const banyan_spec *s = t->spec;
    oracle_compute(t, sample->layer, sample->head, sample->token, row);
    bound b = {.key_dim = s->key_dim,
               .block_tokens = s->block_tokens,
               .tokens = row->tokens,
               .combines = t->j->ranks,
               .score = row->size,
               .value = row->largest_value,
               .spread = row->spread,
               .rounds = bound_rounds(s->kernel, s->cache_dtype)};
    run_figures *mine = &t->mine;
    mine->checked++;
    if (row->tokens == 0) { /* everything that it reads is lost: zeros and -inf by contract */
        for (int32_t d = 0; d < s->value_dim; d++)
            if (sample->out[d] != 0 || sample->lse != -INFINITY) mine->worst_share = INFINITY;
        return;
    }
    for (int32_t d = 0; d < s->value_dim; d++) {
        double error = fabs((double)sample->out[d] - row->out[d]);
        mine->worst_error = fmax(mine->worst_error, error);
        mine->worst_share =
            fmax(mine->worst_share, share(error, bound_out(&b, row->out[d], BANYAN_F32)));
    }
    double error = fabs((double)sample->lse - row->lse);
    mine->worst_share = fmax(mine->worst_share, share(error, bound_lse(&b)));
}

banyan_status run_check(run_task *t)
{
    oracle_row row = {.out = malloc((size_t)t->spec->value_dim * sizeof *row.out)};
    if (!row.out) return BANYAN_ERR_MEMORY;
    for (int32_t n = 0; n < t->samples; n++) {
        progress(t->j, "oracle: row %d of %d", n + 1, t->samples);
        if (t->sample[n].taken) check_one(t, &t->sample[n], &row);
    }
    progress_end(t->j);
    free(row.out);
    return BANYAN_OK;
}
