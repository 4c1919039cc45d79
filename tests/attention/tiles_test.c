/* SPDX-License-Identifier: Apache-2.0 */
/* The work list of the Hopper prefill, read the way its kernel reads it: every vector of every
 * strip meets every block of its list exactly once, through the mask that the list says, and
 * nothing else. */
#include "attention/cuda/spans.h"
#include "attention/cuda/tiles.h"
#include "tests/test.h"

enum { TABLES = 3, HEADS = 16, PLACES = 600, STRIPS = 256, SPANS = 1 << 14, BLOCK = 64 };

/* What a trial is made of. The plan never looks into tables: places are all there is. */
static struct {
    banyan_strip strip[STRIPS];
    banyan_span span[SPANS];
    banyan_edge edge[STRIPS];
    banyan_batch batch;
    int64_t at;
    cuda_tiles_limits limits;
    int64_t held[PLACES]; /* the block at each place, of all tables */
    int32_t places;
} trial;

/* 1 + masked of a place in a strip's list, 0: not there; and how often a subtile met it, with
 * what. */
static unsigned char expected[STRIPS][PLACES];
static unsigned char met[STRIPS][BLOCK][PLACES], through[STRIPS][BLOCK][PLACES];

/* ---- batches of the real selectors ------------------------------------------------------- */

static int is_cut(const banyan_edge *edge, int64_t block, int64_t first_row, int64_t last_row)
{
    const int64_t begin = block * BLOCK, end = begin + BLOCK;
    return end > edge->sink_end && begin <= last_row - edge->window && last_row >= first_row;
}

/* Places one by one; those that follow each other at one distance, seen alike, become a
 * span. */
static void add_place(banyan_strip *strip, int32_t place, int masked)
{
    banyan_span *last = strip->spans ? &trial.span[trial.batch.spans - 1] : NULL;
    strip->blocks++;
    if (last && last->masked == masked) {
        const int32_t step = place - (last->first + (last->count - 1) * last->step);
        if (last->count == 1 || step == last->step) {
            last->step = step;
            last->count++;
            return;
        }
    }
    if (trial.batch.spans == SPANS) abort();
    trial.span[trial.batch.spans++] = (banyan_span){place, 1, 1, masked};
    strip->spans++;
}

static void add_strip(const banyan_pattern *pattern, int32_t table, uint64_t heads,
                      int32_t first_head, int32_t first_row, int32_t rows)
{
    banyan_selection s;
    const banyan_run *run = s.run;
    const int64_t from = trial.at + first_row, to = from + rows - 1;
    banyan_pattern_select(pattern, from, to, &s);
    banyan_strip *strip = &trial.strip[trial.batch.strips];
    *strip = (banyan_strip){.table = table,
                            .first_head = first_head,
                            .heads = heads,
                            .first_row = first_row,
                            .rows = rows,
                            .first_span = trial.batch.spans,
                            .edge = trial.batch.strips};
    trial.edge[trial.batch.strips] = s.edge;
    for (int32_t place = 0, r = 0; place < trial.places; place++) {
        const int64_t block = trial.held[place];
        while (r < s.count && run[r].last < block) r++;
        if (r == s.count) break;
        if (block < run[r].first || (block - run[r].first) % run[r].step) continue;
        const int by_edge = run[r].edge && is_cut(&s.edge, block, from, to);
        add_place(strip, place, by_edge ? 2 : block == to / BLOCK);
    }
    trial.batch.strips++;
}

static void draw_batch(uint64_t *random, const char *use, int32_t group, int per_head)
{
    banyan_pattern pattern;
    char why[200];
    const int32_t kv_heads = HEADS / group < TABLES ? HEADS / group : TABLES;
    const int32_t heads = kv_heads * group;
    memset(&trial, 0, sizeof trial);
    trial.batch =
        (banyan_batch){.shape = {test_below(random, 3) ? BLOCK : 32, 128, 128, BANYAN_BF16},
                       .scale = 1,
                       .heads = heads,
                       .rows = 1 + (int32_t)test_below(random, 400),
                       .strip = trial.strip,
                       .span = trial.span,
                       .edge = trial.edge,
                       .tables = kv_heads};
    const int64_t blocks = 1 + test_below(random, PLACES - 10);
    trial.at = blocks * BLOCK - 1 - test_below(random, BLOCK);
    const int64_t end = trial.at + trial.batch.rows;
    const int64_t missing =
        test_below(random, 3) ? 0 : 3; /* of as many, one is not held here */
    for (int64_t block = 0; block * BLOCK < end && trial.places < PLACES; block++)
        if (!missing || test_below(random, missing)) trial.held[trial.places++] = block;
    for (int32_t kv = 0; kv < kv_heads; kv++)
        for (int32_t head = 0; head < (per_head ? group : 1); head++)
            for (int32_t row = 0, rows; row < trial.batch.rows; row += rows) {
                rows = BLOCK - (int32_t)((trial.at + row) % BLOCK);
                if (rows > trial.batch.rows - row) rows = trial.batch.rows - row;
                if (banyan_pattern_parse(use, kv * group + head, heads, kv_heads, BLOCK, 0,
                                         &pattern, why, sizeof why) != BANYAN_OK)
                    fprintf(stderr, "%s\n", why), abort();
                add_strip(&pattern, kv, per_head ? 1 : (1u << group) - 1, kv * group + head,
                          row, rows);
            }
}

/* ---- reading a plan ---------------------------------------------------------------------- */

static int strip_of(const cuda_work *work, const cuda_subtile *subtile)
{
    for (int32_t i = 0; i < trial.batch.strips; i++) {
        const banyan_strip *strip = &trial.strip[i];
        if (strip->table == work->table && strip->first_head == subtile->first_head &&
            strip->heads == subtile->heads && strip->first_row == subtile->first_row &&
            strip->rows == subtile->rows)
            return i;
    }
    return -1;
}

static void meet(const cuda_work *work, int index, int32_t place, int how)
{
    const cuda_subtile *subtile = &work->subtile[index];
    const int strip = strip_of(work, subtile), at = subtile->first_vector / CUDA_SUBTILE;
    CHECK(strip >= 0);
    CHECK(subtile->vectors > 0);
    if (strip < 0 || how & CUDA_NOTHING) return;
    met[strip][at][place]++;
    through[strip][at][place] = (unsigned char)(how >> index * CUDA_MASK_BITS & CUDA_MASK);
    const banyan_edge *edge = &trial.edge[trial.strip[strip].edge];
    CHECK(subtile->sink_end == edge->sink_end && subtile->window == edge->window);
}

static void read_entry(const cuda_tiles *tiles, const cuda_work *work, int32_t entry, int mode,
                       int is_second)
{
    const cuda_span *span = tiles->span + work->first_span;
    int32_t i = work->spans - 1;
    while (i > 0 && span[i].first_entry > entry) i--;
    const int32_t place = span[i].first + (entry - span[i].first_entry) * span[i].step;
    CHECK(entry >= span[i].first_entry && place >= 0 && place < trial.places);
    CHECK(is_second || !(span[i].how & CUDA_NOTHING)); /* a step has something to do */
    if (place < 0 || place >= trial.places) return;
    if (mode != 2) meet(work, 0, place, span[i].how);
    if (mode != 1) meet(work, 1, place, span[i].how);
}

static void read_work(const cuda_tiles *tiles, const cuda_work *work)
{
    const int32_t entries = CUDA_STEP(trial.batch.shape.block_tokens);
    int32_t step = work->first_step;
    for (int mode = 0; mode < 3; mode++)
        for (int32_t i = 0; i < work->steps[mode]; i++, step++)
            for (int j = 0; j < entries; j++)
                read_entry(tiles, work, entries * step + j, mode, j);
}

/* Subtiles cover each strip's vectors; a tile that was cut has consecutive partials and
 * steps. */
static void check_portions(const cuda_tiles *tiles)
{
    int64_t vectors = 0, partials = 0, cuts = 0;
    CHECK(tiles->first_portion[0] == 0 && tiles->first_portion[tiles->runs] == tiles->portions);
    for (int32_t r = 0; r < tiles->runs; r++)
        CHECK(tiles->first_portion[r] < tiles->first_portion[r + 1]);
    for (int32_t i = 0; i < tiles->portions; i++) {
        const cuda_work *work = &tiles->work[i];
        const int is_first = work->first_step == 0;
        for (int j = 0; j < CUDA_SUBTILES && is_first; j++) vectors += work->subtile[j].vectors;
        if (work->partial < 0) continue;
        CHECK(work->partial == partials++);
        if (is_first) {
            const cuda_cut *cut = &tiles->cut[cuts++];
            CHECK(cut->tile == i && cut->partial == work->partial && cut->partials > 1);
        } else {
            const cuda_work *before = work - 1;
            CHECK(work->first_step ==
                  before->first_step + before->steps[0] + before->steps[1] + before->steps[2]);
        }
    }
    for (int32_t i = 0; i < trial.batch.strips; i++)
        vectors -= (int64_t)__builtin_popcountll(trial.strip[i].heads) * trial.strip[i].rows;
    CHECK_MSG(vectors == 0, "%d vectors too many", (int)vectors);
    CHECK(cuts == tiles->cuts && partials == tiles->partials);
}

static void check_strips(const char *use)
{
    for (int32_t i = 0; i < trial.batch.strips; i++) {
        const banyan_strip *strip = &trial.strip[i];
        memset(expected[i], 0, sizeof expected[i]);
        for (int32_t s = strip->first_span; s < strip->first_span + strip->spans; s++)
            for (int32_t k = 0; k < trial.span[s].count; k++)
                expected[i][trial.span[s].first + k * trial.span[s].step] =
                    (unsigned char)(1 + trial.span[s].masked);
        const int vectors = __builtin_popcountll(strip->heads) * strip->rows;
        for (int j = 0; j * CUDA_SUBTILE < vectors; j++)
            for (int32_t place = 0; place < trial.places; place++) {
                const int want = expected[i][place];
                CHECK_MSG(met[i][j][place] == (want > 0), "%s: strip %d.%d place %d: %d times",
                          use, i, j, place, met[i][j][place]);
                if (want) CHECK(through[i][j][place] == want - 1);
            }
    }
}

/* Returns how many tiles were cut. */
static int check_plan(const char *use, int32_t workers)
{
    cuda_tiles tiles;
    size_t device_bytes;
    trial.limits =
        (cuda_tiles_limits){banyan_cuda_subtiles(trial.strip, trial.batch.strips),
                            trial.batch.strips, trial.batch.spans, trial.batch.tables, workers};
    const size_t bytes = banyan_cuda_tiles_bytes(&trial.limits, &device_bytes);
    char *room = malloc(bytes + 64);
    if (!room) abort();
    memset(room, 0x5a, bytes + 64);
    banyan_cuda_tiles(&trial.batch, &trial.limits, room, &tiles);
    for (int i = 0; i < 64; i++) CHECK(room[bytes + (size_t)i] == 0x5a);
    CHECK((char *)(tiles.span + tiles.spans) <= room + device_bytes);
    memset(met, 0, sizeof met);
    check_portions(&tiles);
    for (int32_t i = 0; i < tiles.portions; i++) read_work(&tiles, &tiles.work[i]);
    check_strips(use);
    free(room);
    return tiles.cuts;
}

/* ---- order and balance ------------------------------------------------------------------- */

static int32_t steps_of(const cuda_work *work)
{
    return work->steps[0] + work->steps[1] + work->steps[2];
}

/* More tiles than workers: none is cut, and one KV head follows the other, long lists first. */
static void check_order(void)
{
    static char room[1 << 22];
    cuda_tiles tiles;
    uint64_t random = 5;
    size_t device_bytes;
    draw_batch(&random, "dense", 4, 0);
    trial.limits =
        (cuda_tiles_limits){banyan_cuda_subtiles(trial.strip, trial.batch.strips),
                            trial.batch.strips, trial.batch.spans, trial.batch.tables, 2};
    if (banyan_cuda_tiles_bytes(&trial.limits, &device_bytes) > sizeof room) abort();
    trial.batch.shape.key_dim = trial.batch.shape.value_dim = 1 << 14; /* no two KV heads fit */
    banyan_cuda_tiles(&trial.batch, &trial.limits, room, &tiles);
    CHECK(tiles.cuts == 0 && tiles.runs == tiles.portions);
    for (int32_t i = 1; i < tiles.portions; i++) {
        const cuda_work *a = &tiles.work[i - 1], *b = &tiles.work[i];
        CHECK(a->table < b->table || (a->table == b->table && steps_of(a) >= steps_of(b)));
    }
}

/* Equal lists, 8 for each worker and a little: cutting them would gain less than a tenth, and
 * lose the order in which few KV heads are read at a time. With 2 and a little it would gain
 * more. */
static void check_gain(void)
{
    enum { WORKERS = 7 };
    for (int each = 8; each >= 2; each -= 6) {
        static char room[1 << 22];
        cuda_tiles tiles;
        uint64_t random = 9;
        size_t device_bytes;
        draw_batch(&random, "dense", 8, 0);
        trial.batch.strips = WORKERS * each + 2;
        for (int32_t i = 0; i < trial.batch.strips; i++) {
            trial.strip[i] = trial.strip[0];
            trial.strip[i].table = i % trial.batch.tables;
            trial.strip[i].heads = 3; /* two subtiles: a tile */
            trial.strip[i].rows = BLOCK;
            trial.strip[i].first_span = 0;
            trial.strip[i].spans = 1;
        }
        trial.span[0].count = 2000;
        trial.limits = (cuda_tiles_limits){
            banyan_cuda_subtiles(trial.strip, trial.batch.strips), trial.batch.strips,
            trial.batch.spans, trial.batch.tables, WORKERS};
        if (banyan_cuda_tiles_bytes(&trial.limits, &device_bytes) > sizeof room) abort();
        banyan_cuda_tiles(&trial.batch, &trial.limits, room, &tiles);
        CHECK_MSG(!tiles.cuts == (each == 8), "%d lists: %d cuts", (int)trial.batch.strips,
                  (int)tiles.cuts);
    }
}

/* One KV head, few rows, a long list: all workers get the same number of steps, but for one. */
static void check_balance(void)
{
    static char room[1 << 22];
    cuda_tiles tiles;
    uint64_t random = 6;
    size_t device_bytes;
    draw_batch(&random, "dense", 8, 0);
    trial.batch.strips = 1;
    trial.span[0].count = 40000;
    trial.limits = (cuda_tiles_limits){banyan_cuda_subtiles(trial.strip, 1), 1,
                                       trial.batch.spans, trial.batch.tables, 132};
    if (banyan_cuda_tiles_bytes(&trial.limits, &device_bytes) > sizeof room) abort();
    banyan_cuda_tiles(&trial.batch, &trial.limits, room, &tiles);
    int64_t total = 0, most = 0;
    for (int32_t r = 0; r < tiles.runs; r++) {
        int64_t steps = 0;
        for (int32_t i = tiles.first_portion[r]; i < tiles.first_portion[r + 1]; i++)
            steps += steps_of(&tiles.work[i]);
        total += steps;
        if (steps > most) most = steps;
    }
    CHECK(tiles.cuts > 0 && tiles.runs == 132);
    CHECK_MSG(most <= (total + 131) / 132 + 2, "%d steps of %d", (int)most, (int)total);
}

/* ---- unions of any lists ----------------------------------------------------------------- */

static void mark(const banyan_span *span, int count, unsigned char *seen)
{
    for (int i = 0; i < count; i++)
        for (int32_t k = 0; k < span[i].count; k++)
            seen[span[i].first + k * span[i].step] = (unsigned char)(1 + span[i].masked);
}

static int draw_spans(uint64_t *random, banyan_span *span)
{
    const int count = (int)test_below(random, 4);
    int32_t next = (int32_t)test_below(random, 5);
    for (int i = 0; i < count; i++) {
        const int32_t step = 1 + (int32_t)test_below(random, 4);
        const int32_t n = 1 + (int32_t)test_below(random, 9);
        span[i] = (banyan_span){next, n, step, (int)test_below(random, 3)};
        next += (n - 1) * step + 1 + (int32_t)test_below(random, 5);
    }
    return count;
}

/* As the lists of neighbouring rows differ: the same spans that begin and end elsewhere. */
static int draw_alike(uint64_t *random, const banyan_span *from, int count, banyan_span *span)
{
    for (int i = 0; i < count; i++) {
        const int32_t late = (int32_t)test_below(random, from[i].count);
        span[i] = from[i];
        span[i].first += late * span[i].step;
        span[i].count -= late;
        span[i].count -= (int32_t)test_below(random, span[i].count);
        if (test_below(random, 4) == 0) span[i].masked = (int)test_below(random, 3);
    }
    return count;
}

static void check_union(uint64_t *random, int *refused)
{
    enum { MOST = 200 };
    banyan_span a[4], b[4];
    cuda_span span[8 + CUDA_UNION_SPANS];
    unsigned char in_a[MOST] = {0}, in_b[MOST] = {0};
    cuda_list list = {span, CUDA_STEP(test_below(random, 2) ? 32 : 64), 0, {0, 0, 0}};
    const int a_count = draw_spans(random, a);
    const int b_count =
        test_below(random, 2) ? draw_spans(random, b) : draw_alike(random, a, a_count, b);
    mark(a, a_count, in_a);
    mark(b, b_count, in_b);
    if (!banyan_cuda_union(a, a_count, b, b_count, &list)) {
        *refused += 1;
        return;
    }
    CHECK(list.spans <= a_count + b_count + CUDA_UNION_SPANS);
    int32_t entry = 0, i = 0;
    for (int mode = 0; mode < 3; mode++)
        for (int32_t end = entry + list.step * list.steps[mode]; entry < end; entry++) {
            while (i + 1 < list.spans && span[i + 1].first_entry <= entry) i++;
            const int32_t place = span[i].first + (entry - span[i].first_entry) * span[i].step;
            CHECK(place >= 0 && place < MOST);
            if (span[i].how & CUDA_NOTHING) continue;
            if (mode != 2) CHECK(in_a[place] == 1 + (span[i].how & CUDA_MASK));
            if (mode != 1)
                CHECK(in_b[place] == 1 + (span[i].how >> CUDA_MASK_BITS & CUDA_MASK));
            if (mode != 2) in_a[place] = 0;
            if (mode != 1) in_b[place] = 0;
            if (mode) CHECK(!(mode == 1 ? in_b : in_a)[place]);
        }
    for (int place = 0; place < MOST; place++) CHECK(!in_a[place] && !in_b[place]);
}

int main(void)
{
    static const char *const use[] = {"dense", "s2 stride=16 local=16", "s2 stride=4 local=3",
                                      "sink_window sink=1 window=8",
                                      "sink_window sink=10t window=333t"};
    static const int32_t group[] = {1, 2, 3, 4, 8}, workers[] = {1, 7, 132};
    uint64_t random = 1;
    int cut = 0, refused = 0;
    for (int i = 0; i < 300; i++) {
        const int of_query = test_below(&random, 4) == 0;
        const char *const pattern = use[test_below(&random, 5)];
        draw_batch(&random, pattern, group[test_below(&random, 5)], of_query);
        cut += check_plan(pattern, workers[test_below(&random, 3)]);
    }
    CHECK(cut > 100);
    for (int i = 0; i < 20000; i++) check_union(&random, &refused);
    CHECK(refused > 1000 && refused < 18000);
    check_order();
    check_balance();
    check_gain();
    return test_end();
}
