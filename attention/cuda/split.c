/* SPDX-License-Identifier: Apache-2.0 */
/* A worker that takes as much as its run has room for gets at least as far along the line as
 * with any other choice, and what is left after a place costs no more than what is left after a
 * place before it. So filling one worker after the other needs the fewest workers for a given
 * length of runs, and the shortest length for which they suffice is found by bisection.
 *
 * It lies between total / workers and that plus (2 start + 1): a cut adds one start, and a
 * worker leaves at most `start` of its room unused, since start + 1 are enough for one block
 * more. */
#include "attention/cuda/split.h"

/* Deal the tiles to workers with `length` of room each; returns how many it takes, or `limit` +
 * 1. With `whole` no tile is cut, and a length that a tile does not fit in is no solution. */
static int32_t deal(const int32_t *blocks, int32_t tiles, int64_t length, int32_t start,
                    int whole, int32_t limit)
{
    int32_t workers = 1;
    int64_t room = length;
    for (int32_t tile = 0; tile < tiles; tile++) {
        const int64_t cost = (int64_t)start + blocks[tile];
        if (cost <= room) {
            room -= cost;
            continue;
        }
        if (whole) {
            if (cost > length || ++workers > limit) return limit + 1;
            room = length - cost;
            continue;
        }
        int64_t left = blocks[tile];
        if (room > start) left -= room - start;
        /* left is over 0, or the list is empty: then it is the start that found no room */
        const int64_t full = length - start;
        const int64_t more = left ? (left + full - 1) / full : 1;
        if (more > limit - workers) return limit + 1;
        workers += (int32_t)more;
        room = length - start - (left - (more - 1) * full);
    }
    return workers;
}

/* The shortest length in low .. high with which `workers` suffice; high + 1 if none does. */
static int64_t shortest(const int32_t *blocks, int32_t tiles, int64_t low, int64_t high,
                        int32_t start, int whole, int32_t workers)
{
    while (low <= high) {
        const int64_t middle = low + (high - low) / 2;
        if (deal(blocks, tiles, middle, start, whole, workers) <= workers) {
            high = middle - 1;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static void next_worker(cuda_split *out, int64_t *room, int64_t length)
{
    out->first_portion[out->workers++] = out->portions;
    *room = length;
}

/* The same walk again, written down. */
static void write_down(const int32_t *blocks, int32_t tiles, int64_t length, int32_t start,
                       int whole, cuda_split *out)
{
    int64_t room = 0;
    next_worker(out, &room, length);
    for (int32_t tile = 0; tile < tiles; tile++) {
        const int32_t first_portion = out->portions;
        int32_t done = 0;
        do {
            const int32_t left = blocks[tile] - done;
            const int64_t needed = (int64_t)start + (whole ? left : left > 0);
            if (room < needed) next_worker(out, &room, length);
            const int32_t count = left <= room - start ? left : (int32_t)(room - start);
            out->portion[out->portions++] = (cuda_portion){tile, done, count, -1};
            room -= (int64_t)start + count;
            done += count;
            if (length - room > out->longest) out->longest = length - room;
        } while (done < blocks[tile]);
        const int32_t portions = out->portions - first_portion;
        if (portions == 1) continue;
        out->cut[out->cuts++] = (cuda_cut){tile, out->partials, portions};
        for (int32_t i = 0; i < portions; i++)
            out->portion[first_portion + i].partial = out->partials++;
    }
    out->first_portion[out->workers] = out->portions;
}

void banyan_cuda_split(const int32_t *blocks, int32_t tiles, int32_t workers,
                       cuda_split_costs costs, cuda_split *out)
{
    out->workers = out->portions = out->partials = out->cuts = 0;
    out->longest = 0;
    out->first_portion[0] = 0;
    if (tiles == 0) return;
    const int32_t start = costs.start, least = costs.least > 0 ? costs.least : 1;
    int64_t total = 0;
    for (int32_t tile = 0; tile < tiles; tile++) total += (int64_t)start + blocks[tile];

    int64_t low = (total + workers - 1) / workers;
    if (low < start + least) low = start + least;
    int64_t length =
        shortest(blocks, tiles, low, low + 2 * (int64_t)start + 1, start, 0, workers);
    int64_t uncut = shortest(blocks, tiles, length, length + costs.cut, start, 1, workers);
    const int whole = uncut <= length + costs.cut;
    write_down(blocks, tiles, whole ? uncut : length, start, whole, out);
}

/* A run ends with the portion that brings all portions so far to the run's share. */
static void deal_portions(int32_t workers, int32_t start, cuda_split *out)
{
    int64_t total = 0, sum = 0, before = 0;
    for (int32_t i = 0; i < out->portions; i++) total += (int64_t)start + out->portion[i].count;
    out->workers = out->portions > 0;
    out->longest = 0;
    for (int32_t i = 0, share = 1; i < out->portions; i++) {
        sum += (int64_t)start + out->portion[i].count;
        if (sum - before > out->longest) out->longest = sum - before;
        if (sum * workers < total * share || i + 1 == out->portions) continue;
        while (sum * workers >= total * share) share++;
        out->first_portion[out->workers++] = i + 1;
        before = sum;
    }
    out->first_portion[out->workers] = out->portions;
}

void banyan_cuda_split_parts(const int32_t *blocks, const int32_t *tiles, int32_t parts,
                             int32_t workers, cuda_split_costs costs, cuda_split *out)
{
    cuda_split all = *out;
    all.workers = all.portions = all.partials = all.cuts = 0;
    all.longest = 0;
    all.first_portion[0] = 0;
    for (int32_t p = 0, first = 0; p < parts; first += tiles[p++]) {
        cuda_split one = {.portion = all.portion + all.portions,
                          .first_portion = all.first_portion,
                          .cut = all.cut + all.cuts};
        banyan_cuda_split(blocks + first, tiles[p], workers, costs, &one);
        for (int32_t i = 0; i < one.portions; i++) {
            one.portion[i].tile += first;
            if (one.portion[i].partial >= 0) one.portion[i].partial += all.partials;
        }
        for (int32_t i = 0; i < one.cuts; i++) {
            one.cut[i].tile += first;
            one.cut[i].partial += all.partials;
        }
        all.workers = one.workers;
        all.longest = one.longest;
        all.portions += one.portions;
        all.partials += one.partials;
        all.cuts += one.cuts;
    }
    if (parts > 1) deal_portions(workers, costs.start, &all);
    *out = all;
}
