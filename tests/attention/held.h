/* SPDX-License-Identifier: Apache-2.0 */
/* held.h - an array of held blocks, as a list in chunks. */
#ifndef BANYAN_TESTS_HELD_H
#define BANYAN_TESTS_HELD_H

#include "attention/attention.h"

enum { HELD_CHUNKS = 1 << 8 };

/* Until the next call. */
static inline banyan_held_list held_list(banyan_held *held, int64_t count)
{
    static banyan_held *chunk[HELD_CHUNKS];
    for (int64_t i = 0; i * BANYAN_HELD_CHUNK < count && i < HELD_CHUNKS; i++)
        chunk[i] = held + i * BANYAN_HELD_CHUNK;
    return (banyan_held_list){chunk, count};
}

#endif
