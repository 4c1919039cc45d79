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

#define BANYAN_ROW(name, needs, doc) doc,
static const char *const docs[] = {
#include "dist/placements.def"
};
#undef BANYAN_ROW

const char *banyan_placement_doc(const banyan_placement *placement)
{
    int i = 0;
    while (rows[i] != placement) i++;
    return docs[i];
}

const banyan_placement *banyan_placement_find(const char *name)
{
    for (int i = 0; banyan_placement_row(i); i++)
        if (strcmp(rows[i]->name, name) == 0) return rows[i];
    return NULL;
}
