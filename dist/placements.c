/* SPDX-License-Identifier: Apache-2.0 */
/* The table of placements: one row per place_<name>.c. */
#include "dist/dist.h"

#include <string.h>

#define BANYAN_ROW(name, needs, doc) extern const banyan_placement banyan_place_##name;
#include "dist/placements.def"
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) &banyan_place_##name,
static const banyan_placement *const rows[] = {
#include "dist/placements.def"
};
#undef BANYAN_ROW

const banyan_placement *banyan_placement_row(int index)
{
    return index >= 0 && index < (int)(sizeof(rows) / sizeof(rows[0])) ? rows[index] : NULL;
}

const banyan_placement *banyan_placement_find(const char *name)
{
    for (int i = 0; banyan_placement_row(i); i++)
        if (strcmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}
