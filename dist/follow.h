/* SPDX-License-Identifier: Apache-2.0 */
/* follow.h - tokens that decoded rows chose in one layer, and others read (follow.c). */
#ifndef BANYAN_DIST_FOLLOW_H
#define BANYAN_DIST_FOLLOW_H

#include "dist/cache.h"

/* Are the rows of a part a decoded row? */
static inline int banyan_is_decoded(const banyan_rows *part)
{
    return part->rows == 1;
}
/* What the sequences of a call remember of its layer, before its rows choose anew: nobody reads
 * another row's choice. The same on all ranks. */
void banyan_forget_followed(banyan_cache *c, const banyan_call *call);
/* What a panel's decoded rows choose in this layer, on all holders of their KV heads, is
 * remembered. */
banyan_status banyan_panel_remember(banyan_cache *c, const banyan_call *call,
                                    const banyan_panel *panel);
/* What a class of query heads of a KV head reads in this layer of a decoded row; NULL: all, as
 * where the layer before has chosen nothing for it. */
const banyan_followed *banyan_followed_by(const banyan_cache *c, const banyan_call *call,
                                          const banyan_kind *kind, int32_t kv_head,
                                          int32_t subgroup, const banyan_class *of,
                                          const banyan_piece *piece);
/* The entries of those tokens that lie in blocks held here, and in a range; *mask: room for
 * masks, moved on. Returns how many there are. */
int64_t banyan_followed_entries(const banyan_cache *c, const banyan_followed *f,
                                const banyan_kept *kept, uint64_t heads, banyan_range range,
                                banyan_entry *entry, uint64_t **mask);

#endif
