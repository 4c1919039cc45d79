/* SPDX-License-Identifier: Apache-2.0 */
/* decode_list.h - how the threads of a decode walk through a strip's list. For device code. */
#ifndef BANYAN_ATTENTION_CUDA_DECODE_LIST_H
#define BANYAN_ATTENTION_CUDA_DECODE_LIST_H

#include "attention/attention.h"
#include "attention/cuda/ptx.h"
#include "attention/cuda/split.h"

/* A place of a list. */
struct decode_entry {
    uint32_t record;
    int32_t block, masked;
};
/* Where a thread is in a strip's spans; it only goes forward. */
struct decode_cursor {
    const banyan_span *span;
    const banyan_slot *slot;
    int32_t before; /* places in the spans before this one */
};
PTX_FN decode_entry entry_at(decode_cursor &cursor, int32_t place)
{
    while (place - cursor.before >= cursor.span->count) {
        cursor.before += cursor.span->count;
        cursor.span++;
    }
    const int64_t i = place - cursor.before;
    const banyan_slot slot = cursor.slot[cursor.span->first + i * cursor.span->step];
    return decode_entry{slot.record, slot.block, cursor.span->masked};
}

/* Entries of the list, 32 by 32: lane i has number 32 n + i of it, and of the next 32. */
struct decode_ahead {
    decode_cursor cursor;
    decode_entry now, next;
};
PTX_FN decode_entry ahead_entry(const cuda_portion &portion, decode_cursor &cursor, int i)
{
    return i < portion.count ? entry_at(cursor, portion.first + i) : decode_entry{};
}
/* Entry i, of those 32 that `now` has and the 32 after them. */
PTX_FN decode_entry pick(const decode_ahead &ahead, int now, int i)
{
    const bool is_now = i / 32 == now / 32;
    decode_entry e;
    e.record = is_now ? ahead.now.record : ahead.next.record;
    e.block = is_now ? ahead.now.block : ahead.next.block;
    e.masked = is_now ? ahead.now.masked : ahead.next.masked;
    e.record = __shfl_sync(0xffffffffu, e.record, i % 32);
    e.block = __shfl_sync(0xffffffffu, e.block, i % 32);
    e.masked = __shfl_sync(0xffffffffu, e.masked, i % 32);
    return e;
}

#endif
