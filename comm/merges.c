/* SPDX-License-Identifier: Apache-2.0 */
/* The table of merges. */
#include "comm/comm.h"

#include <string.h>

#define BANYAN_ROW(name, needs, doc) extern const banyan_merge banyan_merge_##name;
#include "comm/merges.def"
#undef BANYAN_ROW

static const banyan_merge *const rows[] = {
#define BANYAN_ROW(name, needs, doc) &banyan_merge_##name,
#include "comm/merges.def"
#undef BANYAN_ROW
};

const banyan_merge *banyan_merge_row(int index)
{
    return index >= 0 && index < (int)(sizeof rows / sizeof *rows) ? rows[index] : NULL;
}

const banyan_merge *banyan_merge_find(const char *name)
{
    for (int i = 0; name && banyan_merge_row(i); i++)
        if (!strcmp(rows[i]->name, name)) return rows[i];
    return NULL;
}
