/* SPDX-License-Identifier: Apache-2.0 */
/* This rank's samples against the oracle. */
#include "launch/run/run.h"

#include <math.h>

static void check_one(run_task *t, const oracle_task *o, const run_sample *sample,
                      oracle_row *row)
{
    oracle_error e = oracle_check(o, sample->layer, sample->head, sample->token, t->j->ranks,
                                  sample->out, sample->lse, row);
    t->mine.checked++;
    t->mine.near_ties += e.is_near_tie;
    t->mine.lined += e.is_lined;
    t->mine.worst_error = fmax(t->mine.worst_error, e.error);
    t->mine.worst_share = fmax(t->mine.worst_share, e.share);
}

banyan_status run_check(run_task *t)
{
    const oracle_task o = {.plan = t->plan,
                           .spec = t->spec,
                           .seed = t->seed,
                           .period = t->period,
                           .at = t->at,
                           .tokens = t->tokens,
                           .rows = t->rows};
    oracle_row row;
    const banyan_status status = oracle_row_take(&o, t->spec->max_tokens, &row);
    for (int32_t n = 0; n < t->samples && !status; n++) {
        progress(t->j, "oracle: row %d of %d", n + 1, t->samples);
        if (t->sample[n].taken) check_one(t, &o, &t->sample[n], &row);
    }
    progress_end(t->j);
    oracle_row_free(&row);
    return status;
}
