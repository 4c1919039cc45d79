/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h - a bump allocator: what a cache or a plan needs lies in one piece of memory, whose
 * layout is measured by the code that lays it out.
 *
 * Knows: alignment. Refuses to know: where the memory is from, and what lies in it. */
#ifndef BANYAN_ARENA_H
#define BANYAN_ARENA_H

#include <stddef.h>
#include <stdint.h>

/* With base NULL it only counts. */
typedef struct banyan_arena {
    char *base;
    size_t used;
} banyan_arena;

/* What `bytes` take in an arena: the next multiple of 64. */
size_t banyan_arena_bytes(size_t bytes);
/* `count` things of `bytes` at the arena's end, 64-byte aligned; NULL while it only counts. */
void *banyan_arena_take(banyan_arena *arena, int64_t count, size_t bytes);

#endif
