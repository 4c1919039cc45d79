/* SPDX-License-Identifier: Apache-2.0 */
/* workspace.h - the memory of what is chosen once a call, and of tokens that are remembered
 * from layer to layer (plan_choices.c); for plan_workspace.c. */
#ifndef BANYAN_DIST_WORKSPACE_H
#define BANYAN_DIST_WORKSPACE_H

#include "dist/lines.h"

/* How much of it a kind needs on a rank. */
void banyan_fit_lines(const banyan_plan *plan, const banyan_kind *kind, int rank,
                      banyan_sizes *out);
void banyan_fit_followers(const banyan_plan *plan, const banyan_kind *kind, int rank,
                          banyan_sizes *out);
/* As banyan_cache_layout: with c NULL they only count. Of a sequence: */
banyan_followed **banyan_lay_followed(const banyan_plan *plan, int rank, banyan_arena *arena,
                                      const banyan_cache *c);
void banyan_lay_lines(const banyan_plan *plan, int rank, banyan_arena *arena,
                      const banyan_sizes *z, banyan_part *part, banyan_cache *c);
void banyan_lay_follows(const banyan_plan *plan, int rank, banyan_arena *arena,
                        const banyan_sizes *z, banyan_part *part, banyan_cache *c);

#endif
