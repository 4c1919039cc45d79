/* SPDX-License-Identifier: Apache-2.0 */
/* The split of tiles over workers: every block once, in order, within the room that was
 * promised; partials that a combine can walk in order; and runs as short as any contiguous
 * split has. */
#include "attention/cuda/split.h"
#include "tests/test.h"

enum { MOST_TILES = 600, MOST_WORKERS = 300 };

typedef struct result {
    cuda_portion portion[MOST_TILES + MOST_WORKERS];
    int32_t first_portion[MOST_WORKERS + 2];
    cuda_cut cut[MOST_WORKERS];
    cuda_split split;
} result;

/* What is behind the last element that was promised stays as it was. */
static void run(const int32_t *blocks, int32_t tiles, int32_t workers, cuda_split_costs costs,
                result *r)
{
    memset(r, 0x5a, sizeof(*r));
    r->split.portion = r->portion;
    r->split.first_portion = r->first_portion;
    r->split.cut = r->cut;
    banyan_cuda_split(blocks, tiles, workers, costs, &r->split);
    CHECK(r->split.portions <= cuda_split_portions(tiles, workers));
    CHECK(r->split.partials <= cuda_split_partials(tiles, workers));
    CHECK(r->split.cuts <= cuda_split_cuts(tiles, workers));
    CHECK(r->split.workers <= workers);
    CHECK(r->first_portion[r->split.workers + 1] == 0x5a5a5a5a);
    CHECK(r->portion[r->split.portions].tile == 0x5a5a5a5a);
}

/* Lists are covered from end to end, and cuts tell where the partials are. */
static void check_cover(const int32_t *blocks, int32_t tiles, const result *r)
{
    int32_t portion = 0, partial = 0, cut = 0;
    for (int32_t tile = 0; tile < tiles; tile++) {
        int32_t done = 0, first = portion;
        do {
            CHECK(portion < r->split.portions && r->portion[portion].tile == tile);
            if (portion >= r->split.portions) return;
            CHECK(r->portion[portion].first == done);
            CHECK(r->portion[portion].count > 0 || blocks[tile] == 0);
            done += r->portion[portion++].count;
        } while (done < blocks[tile]);
        CHECK(done == blocks[tile]);
        if (portion - first == 1) {
            CHECK(r->portion[first].partial == -1);
            continue;
        }
        CHECK(cut < r->split.cuts && r->cut[cut].tile == tile &&
              r->cut[cut].partial == partial && r->cut[cut].partials == portion - first);
        for (int32_t i = first; i < portion; i++) CHECK(r->portion[i].partial == partial++);
        cut++;
    }
    CHECK(portion == r->split.portions && partial == r->split.partials && cut == r->split.cuts);
}

/* Workers have runs of portions, none empty, none longer than said; returns the longest. */
static int64_t check_runs(const result *r, int32_t start)
{
    int64_t longest = 0;
    CHECK(r->first_portion[0] == 0 && r->first_portion[r->split.workers] == r->split.portions);
    for (int32_t w = 0; w < r->split.workers; w++) {
        CHECK(r->first_portion[w] < r->first_portion[w + 1]);
        int64_t cost = 0;
        for (int32_t i = r->first_portion[w]; i < r->first_portion[w + 1]; i++)
            cost += (int64_t)start + r->portion[i].count;
        if (cost > longest) longest = cost;
    }
    CHECK(longest == r->split.longest);
    return longest;
}

/* Workers needed when none does more than `length`. Filling them one by one is best (split.c
 * says why); here block by block, with other code. */
static int32_t fewest(const int32_t *blocks, int32_t tiles, int64_t length, int32_t start)
{
    int32_t tile = 0, done = 0, workers = 0;
    while (tile < tiles) { /* the furthest place from the furthest place */
        int64_t room = length;
        int moved = 0;
        while (tile < tiles && room >= start + (blocks[tile] > done)) {
            room -= start;
            while (done < blocks[tile] && room > 0) room--, done++;
            moved = 1;
            if (done < blocks[tile]) break;
            tile++;
            done = 0;
        }
        if (!moved) return 1 << 30;
        workers++;
    }
    return workers;
}

static void check_all(const int32_t *blocks, int32_t tiles, int32_t workers,
                      cuda_split_costs costs)
{
    static result r;
    run(blocks, tiles, workers, costs, &r);
    check_cover(blocks, tiles, &r);
    const int64_t longest = check_runs(&r, costs.start);
    int64_t total = 0, least = costs.start + costs.least;
    for (int32_t i = 0; i < tiles; i++) total += (int64_t)costs.start + blocks[i];
    /* No split is better than an equal share of everything, or than one whose runs are shorter
     * by 1. */
    const int64_t allowed = r.split.cuts ? 0 : costs.cut;
    const int64_t shorter = longest - allowed - 1;
    if (shorter >= least) CHECK(fewest(blocks, tiles, shorter, costs.start) > workers);
    const int64_t bound = (total + workers - 1) / workers + 2 * costs.start + 1;
    CHECK_MSG(longest <= (bound > least ? bound : least) + allowed, "%lld, but %lld / %d",
              (long long)longest, (long long)total, workers);
    /* Within one block of equal, when starting costs nothing. */
    if (costs.start == 0 && r.split.cuts && total >= (int64_t)least * workers)
        CHECK(longest * workers < total + workers);
}

static void test_drawn(void)
{
    uint64_t random = 7;
    int32_t blocks[MOST_TILES];
    for (int trial = 0; trial < 4000; trial++) {
        const int32_t tiles = (int32_t)test_below(&random, trial % 10 ? 20 : MOST_TILES);
        const int32_t workers = 1 + (int32_t)test_below(&random, MOST_WORKERS);
        const int64_t size = 1 + test_below(&random, trial % 3 ? 40 : 20000);
        for (int32_t i = 0; i < tiles; i++)
            blocks[i] = test_below(&random, 5) ? (int32_t)test_below(&random, size) : 0;
        const cuda_split_costs costs = {(int32_t)test_below(&random, 4),
                                        (int32_t)test_below(&random, 12),
                                        1 + (int32_t)test_below(&random, 6)};
        check_all(blocks, tiles, workers, costs);
    }
}

/* Several parts: each is cut as it is alone, and runs are equal but for a portion. */
static void test_parts(void)
{
    enum { PARTS = 8, MOST = 6 };
    static result all, one;
    uint64_t random = 11;
    int32_t blocks[PARTS * MOST];
    const int32_t most = (int32_t)(sizeof blocks / sizeof *blocks);
    for (int trial = 0; trial < 500; trial++) {
        const int32_t workers = 1 + (int32_t)test_below(&random, 20);
        const cuda_split_costs costs = {1 + (int32_t)test_below(&random, 3), 4, 4};
        int32_t tiles[PARTS], first = 0, portions = 0, partials = 0, cuts = 0, largest = 0;
        int64_t total = 0;
        for (int32_t p = 0; p < PARTS; p++) tiles[p] = (int32_t)test_below(&random, MOST);
        for (int32_t i = 0; i < most; i++) blocks[i] = (int32_t)test_below(&random, 300);
        all.split = (cuda_split){
            .portion = all.portion, .first_portion = all.first_portion, .cut = all.cut};
        banyan_cuda_split_parts(blocks, tiles, PARTS, workers, costs, &all.split);
        for (int32_t p = 0; p < PARTS; first += tiles[p++]) {
            run(blocks + first, tiles[p], workers, costs, &one);
            for (int32_t i = 0; i < one.split.portions; i++, portions++) {
                const cuda_portion *a = &all.portion[portions], *b = &one.portion[i];
                CHECK(a->tile == b->tile + first && a->first == b->first &&
                      a->count == b->count);
                CHECK(a->partial == (b->partial < 0 ? -1 : b->partial + partials));
                total += costs.start + b->count;
                if (b->count > largest) largest = b->count;
            }
            for (int32_t i = 0; i < one.split.cuts; i++, cuts++)
                CHECK(all.cut[cuts].tile == one.cut[i].tile + first &&
                      all.cut[cuts].partial == one.cut[i].partial + partials &&
                      all.cut[cuts].partials == one.cut[i].partials);
            partials += one.split.partials;
        }
        CHECK(all.split.portions == portions && all.split.partials == partials &&
              all.split.cuts == cuts);
        CHECK(all.split.workers <= workers);
        if (portions)
            CHECK(check_runs(&all, costs.start) <=
                  (total + workers - 1) / workers + costs.start + largest);
    }
}

static void test_edges(void)
{
    static result r;
    const cuda_split_costs costs = {2, 8, 4};
    run(NULL, 0, 132, costs, &r); /* nothing at all */
    CHECK(r.split.portions == 0 && r.split.workers == 0 && r.split.cuts == 0);

    const int32_t empty[] = {0, 0, 0};
    check_all(empty, 3, 132, costs);
    run(empty, 3, 132, costs, &r);
    CHECK(r.split.portions == 3 && r.split.partials == 0);

    const int32_t one[] = {1};
    run(one, 1, 132, costs, &r); /* not more workers than blocks */
    CHECK(r.split.workers == 1 && r.split.portions == 1 && r.portion[0].partial == -1);

    const int32_t small[] = {9, 9, 9, 9}; /* whole tiles, no combine */
    run(small, 4, 132, costs, &r);
    CHECK(r.split.cuts == 0 && r.split.workers == 4);

    const int32_t large[] = {262144, 262144, 262144, 262144, 262144, 262144, 262144, 262144};
    run(large, 8, 132, costs, &r); /* 16 Mi tokens, 8 KV heads */
    CHECK(r.split.workers == 132 && r.split.cuts == 8);
    CHECK(r.split.longest <= 8 * 262144 / 132 + 6);

    const int32_t huge[] = {INT32_MAX, INT32_MAX, 0, INT32_MAX};
    check_all(huge, 4, 1, costs); /* sums over 32 bits; huge[3] goes last */
}

int main(void)
{
    test_drawn();
    test_parts();
    test_edges();
    return test_end();
}
