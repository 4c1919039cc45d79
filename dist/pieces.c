/* SPDX-License-Identifier: Apache-2.0 */
/* A call cut into panels, and its parts into pieces: rows of one block that are read for by one
 * law. */
#include "dist/cache.h"

/* Of `rows` rows from token `at` on, how many are read for by one law? */
static int32_t rows_of_one_law(const banyan_kind *kind, int64_t at, int32_t rows)
{
    int32_t i = 0;
    while (i < kind->ends && kind->end[i] <= at) i++;
    return i < kind->ends && kind->end[i] < at + rows ? (int32_t)(kind->end[i] - at) : rows;
}

int32_t banyan_piece_rows(const banyan_cache *c, const banyan_call *call,
                          const banyan_rows *part, int32_t row, int attends)
{
    const int64_t block = c->plan->spec.block_tokens, at = part->at + row;
    const int64_t left = block - at % block;
    int32_t rows = part->rows - row;
    if (rows > left) rows = (int32_t)left;
    return attends ? rows_of_one_law(banyan_plan_kind(c->plan, call->layer), at, rows) : rows;
}

/* A part that chooses columns has panels of its own. */
static int is_apart(const banyan_kind *kind, const banyan_call *call, const banyan_panel *panel)
{
    if (!kind->liners || !panel->pieces) return 0;
    const banyan_piece *last = &panel->piece[panel->pieces - 1];
    return last->part != panel->next_part &&
           (call->batch[last->part].rows >= kind->line_rows ||
            call->batch[panel->next_part].rows >= kind->line_rows);
}

/* Pieces do not depend on what else is in the call, and so neither do a row's bits. */
int banyan_panel_next(const banyan_cache *c, const banyan_call *call, int32_t most,
                      banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    const int picks = panel->attends && (kind->pickers || kind->pools || kind->followers);
    const int64_t most_pieces = picks ? banyan_pick_pieces(c->plan) : c->plan->panel_rows;
    panel->first += panel->rows;
    panel->rows = panel->pieces = 0;
    panel->piece = c->piece;
    for (; panel->next_part < call->count; panel->next_part++, panel->next_row = 0) {
        const banyan_rows *part = &call->batch[panel->next_part];
        while (panel->next_row < part->rows) {
            const int64_t at = part->at + panel->next_row;
            const int32_t rows =
                banyan_piece_rows(c, call, part, panel->next_row, panel->attends);
            if (panel->rows + rows > most || panel->pieces == most_pieces ||
                (panel->attends && is_apart(kind, call, panel)))
                return 1;
            c->piece[panel->pieces++] =
                (banyan_piece){panel->next_part, panel->first + panel->rows, rows, at};
            panel->rows += rows;
            panel->next_row += rows;
        }
    }
    return panel->rows > 0;
}
