/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the needle evaluation that need no model: depths, haystacks, results,
 * pictures. */
#include "launch/needle/needle.h"
#include "tests/test.h"

#include <math.h>
#include <unistd.h>

static char why[NEEDLE_WHY];

/* ---- depths ------------------------------------------------------------------------------ */

static needle_grid grid_for(depth_mode mode, int64_t length, int32_t depths, uint64_t seed)
{
    return (needle_grid){.begin = NEEDLE_FIRST,
                         .end = length - NEEDLE_QUESTION,
                         .depths = depths,
                         .mode = mode,
                         .tokens = NEEDLE_TOKENS,
                         .answer = NEEDLE_ANSWER,
                         .answers = NEEDLE_ANSWERS,
                         .block_tokens = 64,
                         .period = 8,
                         .seed = seed};
}

static void check_order(const needle_grid *g, const int64_t *first)
{
    for (int32_t i = 0; i < g->depths; i++) {
        CHECK(first[i] >= g->begin && first[i] + g->tokens <= g->end);
        CHECK(i == 0 || first[i] >= first[i - 1] + g->tokens);
    }
    CHECK(fabs(grid_percent(g, g->begin)) < 1e-12);
    CHECK(fabs(grid_percent(g, g->end - g->tokens) - 100) < 1e-12);
}

/* 64 depths over 8 residues: 8 each, and answers inside one block; the aliasing grid of 33
 * linear depths at 256K puts half of them on one residue. */
static void test_strata(void)
{
    int64_t first[64];
    int32_t used[8] = {0};
    needle_grid g = grid_for(DEPTH_STRATIFIED, 262144, 64, 7);
    CHECK(grid_place(&g, first, why, sizeof why));
    check_order(&g, first);
    for (int i = 0; i < 64; i++) {
        int64_t answer = first[i] + NEEDLE_ANSWER;
        CHECK(answer / 64 == (answer + NEEDLE_ANSWERS - 1) / 64);
        used[answer / 64 % 8]++;
    }
    for (int r = 0; r < 8; r++) CHECK_MSG(used[r] == 8, "residue %d used %d times", r, used[r]);

    int64_t again[64], other[64];
    CHECK(grid_place(&g, again, why, sizeof why));
    CHECK(memcmp(first, again, sizeof first) == 0);
    g.seed = 8;
    CHECK(grid_place(&g, other, why, sizeof why));
    CHECK(memcmp(first, other, sizeof first) != 0);

    needle_grid linear = grid_for(DEPTH_LINEAR, 262144, 33, 7);
    int32_t linear_used[8] = {0}, most = 0;
    CHECK(grid_place(&linear, first, why, sizeof why));
    check_order(&linear, first);
    for (int i = 0; i < 33; i++) {
        int32_t *n = &linear_used[(first[i] + NEEDLE_ANSWER) / 64 % 8];
        if (++*n > most) most = *n;
    }
    CHECK_MSG(most > 3 * 33 / 8, "most on one residue: %d", most); /* even would be 4 or 5 */
}

static int fake_owner(const void *arg, int32_t depth, int64_t block)
{
    (void)arg, (void)depth;
    return (int)(block / 5 % 3); /* borders between ranks every 5 blocks */
}

static void test_borders(void)
{
    int64_t first[12];
    needle_grid g = grid_for(DEPTH_BORDER, 65536, 12, 3);
    g.owner = fake_owner;
    CHECK(grid_place(&g, first, why, sizeof why));
    check_order(&g, first);
    for (int i = 0; i < 12; i++) {
        static const int before[3] = {0, 1, 2};
        int64_t border = first[i] + NEEDLE_ANSWER + before[i % 3];
        CHECK_MSG(border % 64 == 0, "depth %d", i);
        CHECK_MSG(border / 64 % 5 == 0, "depth %d is on no border between ranks", i);
    }
}

static void test_small_grids(void)
{
    int64_t first[300];
    for (int mode = DEPTH_STRATIFIED; mode <= DEPTH_BORDER; mode++)
        for (int32_t depths = 1; depths <= 20; depths++) {
            needle_grid g = grid_for((depth_mode)mode, 500, depths, (uint64_t)depths);
            CHECK(grid_place(&g, first, why, sizeof why));
            check_order(&g, first);
        }
    needle_grid g = grid_for(DEPTH_JITTERED, 4096, 300, 1);
    CHECK(!grid_place(&g, first, why, sizeof why));
    CHECK_MSG(strstr(why, "300 depths need a haystack of 6000 tokens"), "%s", why);
}

static void test_period(void)
{
    banyan_rule rules[] = {{0, 0, 0, -1, "s2 stride=32"},
                           {1, -1, 0, 3, "dense"},
                           {1, -1, 4, -1, "s2 local=4 stride=8 per=query"}};
    CHECK(grid_period(rules, 3, 1, 16) == 8);
    CHECK(grid_period(rules, 3, 0, 16) == 32);
    CHECK(grid_period(rules + 1, 1, 1, 16) == 16);
    rules[1].use = " s2 local=4"; /* the selector's default stride */
    CHECK(grid_period(rules + 1, 1, 1, 5) == 16);
}

/* ---- prompts ----------------------------------------------------------------------------- */

/* Occurrences of a trigram, the slow way. */
static int count_of(const prompt *p, uint32_t a, uint32_t b, uint32_t c)
{
    int n = 0;
    for (int64_t t = 2; t < p->count; t++)
        n += p->ids[t - 2] == a && p->ids[t - 1] == b && p->ids[t] == c;
    return n;
}

static void check_prompt(const prompt *p)
{
    for (int t = 0; t < NEEDLE_FIRST; t++) CHECK(p->ids[t] == CONSTRUCTED_BOS);
    for (int64_t t = NEEDLE_FIRST; t < p->count; t++)
        CHECK(p->ids[t] >= CONSTRUCTED_NULLS && p->ids[t] < CONSTRUCTED_VOCAB);
    for (int i = 0; i < p->facts; i++) {
        const needle_fact *n = &p->fact[i];
        const uint32_t *at = p->ids + n->first;
        CHECK(at[0] == CONSTRUCTED_KEY && at[4] == CONSTRUCTED_VALUE);
        CHECK(at[9] == CONSTRUCTED_DOT);
        CHECK(memcmp(at + 1, n->key, sizeof n->key) == 0);
        CHECK(memcmp(at + 5, n->value, sizeof n->value) == 0);
        for (int t = 4; t < 9; t++) CHECK(count_of(p, at[t - 2], at[t - 1], at[t]) == 1);
    }
    for (int i = 0; i < p->absents; i++)
        CHECK(count_of(p, p->absent[i].key[1], p->absent[i].key[2], CONSTRUCTED_VALUE) == 0);
}

static void test_prompts(void)
{
    int64_t first[4] = {10, 500, 1003, 4000};
    for (int kind = 0; kind < 3; kind++) {
        haystack_wish wish = {.count = 4091,
                              .first = first,
                              .facts = 4,
                              .absents = 3,
                              .distractors = kind == 1 ? 4 : 0,
                              .needles = kind == 2,
                              .seed = 5};
        prompt p, again;
        CHECK(prompt_make(&wish, &p, why, sizeof why));
        check_prompt(&p);
        CHECK(prompt_make(&wish, &again, why, sizeof why));
        CHECK(memcmp(p.ids, again.ids, 4091 * sizeof *p.ids) == 0);
        prompt_free(&again);
        /* distractors share a second or a third key word with what is asked */
        int shared = 0;
        for (int64_t t = NEEDLE_FIRST; t < p.count; t++)
            for (int i = 0; i < p.facts; i++)
                shared += p.ids[t] == p.fact[i].key[1] || p.ids[t] == p.fact[i].key[2];
        CHECK_MSG(kind == 0 ? shared == 8 : shared > 12, "kind %d: %d", kind, shared);
        prompt_free(&p);
    }
}

/* Put a second occurrence into the haystack and see it found and repaired. */
static void test_uniqueness(void)
{
    int64_t first[1] = {1000};
    haystack_wish wish = {.count = 20000, .first = first, .facts = 1, .seed = 9};
    prompt p;
    CHECK(prompt_make(&wish, &p, why, sizeof why));
    const uint32_t *n = p.ids + 1000;
    trigram set[2] = {{trigram_code(n[2], n[3], n[4]), 1004},
                      {trigram_code(n[5], n[6], n[7]), TRIGRAM_FIXED}};
    trigram_sort(set, 2);
    CHECK(trigram_fault(set, 2, &p, 0) == -1);
    memcpy(p.ids + 19990, n + 2, 3 * sizeof *n);
    CHECK(trigram_fault(set, 2, &p, 0) == 19992);
    memcpy(p.ids + 40, n + 5, 3 * sizeof *n);
    CHECK(trigram_fault(set, 2, &p, 0) == 42);
    CHECK(trigram_fault(set, 2, &p, 43) == 19992);
    uint64_t random = 1;
    CHECK(prompt_settle(&p, set, 2, &random, why, sizeof why));
    CHECK(trigram_fault(set, 2, &p, 0) == -1);
    check_prompt(&p);
    /* twice inside needles cannot be repaired */
    uint32_t copy[3] = {n[2], n[3], n[4]};
    prompt_splice(&p, 77, copy, 3);
    CHECK(!prompt_settle(&p, set, 2, &random, why, sizeof why));
    CHECK_MSG(strstr(why, "token 79"), "%s", why);
    prompt_free(&p);
}

/* ---- results ----------------------------------------------------------------------------- */

static json_t *header(int seed)
{
    return json_pack("{s:s, s:i}", "model", "constructed", "seed", seed);
}

static long file_bytes(const char *path)
{
    FILE *f = fopen(path, "r");
    CHECK(f && fseek(f, 0, SEEK_END) == 0);
    long bytes = f ? ftell(f) : -1;
    if (f) fclose(f);
    return bytes;
}

static banyan_status reopen(const char *path, int seed, results **out)
{
    results *r = *out = results_open(path, why, sizeof why);
    if (!r) return BANYAN_ERR_CONFIG;
    json_t *h = header(seed);
    banyan_status status = results_begin(r, h, why, sizeof why);
    json_decref(h);
    if (!status) return BANYAN_OK;
    results_close(r);
    return status;
}

static void test_resume(void)
{
    char path[] = "/tmp/banyan_results_XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    results *r;
    CHECK(reopen(path, 1, &r) == BANYAN_OK);
    CHECK(results_add(r, json_pack("{s:s}", "cell", "a"), why, sizeof why));
    CHECK(results_add(r, json_pack("{s:s, s:f}", "cell", "b", "x", .5), why, sizeof why));
    results_close(r);
    long whole = file_bytes(path);

    FILE *f = fopen(path, "a"); /* killed while writing */
    fputs("{\"cell\":\"c\",\"ma", f);
    fclose(f);
    CHECK(reopen(path, 1, &r) == BANYAN_OK);
    CHECK(results_has(r, "a") && results_has(r, "b") && !results_has(r, "c"));
    CHECK(results_cut(r) == 15 && json_array_size(results_all(r)) == 2);
    CHECK(file_bytes(path) == whole);
    CHECK(results_add(r, json_pack("{s:s}", "cell", "c"), why, sizeof why));
    results_close(r);
    CHECK(reopen(path, 1, &r) == BANYAN_OK);
    CHECK(results_has(r, "c") && results_cut(r) == 0);
    results_close(r);

    whole = file_bytes(path);
    CHECK(reopen(path, 2, &r) == BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(why, "another configuration: seed was 1, now it is 2"), "%s", why);
    f = fopen(path, "a"); /* a whole line that is no result */
    fputs("{\"sell\":\"c\"}\n", f);
    fclose(f);
    CHECK(reopen(path, 1, &r) == BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(why, "line 5 is no result"), "%s", why);
    f = fopen(path, "w");
    fputs("hello\n", f);
    fclose(f);
    CHECK(reopen(path, 1, &r) == BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(why, "is not a results file"), "%s", why);
    CHECK(file_bytes(path) == 6); /* untouched */
    f = fopen(path, "w");
    fputs("a letter without an end of line", f);
    fclose(f);
    CHECK(reopen(path, 1, &r) == BANYAN_ERR_CONFIG && strstr(why, "is not a results file"));
    CHECK(file_bytes(path) == 31);
    remove(path);
    CHECK(reopen("/nowhere/at/all", 1, &r) == BANYAN_ERR_CONFIG);
    CHECK(access(path, F_OK) != 0);
    CHECK(reopen(path, 1, &r) == BANYAN_OK); /* nothing to keep: nothing is left */
    results_close(r);
    CHECK(access(path, F_OK) != 0);
    CHECK(reopen("/dev/full", 1, &r) == BANYAN_OK);
    CHECK(!results_add(r, json_pack("{s:s}", "cell", "a"), why, sizeof why));
    results_close(r);
    CHECK_MSG(strstr(why, "cannot write \"/dev/full\": No space left"), "%s", why);
}

/* Two jobs at a time: each adds its cells, and has the other's. */
static void test_together(void)
{
    char path[] = "/tmp/banyan_results_XXXXXX";
    results *a, *b;
    close(mkstemp(path));
    remove(path);
    CHECK(reopen(path, 1, &a) == BANYAN_OK && reopen(path, 1, &b) == BANYAN_OK);
    CHECK(results_add(a, json_pack("{s:s}", "cell", "1"), why, sizeof why));
    CHECK(results_add(b, json_pack("{s:s}", "cell", "2"), why, sizeof why));
    CHECK(results_has(b, "1") && !results_has(a, "2"));
    CHECK(results_refresh(a, why, sizeof why) == BANYAN_OK && results_has(a, "2"));
    long bytes = file_bytes(path);
    CHECK(results_add(b, json_pack("{s:s}", "cell", "1"), why, sizeof why)); /* it is there */
    CHECK(file_bytes(path) == bytes && json_array_size(results_all(b)) == 2);
    results *c;
    CHECK(reopen(path, 2, &c) == BANYAN_ERR_CONFIG);
    remove(path);
    CHECK(!results_add(a, json_pack("{s:s}", "cell", "3"), why, sizeof why));
    CHECK_MSG(strstr(why, "was removed or replaced"), "%s", why);
    results_close(a);
    results_close(b);
    CHECK(access(path, F_OK) != 0);
}

/* ---- pictures ---------------------------------------------------------------------------- */

static void test_pictures(void)
{
    int rgb[3];
    heat_colour(0, rgb);
    CHECK(rgb[0] == 0xF0 && rgb[1] == 0x49 && rgb[2] == 0x6E);
    heat_colour(.5, rgb);
    CHECK(rgb[0] == 0xEB && rgb[1] == 0xB8 && rgb[2] == 0x39);
    heat_colour(1, rgb);
    CHECK(rgb[0] == 0x0C && rgb[1] == 0xD7 && rgb[2] == 0x9F);
    char text[32];
    CHECK(strcmp(length_text(65536, text, sizeof text), "64K") == 0);
    CHECK(strcmp(length_text(1048576, text, sizeof text), "1M") == 0);
    CHECK(strcmp(length_text(1000, text, sizeof text), "1000") == 0);

    double value[4] = {1, .5, 0, NAN}, depth[2] = {5, 95};
    int64_t length[2] = {4096, 65536};
    heat_map h = {"it's", 2, 2, value, depth, length, NULL};
    CHECK(heat_mean(&h) == .5);
    char printed[4096] = "";
    FILE *f = fmemopen(printed, sizeof printed, "w");
    heat_print(&h, f, false, false);
    heat_print(&h, f, true, false);
    heat_plot(&h, f);
    fclose(f);
    CHECK(strstr(printed, "it's, mean 0.500"));
    CHECK(strstr(printed, "   5 %   1.00   0.50\n"));
    CHECK(strstr(printed, "  95 %   0.00      -\n"));
    CHECK(strstr(printed, "\033[48;2;12;215;159m"));
    CHECK(strstr(printed, "set title 'it''s, mean 0.500'") && strstr(printed, "'#0CD79F'"));
}

int main(void)
{
    test_strata();
    test_borders();
    test_small_grids();
    test_period();
    test_prompts();
    test_uniqueness();
    test_resume();
    test_together();
    test_pictures();
    return test_end();
}
