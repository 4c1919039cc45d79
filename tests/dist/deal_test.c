/* SPDX-License-Identifier: Apache-2.0 */
/* Dealing: every closed form against the loop that it replaces. */
#include "dist/plan.h"
#include "tests/test.h"

static uint64_t reverse_by_bits(uint64_t x)
{
    uint64_t y = 0;
    for (int i = 0; i < 64; i++) y |= (x >> i & 1) << (63 - i);
    return y;
}

static void test_reverse(uint64_t *seed)
{
    CHECK(banyan_bit_reverse(1) == UINT64_C(1) << 63);
    CHECK(banyan_bit_reverse(6) == UINT64_C(3) << 61);
    for (int i = 0; i < 1000; i++) {
        const uint64_t x = test_random(seed);
        CHECK(banyan_bit_reverse(x) == reverse_by_bits(x));
    }
}

static uint64_t random_cut(uint64_t *seed)
{
    switch (test_below(seed, 4)) {
    case 0: return UINT64_MAX;
    case 1: return reverse_by_bits((uint64_t)test_below(seed, 2000)); /* a point itself */
    case 2: return reverse_by_bits((uint64_t)test_below(seed, 2000)) + 1;
    default: return test_random(seed);
    }
}

static void test_below_cut(uint64_t *seed)
{
    for (int i = 0; i < 3000; i++) {
        const int64_t n = test_below(seed, 1500);
        const uint64_t cut = random_cut(seed);
        int64_t count = 0;
        for (int64_t k = 0; k < n; k++) count += reverse_by_bits((uint64_t)k) < cut;
        CHECK_MSG(banyan_deal_below(n, cut) == count, "n %lld, cut %llx: %lld, not %lld",
                  (long long)n, (unsigned long long)cut, (long long)banyan_deal_below(n, cut),
                  (long long)count);
    }
}

static banyan_retention random_retention(uint64_t *seed)
{
    static const int32_t periods[] = {1, 2, 3, 7, 16, 60, 64, 65, 200};
    banyan_retention r = {.prefix = test_below(seed, 3) ? 0 : test_below(seed, 40)};
    r.period = periods[test_below(seed, 9)];
    for (int64_t i = test_below(seed, 4); i > 0; i--) {
        const int64_t residue = test_below(seed, r.period);
        r.residue[residue / 64] |= UINT64_C(1) << residue % 64;
    }
    return r;
}

/* Random holders with ascending cuts. */
static int32_t random_holders(uint64_t *seed, banyan_holder *holder, int32_t most)
{
    const int32_t count = 1 + (int32_t)test_below(seed, most);
    for (int32_t i = 0; i < count; i++) {
        holder[i].rank = i;
        holder[i].cut = (uint64_t)((double)(i + 1) / count * 1.8e19) + test_random(seed) % 1000;
    }
    holder[count - 1].cut = UINT64_MAX;
    return count;
}

static void test_kept_below(uint64_t *seed)
{
    for (int i = 0; i < 1000; i++) {
        const banyan_retention r = random_retention(seed);
        banyan_kept_set kept = {.retention = &r, .blocks = test_below(seed, 800)};
        kept.from = test_below(seed, kept.blocks + 1);
        const uint64_t cut = random_cut(seed);
        int64_t count = 0;
        for (int64_t b = 0; b < kept.blocks; b++) {
            if (!banyan_retention_permanent(&r, b) && b < kept.from) continue;
            const int64_t n = banyan_retention_ordinal(&r, b);
            count += cut == UINT64_MAX || reverse_by_bits((uint64_t)n) < cut;
        }
        CHECK_MSG(banyan_kept_below(&kept, cut) == count, "period %d, %lld of %lld, not %lld",
                  (int)r.period, (long long)banyan_kept_below(&kept, cut),
                  (long long)kept.blocks, (long long)count);
    }
}

static void test_owner(uint64_t *seed)
{
    banyan_holder holder[40];
    for (int i = 0; i < 300; i++) {
        const int32_t count = random_holders(seed, holder, 40);
        for (int64_t n = 0; n < 100; n++) {
            int32_t first = 0;
            while (first + 1 < count && !(reverse_by_bits((uint64_t)n) < holder[first].cut))
                first++;
            CHECK(banyan_owner_index(holder, count, n) == first);
        }
    }
    holder[0].cut = reverse_by_bits(5); /* a block on the cut itself is the next holder's */
    holder[1].cut = UINT64_MAX;
    CHECK(banyan_owner_index(holder, 2, 5) == 1);
    banyan_placed placed = {.holder = holder, .count = random_holders(seed, holder, 40)};
    for (int32_t i = 0; i < placed.count; i++) holder[i].rank = 3 * i + 1;
    for (int32_t i = 0; i < placed.count; i++) {
        CHECK(banyan_holder_index(&placed, 3 * i + 1) == i);
        CHECK(banyan_holder_index(&placed, 3 * i) == -1);
    }
    CHECK(banyan_holder_index(&placed, 3 * placed.count + 1) == -1);
}

/* After settling each cut has the share that the cut before stood for, rounded, below it; two
 * blocks can share one point (a permanent one's ordinal and another's number): then one
 * more. */
static void test_settle(uint64_t *seed)
{
    banyan_holder holder[50], before[50];
    for (int i = 0; i < 200; i++) {
        const banyan_retention r = random_retention(seed);
        banyan_kept_set kept = {.retention = &r, .blocks = 1 + test_below(seed, 3000)};
        kept.from = kept.blocks - test_below(seed, kept.blocks < 40 ? kept.blocks : 40);
        const int32_t count = random_holders(seed, holder, 50);
        memcpy(before, holder, sizeof holder);
        banyan_deal_settle(&kept, holder, count);
        const double all = (double)banyan_kept_below(&kept, UINT64_MAX);
        const int both = kept.from < kept.blocks;
        CHECK(holder[count - 1].cut == UINT64_MAX);
        for (int32_t k = 0; k + 1 < count; k++) {
            const double due = (double)before[k].cut / 0x1p64 * all;
            const double has = (double)banyan_kept_below(&kept, holder[k].cut);
            CHECK_MSG(has - due <= 0.5001 + both && due - has <= 0.5001 + both,
                      "due %.3f, has %.0f of %.0f", due, has, all);
            CHECK(k == 0 || holder[k].cut >= holder[k - 1].cut);
        }
    }
}

static void test_most(uint64_t *seed)
{
    for (int i = 0; i < 200; i++) {
        const int64_t blocks = 1 + test_below(seed, i % 10 ? 100 : 6000);
        uint64_t low = random_cut(seed), high = random_cut(seed);
        if (low > high) {
            const uint64_t swap = low;
            low = high;
            high = swap;
        }
        const int64_t bound = banyan_deal_most(blocks, low, high);
        int64_t inside = 0, most = 0;
        for (int64_t n = 0; n < 16384 + blocks; n++) {
            uint64_t x = banyan_bit_reverse((uint64_t)n);
            inside += x >= low && x < high;
            x = banyan_bit_reverse((uint64_t)(n - blocks));
            if (n >= blocks) inside -= x >= low && x < high;
            if (inside > most) most = inside;
        }
        CHECK_MSG(bound >= most, "%lld blocks: bound %lld, seen %lld", (long long)blocks,
                  (long long)bound, (long long)most);
        CHECK_MSG(bound <= most + 2 * (blocks / 4096 + 1), "%lld blocks: bound %lld, seen %lld",
                  (long long)blocks, (long long)bound, (long long)most);
    }
}

int main(void)
{
    uint64_t seed = 11;
    test_reverse(&seed);
    test_below_cut(&seed);
    test_kept_below(&seed);
    test_owner(&seed);
    test_settle(&seed);
    test_most(&seed);
    return test_end();
}
