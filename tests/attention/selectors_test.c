/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors against their published formulas, written anew here; and for every row of the table
 * the contract: what select, keeps and reads promise each other. */
#include "attention/attention.h"
#include "tests/test.h"

enum { PLANNED = 500 };

static banyan_pattern parse(const char *use, int heads, int kv_heads, int head, int block)
{
    banyan_pattern p = {0};
    char why[256] = "";
    CHECK_MSG(banyan_pattern_parse(use, head, heads, kv_heads, block, PLANNED, &p, why,
                                   sizeof(why)) == BANYAN_OK,
              "%s: %s", use, why);
    return p;
}

/* ---- formulas ---------------------------------------------------------------------------- */

/* DKernel's mask: attend(h,i,j) <=> j <= i and (i - j < L or (j + h step + off) mod V == 0). */
static int s2_blocks(int64_t h, int64_t i, int64_t j, int64_t v, int64_t l, int64_t step,
                     int64_t off)
{
    return j <= i && (i - j < l || (j + h * step + off) % v == 0);
}

static void test_s2_formula(void)
{
    uint64_t random = 1;
    for (int trial = 0; trial < 300; trial++) {
        int kv_heads = 1 + (int)test_below(&random, 8), group = 1 + (int)test_below(&random, 4);
        int heads = kv_heads * group, per_query = (int)test_below(&random, 2);
        int64_t v = 1 + test_below(&random, 24), l = 1 + test_below(&random, 6);
        int64_t step = test_below(&random, 4), off = test_below(&random, 30);
        int dense = (int)test_below(&random, 3) ? 0 : (int)test_below(&random, kv_heads + 1);
        char use[128];
        snprintf(use, sizeof(use),
                 "s2 stride=%lld local=%lld step=%lld offset=%lld per=%s dense=%d",
                 (long long)v, (long long)l, (long long)step, (long long)off,
                 per_query ? "query" : "kv", dense);
        int head = (int)test_below(&random, heads), kv_head = head / group;
        banyan_pattern p = parse(use, heads, kv_heads, head, 16);
        if (step == 0) step = v / heads > 1 ? v / heads : 1;
        int64_t first = test_below(&random, 2) ? 0 : ((int64_t)1 << 34) + 3; /* in blocks */
        for (int sample = 0; sample < 400; sample++) {
            int64_t i = first + test_below(&random, 80);
            int64_t j = i - test_below(&random, 80);
            if (j < 0) continue;
            int64_t row = i * 16 + test_below(&random, 16),
                    token = j * 16 + test_below(&random, 16);
            int expect =
                token <= row && (kv_head >= kv_heads - dense ||
                                 s2_blocks(per_query ? head : kv_head, i, j, v, l, step, off));
            CHECK_MSG(banyan_pattern_reads(&p, row, token) == expect,
                      "%s, head %d of %d/%d: row block %lld, block %lld", use, head, heads,
                      kv_heads, (long long)i, (long long)j);
        }
    }
}

/* Facts about the two conventions that are in use, and DKernel's documented example. */
static void test_s2_conventions(void)
{
    for (int h = 0; h < 32; h++) {
        /* vLLM and Phi-3-small, decode at query length s: key token t is kept iff kb > qb - L
         * or (kb + head + 1) mod V == 0 (step 1), per query head. */
        banyan_pattern phi = parse("s2 stride=8 local=16 offset=1 per=query", 32, 8, h, 64);
        /* DKernel with num_kv_heads: KV heads share, block 0 belongs to head 0. */
        banyan_pattern kernel = parse("s2 stride=8 local=16", 32, 8, h, 64);
        for (int64_t kb = 0; kb < 200; kb += 1) {
            int64_t s = 200 * 64 - 5, qb = (s - 1) / 64;
            CHECK(banyan_pattern_reads(&phi, s - 1, kb * 64 + 3) ==
                  (kb > qb - 16 || (kb + h + 1) % 8 == 0));
            CHECK(banyan_pattern_reads(&kernel, s - 1, kb * 64 + 3) ==
                  (kb > qb - 16 || (kb + h / 4) % 8 == 0));
        }
        CHECK(banyan_pattern_reads(&phi, 99999, 0) == ((h + 1) % 8 == 0));
        CHECK(banyan_pattern_reads(&kernel, 99999, 0) == (h / 4 == 0));
    }
    /* L=1 V=2 head 1, 4 blocks: rows {0} {1} {1,2} {1,3} */
    static const int expect[4][4] = {{1}, {0, 1}, {0, 1, 1}, {0, 1, 0, 1}};
    banyan_pattern p = parse("s2 stride=2 local=1", 2, 2, 1, 64);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j <= i; j++)
            CHECK(banyan_pattern_reads(&p, i * 64 + 63, j * 64) == expect[i][j]);
    /* step 0 is stride / query heads: 4 heads with a stride of 16 shift by 4 */
    banyan_pattern q = parse("s2 stride=16 local=1", 4, 4, 3, 16);
    CHECK(banyan_pattern_reads(&q, 9999, 4 * 16) && !banyan_pattern_reads(&q, 9999, 13 * 16));
    /* one pattern for all heads */
    banyan_pattern a = parse("s2 stride=8 local=4 step=8", 8, 8, 0, 16);
    banyan_pattern b = parse("s2 stride=8 local=4 step=8", 8, 8, 5, 16);
    CHECK(banyan_pattern_equal(&a, &b));
    b = parse("s2 stride=8 local=4", 8, 8, 5, 16);
    CHECK(!banyan_pattern_equal(&a, &b));
    b = parse("s2 stride=8 local=5 step=8", 8, 8, 0, 16);
    CHECK(!banyan_pattern_equal(&a, &b));
    b = parse("s2 stride=8 local=4t step=8", 8, 8, 0, 16);
    CHECK(!banyan_pattern_equal(&a, &b));
    a = parse("sink_window sink=5t", 8, 8, 1, 16); /* both keep one block for good */
    b = parse("sink_window sink=6t", 8, 8, 1, 16);
    CHECK(!banyan_pattern_equal(&a, &b));
    b = parse("sink_window sink=5t", 8, 8, 2, 16);
    CHECK(banyan_pattern_equal(&a, &b));
}

/* Up to local blocks, S2 is dense; and heads together cover all residues iff there are
 * enough. */
static void test_s2_coverage(void)
{
    for (int64_t row = 0; row < 4 * 16; row += 5) {
        banyan_pattern p = parse("s2 stride=7 local=4", 3, 3, 2, 16);
        for (int64_t token = 0; token <= row; token++)
            CHECK(banyan_pattern_reads(&p, row, token));
    }
    static const struct {
        int heads, kv_heads, stride, covered;
    } cases[] = {{8, 8, 8, 8}, {32, 8, 16, 8}, {12, 12, 16, 12}, {4, 4, 16, 4}, {32, 32, 8, 8}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        char use[64];
        int covered = 0;
        snprintf(use, sizeof(use), "s2 stride=%d local=2", cases[c].stride);
        for (int64_t block = 0; block < cases[c].stride; block++) {
            int seen = 0;
            for (int h = 0; h < cases[c].heads; h++) {
                banyan_pattern p = parse(use, cases[c].heads, cases[c].kv_heads, h, 16);
                seen |= banyan_pattern_reads(&p, 100000, block * 16);
            }
            covered += seen;
        }
        CHECK_MSG(covered == cases[c].covered, "case %zu covers %d", c, covered);
    }
    /* what the formula keeps at 128K, blocks of 64: 13.2 % of 2048 with L16 V8, 6.6 % with L8
     * V16 */
    banyan_retention r;
    banyan_pattern p = parse("s2 stride=8 local=16", 8, 8, 0, 64);
    p.selector->keeps(&p, &r);
    CHECK(banyan_retention_count(&r, 2048 - 16) + 16 == 270 && r.reach == 15 * 64);
    p = parse("s2 stride=16 local=8", 8, 8, 0, 64);
    p.selector->keeps(&p, &r);
    CHECK(banyan_retention_count(&r, 2048 - 8) + 8 == 136);
}

static void test_sink_window_formula(void)
{
    uint64_t random = 2;
    for (int trial = 0; trial < 300; trial++) {
        int sink_t = (int)test_below(&random, 2), window_t = (int)test_below(&random, 2);
        int64_t sink = test_below(&random, sink_t ? 70 : 4);
        int64_t window = 1 + test_below(&random, window_t ? 80 : 5);
        char use[96];
        snprintf(use, sizeof(use), "sink_window sink=%lld%s window=%lld%s", (long long)sink,
                 sink_t ? "t" : "", (long long)window, window_t ? "t" : "");
        banyan_pattern p = parse(use, 4, 2, 3, 16);
        for (int sample = 0; sample < 400; sample++) {
            int64_t row = test_below(&random, 260), token = test_below(&random, row + 1);
            int expect = token < (sink_t ? sink : sink * 16) ||
                         (window_t ? token > row - window : row / 16 - token / 16 < window);
            CHECK_MSG(banyan_pattern_reads(&p, row, token) == expect, "%s: row %lld token %lld",
                      use, (long long)row, (long long)token);
        }
        CHECK(!banyan_pattern_reads(&p, 10, 11) && !banyan_pattern_reads(&p, 10, -1));
    }
    banyan_pattern p = parse("dense", 4, 2, 3, 16);
    int64_t far = (int64_t)1 << 40;
    CHECK(banyan_pattern_reads(&p, far, 0) && banyan_pattern_reads(&p, far, far) &&
          !banyan_pattern_reads(&p, far, far + 1));
    /* S2 with a window in tokens: the blocks that the edge cuts, unless they are remote ones */
    p = parse("s2 stride=4 local=20t", 1, 1, 0, 16);
    for (int64_t row = 0; row < 300; row++)
        for (int64_t token = 0; token <= row; token++)
            CHECK(banyan_pattern_reads(&p, row, token) ==
                  (token > row - 20 || token / 16 % 4 == 0));
}

/* ---- the contract, for every row of the table -------------------------------------------- */

/* A rule with small random parameters, drawn from the row's own list. */
static void draw_rule(const banyan_selector *selector, uint64_t *random, char *use,
                      size_t bytes)
{
    size_t used = (size_t)snprintf(use, bytes, "%s", selector->name);
    for (const banyan_param *p = selector->params; p->name; p++) {
        if (test_below(random, 4) == 0 && !p->in_blocks) continue; /* its default */
        if (p->choices) {
            const char *bar = strrchr(p->choices, '|');
            used += (size_t)snprintf(use + used, bytes - used, " %s=%s", p->name, bar + 1);
            continue;
        }
        if (p->is_fraction) {
            used += (size_t)snprintf(use + used, bytes - used, " %s=0.%03d", p->name,
                                     (int)test_below(random, 1000));
            continue;
        }
        if (p->in_tokens) {
            int64_t tokens = test_below(random, 400) - (p->min < 0 ? 200 : 0);
            if (tokens < p->min) tokens = p->min;
            if (tokens > p->max) tokens = p->max;
            used += (size_t)snprintf(use + used, bytes - used, " %s=%lld", p->name,
                                     (long long)tokens);
            continue;
        }
        int in_tokens = p->in_blocks && test_below(random, 2);
        int64_t least = p->min > 0 ? p->min : p->in_blocks;
        int64_t number = least + test_below(random, in_tokens ? 90 : 6);
        used += (size_t)snprintf(use + used, bytes - used, " %s=%lld%s", p->name,
                                 (long long)number, in_tokens ? "t" : "");
    }
}

/* .. one that its check accepts; without a check all are acceptable. No selector: reported. */
static banyan_pattern draw_pattern(const banyan_selector *selector, uint64_t *random, int head,
                                   int block, char *use, size_t bytes)
{
    banyan_pattern p = {0};
    char why[256] = "";
    for (int tries = selector->check ? 100 : 1; tries > 0; tries--) {
        draw_rule(selector, random, use, bytes);
        if (!banyan_pattern_parse(use, head, 16, 8, block, PLANNED, &p, why, sizeof why))
            return p;
    }
    CHECK_MSG(0, "%s: %s", use, why);
    return (banyan_pattern){0};
}

/* How a selection answers for one row, by the words of banyan_edge. */
static int selection_reads(const banyan_selection *s, int64_t row, int64_t token, int64_t block)
{
    for (int32_t i = 0; i < s->count; i++) {
        const banyan_run *run = &s->run[i];
        if (block < run->first || block > run->last || (block - run->first) % run->step)
            continue;
        if (token > row) return 0;
        return !run->edge || token < s->edge.sink_end || token > row - s->edge.window;
    }
    return 0;
}

static void check_selection(const banyan_pattern *p, const char *use, int64_t first,
                            int64_t last)
{
    banyan_selection s;
    const banyan_run *run = s.run;
    int64_t own = last / p->block_tokens, before = -1;
    int holds_own = 0;

    const int64_t end = p->selector->until ? p->selector->until(p, first) : INT64_MAX;
    CHECK_MSG(end > first, "%s: row %lld until %lld", use, (long long)first, (long long)end);
    if (end <= last) { /* of these rows no selection is asked for together */
        check_selection(p, use, end, last);
        last = end - 1;
        own = last / p->block_tokens;
    }
    memset(&s, 77, sizeof s);
    banyan_pattern_select(p, first, last, &s);
    CHECK_MSG(s.count >= 1 && s.count <= BANYAN_MAX_RUNS && !s.too_many, "%s: %d runs", use,
              s.count);
    for (int32_t i = 0; i < s.count; i++) {
        CHECK_MSG(run[i].first > before && run[i].last >= run[i].first && run[i].step >= 1 &&
                      (run[i].last - run[i].first) % run[i].step == 0,
                  "%s rows %lld..%lld: run %d is %lld..%lld by %lld after %lld", use,
                  (long long)first, (long long)last, i, (long long)run[i].first,
                  (long long)run[i].last, (long long)run[i].step, (long long)before);
        before = run[i].last;
        holds_own |= run[i].last == own;
    }
    CHECK_MSG(before <= own && holds_own, "%s rows %lld..%lld", use, (long long)first,
              (long long)last);
    for (int64_t row = first; row <= last; row++) {
        CHECK(banyan_pattern_reads(p, row, row));
        for (int64_t token = 0; token <= last; token += 1 + (token % 3))
            CHECK_MSG(selection_reads(&s, row, token, token / p->block_tokens) ==
                          banyan_pattern_reads(p, row, token),
                      "%s rows %lld..%lld: row %lld token %lld", use, (long long)first,
                      (long long)last, (long long)row, (long long)token);
    }
}

/* What rows of one own block do not read below it is their compensation token, and its ends do
 * not fall. */
static void check_compensation(const banyan_pattern *p, const char *use)
{
    int64_t before = 0;
    if (!p->selector->compensates) return;
    CHECK(p->selector->whole);
    for (int64_t own = 0; own < 40; own++) {
        const int64_t tokens = p->block_tokens;
        int64_t first = -1, end = -1;
        const int is = p->selector->compensates(p, own, &first, &end);
        CHECK_MSG(!is || (first >= 0 && first < end && end <= own * tokens && end >= before),
                  "%s: own block %lld: %lld..%lld after %lld", use, (long long)own,
                  (long long)first, (long long)end, (long long)before);
        for (int64_t token = 0; token < own * tokens; token++)
            for (int64_t row = own * tokens; row < (own + 1) * tokens; row += tokens - 1)
                CHECK_MSG(banyan_pattern_reads(p, row, token) !=
                              (is && token >= first && token < end),
                          "%s: row %lld token %lld", use, (long long)row, (long long)token);
        if (is) before = end;
    }
}

/* keeps(block, row) if some row at or after `row` reads a token of the block, by trying; exact:
 * only then. */
static void check_retention(const banyan_pattern *p, const char *use, int exact)
{
    enum { BLOCKS = 40, TRIED = 24 };
    banyan_retention r;
    int64_t block_tokens = p->block_tokens, tokens = BLOCKS * block_tokens;
    int64_t last_read[BLOCKS];

    p->selector->keeps(p, &r);
    for (int64_t block = 0; block < BLOCKS; block++) {
        last_read[block] = -1;
        for (int64_t row = tokens - 1; row >= block * block_tokens && last_read[block] < 0;
             row--)
            for (int64_t i = 0; i < block_tokens; i++)
                if (banyan_pattern_reads(p, row, block * block_tokens + i))
                    last_read[block] = row;
    }
    for (int64_t row = 0; row < TRIED * block_tokens; row++)
        for (int64_t block = 0; block < TRIED; block++) {
            const int kept = banyan_retention_keeps(&r, block, row, p->block_tokens);
            const int read = last_read[block] >= row;
            CHECK_MSG(exact ? kept == read : kept || !read,
                      "%s: block %lld at row %lld, last read by %lld", use, (long long)block,
                      (long long)row, (long long)last_read[block]);
        }
}

/* Equal patterns read alike. */
static void check_alike(const banyan_selector *selector, const char *use, uint64_t *random)
{
    const banyan_pattern a = parse(use, 16, 8, (int)test_below(random, 16), 16);
    const banyan_pattern b = parse(use, 16, 8, (int)test_below(random, 16), 16);
    if (!banyan_pattern_equal(&a, &b)) return;
    for (int64_t row = 0; row < 400; row += 1 + test_below(random, 40))
        for (int64_t token = 0; token <= row; token++)
            CHECK_MSG(
                banyan_pattern_reads(&a, row, token) == banyan_pattern_reads(&b, row, token),
                "%s of %s: heads %d and %d are not alike", use, selector->name, a.head, b.head);
}

/* The rows that keep no more than is read. */
static void test_exact_retention(void)
{
    uint64_t random = 4;
    static const char *const rules[] = {"dense",
                                        "s2 stride=3 local=2",
                                        "s2 stride=5 local=37t dense=1",
                                        "s2 stride=1",
                                        "sink_window sink=2 window=3",
                                        "sink_window sink=19t window=40t",
                                        "sink_window sink=0 window=1"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const banyan_pattern p = parse(rules[i], 16, 8, (int)test_below(&random, 16), 16);
        check_retention(&p, rules[i], 1);
    }
}

static void test_contract(void)
{
    uint64_t random = 3;
    for (int i = 0; banyan_selector_row(i); i++) {
        const banyan_selector *selector = banyan_selector_row(i);
        CHECK(banyan_selector_find(selector->name) == selector);
        for (int trial = 0; trial < 60; trial++) {
            char use[256];
            int block = trial % 2 ? 16 : 32, head = (int)test_below(&random, 16);
            banyan_pattern p = draw_pattern(selector, &random, head, block, use, sizeof(use));
            if (!p.selector) break;
            for (int tile = 0; tile < 12; tile++) {
                int64_t own = test_below(&random, 14), start = test_below(&random, block);
                int64_t end = start + test_below(&random, block - start);
                check_selection(&p, use, own * block + start, own * block + end);
            }
            if (trial % 4 == 0) check_retention(&p, use, 0);
            check_compensation(&p, use);
            check_alike(selector, use, &random);
        }
    }
}

int main(void)
{
    test_s2_formula();
    test_s2_conventions();
    test_s2_coverage();
    test_sink_window_formula();
    test_contract();
    test_exact_retention();
    return test_end();
}
