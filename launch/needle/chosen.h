/* SPDX-License-Identifier: Apache-2.0 */
/* chosen.h - which blocks and tokens heads of the constructed model choose by what is in them.
 *
 * Knows: its queries and keys, the definitions of the patterns that choose. Refuses to know:
 * how the engine does it. */
#ifndef BANYAN_NEEDLE_CHOSEN_H
#define BANYAN_NEEDLE_CHOSEN_H

#include "launch/needle/needle.h"

/* How a head chooses: of the blocks first .. (the row's own) - local the best `count`, or the
 * fewest of them that have `mass` (banyan_choosing); or, with `tokens`, of all tokens. */
typedef struct choice_law {
    bool tokens, bounds;
    int64_t first, local, count;
    double mass, sharpness;
} choice_law;

typedef enum chosen_result {
    CHOSEN_NOT_READ,
    CHOSEN_READ,
    CHOSEN_NEAR /* rounding may decide, or there is no room to tell */
} chosen_result;

/* For one prompt, which the predictor, borrowed, reads. NULL: no room. */
typedef struct chosen chosen;
chosen *chosen_open(const predictor *v);
void chosen_close(chosen *c); /* NULL: nothing */

void chosen_ask(chosen *c); /* the predictor has another question now */

/* Does the row choose `token`, or its block? Rows of the question are read at once, those
 * behind them one by one. */
chosen_result chosen_reads(chosen *c, const choice_law *law, int64_t row, int64_t token);

#endif
