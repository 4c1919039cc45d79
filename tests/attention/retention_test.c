/* SPDX-License-Identifier: Apache-2.0 */
/* Retention's closed forms and block lists, against counting and trying. */
#include "attention/attention.h"
#include "tests/attention/held.h"
#include "tests/test.h"

static banyan_retention draw(uint64_t *random, int32_t most_period)
{
    banyan_retention r = {.prefix = test_below(random, 3) * test_below(random, 20),
                          .period = 1 + (int32_t)test_below(random, most_period),
                          .reach = test_below(random, 100)};
    int density = (int)test_below(random, 5);
    for (int32_t i = 0; i < r.period; i++)
        if (test_below(random, 4) < density) r.residue[i / 64] |= (uint64_t)1 << (i % 64);
    return r;
}

/* The definition, in one line. */
static int permanent(const banyan_retention *r, int64_t block)
{
    int64_t i = block % r->period;
    return block < r->prefix || (r->residue[i / 64] >> (i % 64) & 1);
}

static void test_counts(void)
{
    uint64_t random = 1;
    for (int trial = 0; trial < 300; trial++) {
        banyan_retention r = draw(&random, trial % 2 ? 12 : 300);
        int64_t count = 0;
        for (int64_t block = 0; block < 700; block++) {
            CHECK(banyan_retention_permanent(&r, block) == permanent(&r, block));
            CHECK(banyan_retention_count(&r, block) == count);
            CHECK(banyan_retention_ordinal(&r, block) ==
                  (permanent(&r, block) ? count : block));
            count += permanent(&r, block);
        }
    }
    banyan_retention r = {.prefix = 1, .period = 16, .residue = {1 << 5}};
    int64_t far = (int64_t)1 << 40; /* blocks */
    CHECK(banyan_retention_count(&r, far) == 1 + far / 16);
    CHECK(banyan_retention_ordinal(&r, far + 5) == 1 + far / 16);
    CHECK(banyan_retention_ordinal(&r, far + 6) == far + 6);
    CHECK(banyan_retention_keeps(&r, far, far * 256 + 255, 256) &&
          !banyan_retention_keeps(&r, far, far * 256 + 256, 256));
}

static void test_union(void)
{
    uint64_t random = 2;
    for (int trial = 0; trial < 400; trial++) {
        banyan_retention a = draw(&random, 24), b = draw(&random, 24), u = a;
        CHECK(banyan_retention_union(&u, &b) == 1);
        for (int64_t block = 0; block < 600; block++) {
            CHECK(banyan_retention_permanent(&u, block) ==
                  (permanent(&a, block) || permanent(&b, block)));
            for (int64_t row = block * 16; row < block * 16 + 160; row += 13)
                CHECK(banyan_retention_keeps(&u, block, row, 16) ==
                      (banyan_retention_keeps(&a, block, row, 16) ||
                       banyan_retention_keeps(&b, block, row, 16)));
        }
    }
    /* the eight residues of a stride of 8 are all blocks */
    banyan_retention all = {.period = 1};
    for (int i = 0; i < 8; i++) {
        banyan_retention one = {.period = 8, .residue = {(uint64_t)1 << i}};
        CHECK(banyan_retention_union(&all, &one));
        CHECK(all.period == (i == 7 ? 1 : 8));
    }
    CHECK(all.residue[0] == 1);
    /* periods without a common one that fits: everything is kept, and said so */
    banyan_retention x = {.prefix = 3, .period = 4095, .residue = {1}, .reach = 5}, y = x;
    y.period = 4096;
    CHECK(banyan_retention_union(&x, &y) == 0);
    CHECK(x.period == 1 && x.residue[0] == 1 && x.prefix == 3 && x.reach == 5);
    /* but a head that keeps everything anyway needs no common period, nor one that keeps
     * none */
    banyan_retention none = {.period = 4095}, dense = {.period = 1, .residue = {1}};
    CHECK(banyan_retention_union(&none, &y) == 1 && none.period == 4096);
    CHECK(banyan_retention_union(&y, &dense) == 1 && y.period == 1);
    banyan_retention wide = {.period = 4096};
    wide.residue[4095 / 64] = (uint64_t)1 << 63;
    banyan_retention narrow = {.period = 2, .residue = {1}};
    CHECK(banyan_retention_union(&wide, &narrow) == 1 && wide.period == 4096);
    CHECK(banyan_retention_permanent(&wide, 4095 + 4096) &&
          !banyan_retention_permanent(&wide, 4093) &&
          banyan_retention_count(&wide, 4096) == 2049);
}

/* Adding runs: clipped at 0, empty ones dropped, ascending and disjoint whatever overlaps. */
static void test_selection_add(void)
{
    uint64_t random = 3;
    for (int trial = 0; trial < 2000; trial++) {
        banyan_selection s = {.count = 0};
        const banyan_run *run = s.run;
        char expect[64] = {0};
        int64_t first = test_below(&random, 24) - 8, ends = -1;
        for (int i = 0; i < 3; i++) {
            int64_t last = first + test_below(&random, 14) - 3; /* now and then empty */
            if (last < ends && last >= first) last = ends;
            int64_t step = i == 0 ? 1 + test_below(&random, 5) : 1; /* strided, then dense */
            banyan_selection_add(&s, first, last, step, 0);
            for (int64_t b = first; b <= last; b += step)
                if (b >= 0) expect[b] = 1;
            if (last < first) continue;
            ends = last;
            first += test_below(&random, last - first + 4);
        }
        char got[64] = {0};
        int64_t before = -1;
        for (int32_t i = 0; i < s.count; i++) {
            CHECK(run[i].first > before && run[i].last >= run[i].first);
            before = run[i].last;
            for (int64_t b = run[i].first; b <= run[i].last; b += run[i].step) got[b] = 1;
        }
        CHECK_MSG(!memcmp(expect, got, sizeof(got)), "trial %d", trial);
    }
    banyan_selection s = {.count = 0};
    banyan_selection_add(&s, -7, 20, 5, 1); /* -7 -2 3 8 13 18 */
    CHECK(s.count == 1 && s.run[0].first == 3 && s.run[0].last == 18 && s.run[0].edge == 1);
    for (int i = 1; i < BANYAN_MAX_RUNS; i++) {
        banyan_selection_add(&s, 30 * i, 30 * i + 9, 1, 0);
        CHECK(s.count == i + 1 && !s.too_many);
    }
    banyan_selection_add(&s, 2000, 1999, 1, 0); /* nothing needs no room */
    CHECK(s.count == BANYAN_MAX_RUNS && !s.too_many);
    banyan_selection_add(&s, 2000, 2001, 1,
                         0); /* no room: nothing is written, and it is said */
    CHECK(s.count == BANYAN_MAX_RUNS && s.too_many);
    CHECK(banyan_selection_holds(&s, 3) && banyan_selection_holds(&s, 18) &&
          !banyan_selection_holds(&s, 4) && !banyan_selection_holds(&s, 23) &&
          banyan_selection_holds(&s, 39) && !banyan_selection_holds(&s, 40));
}

/* ---- lists ------------------------------------------------------------------------------- */

enum { GROUP = 6, BLOCK = 16, BLOCKS = 20 };

static int draw_classes(uint64_t *random, banyan_class *classes, int *class_of_head)
{
    static const char *const rules[] = {
        "dense",
        "s2 stride=4 local=2 per=query",
        "s2 stride=3 local=25t per=query",
        "sink_window sink=1 window=3",
        "sink_window sink=5t window=20t",
        "sink_window sink=5t window=33t",
    };
    int count = 0;
    char why[128];
    for (int h = 0; h < GROUP; h++) {
        banyan_pattern p;
        const char *use = rules[test_below(random, 6)];
        CHECK(banyan_pattern_parse(use, h, GROUP, 1, BLOCK, 0, &p, why, sizeof(why)) ==
              BANYAN_OK);
        int c = 0;
        while (c < count && !banyan_pattern_equal(&classes[c].pattern, &p)) c++;
        if (c == count) classes[count++] = (banyan_class){.pattern = p};
        classes[c].heads |= (uint64_t)1 << h;
        class_of_head[h] = c;
    }
    return count;
}

/* Does the list let the row of a head see a token? Checks that it does so through one entry. */
static int list_reads(const banyan_entry *entries, int64_t count, const banyan_edge *edges,
                      int head, int64_t row, int64_t token)
{
    int seen = 0, found = 0;
    for (int64_t i = 0; i < count; i++) {
        const banyan_entry *e = &entries[i];
        if (e->block != token / BLOCK || !(e->heads >> head & 1)) continue;
        found++;
        seen = e->edge < 0 || token < edges[e->edge].sink_end ||
               token > row - edges[e->edge].window;
    }
    CHECK(found <= 1);
    return seen;
}

static void test_lists(void)
{
    uint64_t random = 4;
    for (int trial = 0; trial < 150; trial++) {
        banyan_class classes[GROUP] = {0};
        int class_of_head[GROUP], held_count = 0;
        int count = draw_classes(&random, classes, class_of_head);
        banyan_held held[BLOCKS];
        banyan_entry entries[BLOCKS * GROUP];
        banyan_edge edges[GROUP];
        char record[BLOCKS], is_held[BLOCKS] = {0};
        for (int b = 0; b < BLOCKS; b++) {
            if (test_below(&random, 4) == 0) continue;
            held[held_count++] = (banyan_held){b, &record[b]};
            is_held[b] = 1;
        }
        int64_t own = test_below(&random, BLOCKS);
        int64_t first = own * BLOCK + test_below(&random, BLOCK);
        int64_t last = first + test_below(&random, (own + 1) * BLOCK - first);
        const banyan_held_list list = held_list(held, held_count);
        int64_t n = banyan_list_build(classes, count, NULL, first, last, &list, entries, edges);

        CHECK(n <= held_count * count);
        for (int64_t i = 0; i < n; i++) {
            CHECK(entries[i].heads && entries[i].record == &record[entries[i].block]);
            CHECK(entries[i].block <= own && is_held[entries[i].block]);
            CHECK(entries[i].edge >= -1 && entries[i].edge < count);
            for (int64_t j = 0; j < i; j++)
                CHECK(entries[j].block < entries[i].block ||
                      (entries[j].block == entries[i].block &&
                       entries[j].edge != entries[i].edge &&
                       !(entries[j].heads & entries[i].heads)));
        }
        for (int h = 0; h < GROUP; h++)
            for (int64_t row = first; row <= last; row++)
                for (int64_t token = 0; token <= row; token += 1 + token % 2)
                    CHECK_MSG(list_reads(entries, n, edges, h, row, token) ==
                                  (is_held[token / BLOCK] &&
                                   banyan_pattern_reads(&classes[class_of_head[h]].pattern, row,
                                                        token)),
                              "trial %d head %d row %lld token %lld", trial, h, (long long)row,
                              (long long)token);
    }
}

int main(void)
{
    test_counts();
    test_union();
    test_selection_add();
    test_lists();
    return test_end();
}
