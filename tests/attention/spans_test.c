/* SPDX-License-Identifier: Apache-2.0 */
/* Spans against block lists: for random patterns, caches dealt to 1 to 7 ranks, what was
 * evicted, rows and ranges of tokens, every row sees exactly the same tokens of exactly the
 * same blocks, no block is read twice, and a list takes no more spans than its bound. */
#include "dist/dist.h"
#include "tests/attention/held.h"
#include "tests/test.h"

enum { BLOCK = 16, BLOCKS = 300, SPANS = 400 };

typedef struct scene {
    banyan_pattern pattern;
    char use[128];
    banyan_held held[BLOCKS];
    int64_t held_count;
    banyan_retention keeps;
    int64_t settled; /* -1: what is known of blocks that are not held is not said */
    int64_t first_row, last_row, first_token, end_token;
} scene;

static void random_pattern(scene *s, uint64_t *random)
{
    char why[256];
    const int window = 1 + (int)test_below(random, 200),
              blocks = 1 + (int)test_below(random, 9);
    switch (test_below(random, 6)) {
    case 0: snprintf(s->use, sizeof s->use, "dense"); break;
    case 1:
        snprintf(s->use, sizeof s->use, "sink_window sink=%dt window=%dt",
                 (int)test_below(random, 50), window);
        break;
    case 2:
        snprintf(s->use, sizeof s->use, "sink_window sink=%d window=%d",
                 (int)test_below(random, 4), blocks);
        break;
    case 3:
        snprintf(s->use, sizeof s->use, "s2 stride=%d local=%dt per=query",
                 1 + (int)test_below(random, 12), window);
        break;
    default:
        snprintf(s->use, sizeof s->use, "s2 stride=%d local=%d per=query",
                 1 + (int)test_below(random, 12), blocks);
    }
    CHECK_MSG(banyan_pattern_parse(s->use, (int)test_below(random, 8), 8, 2, BLOCK, 0,
                                   &s->pattern, why, sizeof why) == BANYAN_OK,
              "%s: %s", s->use, why);
}

/* What one of several holders has of a KV head that keeps more than the pattern reads. */
static void random_cache(scene *s, uint64_t *random)
{
    banyan_holder holder[7];
    s->pattern.selector->keeps(&s->pattern, &s->keeps);
    if (test_below(random, 2)) { /* another head of the group: other residues, or everything */
        banyan_pattern other = s->pattern;
        banyan_retention more;
        other.head = (int)test_below(random, 8);
        other.selector->keeps(&other, &more);
        if (test_below(random, 4) == 0) more = (banyan_retention){.period = 1, .residue = {1}};
        banyan_retention_union(&s->keeps, &more);
    }
    const int32_t ranks = test_below(random, 2) ? 1 : 2 + (int32_t)test_below(random, 6);
    for (int32_t r = 0; r < ranks; r++)
        holder[r] =
            (banyan_holder){r, r + 1 < ranks ? UINT64_MAX / 7 * (uint64_t)(r + 1) : UINT64_MAX};
    const int mine = (int)test_below(random, ranks), evicts = (int)test_below(random, 3);
    const int64_t blocks = 1 + test_below(random, BLOCKS);
    const int64_t row =
        test_below(random, blocks * BLOCK); /* rows before it are not asked for */
    s->held_count = s->settled = 0;
    for (int64_t b = 0; b < blocks; b++) {
        if (evicts && row - ((b + 1) * BLOCK - 1) > s->keeps.reach) s->settled = b + 1;
        if (evicts && !banyan_retention_keeps(&s->keeps, b, row, BLOCK)) continue;
        const int64_t ordinal = banyan_retention_ordinal(&s->keeps, b);
        if (banyan_owner_index(holder, ranks, ordinal) != mine) continue;
        s->held[s->held_count++] = (banyan_held){.block = b};
    }
    if (test_below(random, 4) == 0) s->settled = -1;
    s->first_row = row;
    s->last_row = row + test_below(random, BLOCK - row % BLOCK);
    s->first_token = 0;
    s->end_token = INT64_MAX;
    if (test_below(random, 2)) return;
    s->first_token = test_below(random, blocks * BLOCK);
    s->end_token = s->first_token + test_below(random, 3 * BLOCK + blocks * BLOCK / 2);
}

static int through_edge(const banyan_edge *edge, int64_t row, int64_t token)
{
    return token < edge->sink_end || token > row - edge->window;
}

/* Marks, for each held place, row and token, what is seen; how often a place is read. */
typedef struct view {
    unsigned char seen[BLOCKS][BLOCK][BLOCK];
    int reads[BLOCKS];
} view;

static void look(const scene *s, view *v, int64_t place, int by_rows, const banyan_edge *edge)
{
    for (int64_t row = s->first_row; row <= s->last_row; row++)
        for (int t = 0; t < BLOCK; t++) {
            const int64_t token = s->held[place].block * BLOCK + t;
            const int inside = token >= s->first_token && token < s->end_token && token <= row;
            if (by_rows ? inside && (!edge || through_edge(edge, row, token)) : 1)
                v->seen[place][row - s->first_row][t] = 1;
        }
    v->reads[place]++;
}

static void look_by_list(scene *s, view *v)
{
    static banyan_entry entry[BLOCKS];
    banyan_edge edge[1];
    const banyan_class class = {.pattern = s->pattern, .heads = 1};
    memset(v, 0, sizeof *v);
    const banyan_held_list held = held_list(s->held, s->held_count);
    const int64_t count =
        banyan_list_build(&class, 1, NULL, s->first_row, s->last_row, &held, entry, edge);
    int64_t place = 0;
    for (int64_t i = 0; i < count; i++) {
        while (s->held[place].block != entry[i].block) place++;
        const int64_t begin = entry[i].block * BLOCK;
        if (begin >= s->end_token || begin + BLOCK <= s->first_token ||
            s->first_token >= s->end_token)
            continue;
        look(s, v, place, 1, entry[i].edge < 0 ? NULL : &edge[entry[i].edge]);
    }
}

static banyan_held_set set_of(scene *s)
{
    const banyan_held_set set = {.held = held_list(s->held, s->held_count),
                                 .retention = s->settled < 0 ? NULL : &s->keeps,
                                 .settled = s->settled};
    return set;
}

static void look_by_spans(scene *s, view *v)
{
    static banyan_span span[SPANS];
    const int64_t bound = banyan_spans_bound(&s->pattern, BLOCKS, s->held_count);
    const banyan_held_set held = set_of(s);
    banyan_span_list list = {.span = span, .capacity = bound};
    int64_t blocks = 0;
    memset(v, 0, sizeof *v);
    CHECK(bound <= SPANS);
    CHECK_MSG(banyan_spans_build(&s->pattern, s->first_row, s->last_row, &held, s->first_token,
                                 s->end_token, &list),
              "%s: more than %lld spans", s->use, (long long)bound);
    for (int64_t i = 0; i < list.count; i++) {
        const banyan_span *one = &span[i];
        CHECK(one->masked < 2 || list.has_edge);
        CHECK(one->count > 0 && one->step > 0);
        blocks += one->count;
        for (int32_t n = 0; n < one->count; n++) {
            const int64_t place = one->first + (int64_t)n * one->step;
            CHECK(place >= 0 && place < s->held_count);
            look(s, v, place, one->masked, one->masked == 2 ? &list.edge : NULL);
        }
    }
    CHECK(blocks == list.blocks);
    if (list.count == 0) return;
    list.capacity = list.count - 1;
    CHECK(!banyan_spans_build(&s->pattern, s->first_row, s->last_row, &held, s->first_token,
                              s->end_token, &list));
}

static void test_same_as_lists(void)
{
    static view expect, got;
    uint64_t random = 7;
    for (int trial = 0; trial < 3000; trial++) {
        scene s;
        random_pattern(&s, &random);
        random_cache(&s, &random);
        look_by_list(&s, &expect);
        look_by_spans(&s, &got);
        CHECK_MSG(memcmp(&expect, &got, sizeof got) == 0,
                  "trial %d, %s: rows %lld-%lld, tokens %lld-%lld, %lld blocks held", trial,
                  s.use, (long long)s.first_row, (long long)s.last_row,
                  (long long)s.first_token, (long long)s.end_token, (long long)s.held_count);
    }
}

/* A million tokens take a handful of spans: what makes them worth having. */
static void test_few(void)
{
    enum { MANY = 1 << 14 };
    static banyan_held held[MANY];
    char why[256];
    banyan_span span[16];
    banyan_span_list list = {.span = span, .capacity = 16};
    banyan_pattern p;
    const banyan_held_set set = {.held = held_list(held, MANY)};
    const int64_t last = (int64_t)MANY * BLOCK - 1;
    for (int64_t i = 0; i < MANY; i++) held[i].block = i;
    CHECK(!banyan_pattern_parse("dense", 0, 8, 2, BLOCK, 0, &p, why, sizeof why));
    CHECK(banyan_spans_build(&p, last, last, &set, 0, INT64_MAX, &list));
    CHECK(list.count == 2 && list.blocks == MANY);
    CHECK(span[0].count == MANY - 1 && !span[0].masked && span[1].masked);
    /* tokens that begin and end inside of blocks */
    CHECK(banyan_spans_build(&p, last, last, &set, 100, 5000, &list));
    CHECK(list.count == 3 && span[0].masked == 1 && !span[1].masked && span[2].masked == 1);
    CHECK(span[0].first == 6 && list.blocks == 5000 / BLOCK + 1 - 6);
    CHECK(
        !banyan_pattern_parse("s2 stride=16 local=16", 0, 8, 2, BLOCK, 0, &p, why, sizeof why));
    CHECK(banyan_spans_build(&p, last, last, &set, 0, INT64_MAX, &list));
    CHECK(list.count == 3 && span[0].step == 16 && list.blocks == (MANY - 16) / 16 + 16);
    /* a range of tokens without any */
    CHECK(banyan_spans_build(&p, last, last, &set, 5, 5, &list));
    CHECK(list.count == 0 && list.blocks == 0);
}

int main(void)
{
    test_same_as_lists();
    test_few();
    return test_end();
}
