/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of a placement, on every row of the table, and what each row promises beyond
 * it. */
#include "dist/plan.h"
#include "tests/test.h"

#include <math.h>

enum { MAX_HEADS = 64, MAX_RANKS = 300 };

typedef struct input {
    int32_t heads, ranks;
    double weight[MAX_HEADS], bandwidth[MAX_RANKS], border;
} input;

static banyan_holder holders[MAX_HEADS][MAX_RANKS];
static banyan_placed placed[MAX_HEADS];

static void run(const banyan_placement *row, const input *in)
{
    for (int h = 0; h < MAX_HEADS; h++) placed[h].holder = holders[h];
    static const int32_t node[MAX_RANKS];
    row->place(in->weight, in->heads, in->bandwidth, node, in->ranks, in->border, placed);
}

static double share_of(int32_t head, int32_t index)
{
    const double low = index ? (double)holders[head][index - 1].cut : 0;
    return ((double)holders[head][index].cut - low) / 0x1p64;
}

/* Every head is kept, by ranks that can, in ascending order, with ascending cuts to the end. */
static void check_contract(const banyan_placement *row, const input *in)
{
    for (int32_t h = 0; h < in->heads; h++) {
        const int32_t count = placed[h].count;
        CHECK_MSG(count >= 1 && count <= in->ranks, "%s: %d holders", row->name, (int)count);
        if (count < 1 || count > in->ranks) continue;
        CHECK(holders[h][count - 1].cut == UINT64_MAX);
        for (int32_t i = 0; i < count; i++) {
            const banyan_holder *holder = &holders[h][i];
            CHECK(holder->rank >= 0 && holder->rank < in->ranks);
            CHECK_MSG(in->bandwidth[holder->rank] > 0, "%s: rank %d is too slow for anything",
                      row->name, (int)holder->rank);
            CHECK(i == 0 || holder->rank > holder[-1].rank);
            CHECK(i == 0 || holder->cut > holder[-1].cut);
        }
    }
}

static int32_t extra_holders(const input *in)
{
    int32_t extra = 0;
    for (int32_t h = 0; h < in->heads; h++) extra += placed[h].count - 1;
    return extra;
}

/* Largest distance of a rank's part from what is due to it, and the sum of all parts. */
static double worst_part(const input *in, double *sum, double *smallest_due)
{
    double part[MAX_RANKS] = {0}, weights = 0, speeds = 0, worst = 0;
    for (int32_t h = 0; h < in->heads; h++) {
        weights += in->weight[h];
        for (int32_t i = 0; i < placed[h].count; i++)
            part[holders[h][i].rank] += share_of(h, i) * in->weight[h];
    }
    for (int32_t r = 0; r < in->ranks; r++) speeds += in->bandwidth[r];
    *sum = 0;
    *smallest_due = INFINITY;
    for (int32_t r = 0; r < in->ranks; r++) {
        const double due = weights * in->bandwidth[r] / speeds;
        *sum += part[r];
        if (due > 0 && due < *smallest_due) *smallest_due = due;
        if (fabs(part[r] - due) > worst) worst = fabs(part[r] - due);
    }
    return worst;
}

static void random_input(uint64_t *seed, input *in)
{
    in->heads = 1 + (int32_t)test_below(seed, MAX_HEADS);
    in->ranks = 1 + (int32_t)test_below(seed, test_below(seed, 3) ? 20 : MAX_RANKS);
    in->border = 2;
    const int64_t longest = INT64_C(1) << test_below(seed, 19);
    for (int32_t h = 0; h < in->heads; h++) {
        const double kinds[] = {(double)longest, (double)(longest / 16 + 15), 17, 1,
                                (double)test_below(seed, longest + 1)};
        in->weight[h] = kinds[test_below(seed, 5)];
        if (test_below(seed, 50) == 0) in->weight[h] = 0;
    }
    const int64_t speeds = 1 + test_below(seed, 40);
    for (int32_t r = 0; r < in->ranks; r++)
        in->bandwidth[r] = speeds < 20 ? 1 : (double)(1 + test_below(seed, speeds)) / 16;
    for (int32_t r = 0; r < in->ranks; r++)
        if (test_below(seed, 30) == 0) in->bandwidth[r] = 0;
    in->bandwidth[test_below(seed, in->ranks)] = 1;
}

/* A piece is what is due but for the snap at each of its two ends. */
static void check_line(const input *in)
{
    double sum, due, weights = 0;
    for (int32_t h = 0; h < in->heads; h++) weights += in->weight[h];
    const double worst = worst_part(in, &sum, &due);
    const double snap = fmax(due / 100, fmin(2, due / 4));
    CHECK_MSG(fabs(sum - weights) <= 1e-9 * weights, "%g of %g placed", sum, weights);
    CHECK_MSG(worst <= 2 * snap + 1e-6, "off by %g, snap %g", worst, snap);
    CHECK_MSG(extra_holders(in) <= in->ranks - 1, "%d extra holders on %d ranks",
              (int)extra_holders(in), (int)in->ranks);
}

static void test_random_mixes(void)
{
    static input in;
    uint64_t seed = 5;
    for (int i = 0; i < 1500; i++) {
        random_input(&seed, &in);
        for (int k = 0; banyan_placement_row(k); k++) {
            const banyan_placement *row = banyan_placement_row(k);
            run(row, &in);
            check_contract(row, &in);
            if (strcmp(row->name, "line") == 0) check_line(&in);
            if (strcmp(row->name, "heads") == 0) CHECK(extra_holders(&in) == 0);
            if (strcmp(row->name, "spread") == 0) {
                double sum, due;
                const double worst = worst_part(&in, &sum, &due);
                CHECK_MSG(worst <= 1e-9 * sum, "spread is off by %g", worst);
            }
        }
    }
}

/* P divides G and heads are alike, but for a block: nobody has an extra holder. */
static void test_like_heads(void)
{
    static input in;
    const banyan_placement *line = banyan_placement_find("line");
    for (int32_t heads = 1; heads <= MAX_HEADS; heads++) {
        for (int32_t ranks = 1; ranks <= heads; ranks++) {
            if (heads % ranks) continue;
            in = (input){.heads = heads, .ranks = ranks, .border = 2};
            for (int32_t h = 0; h < heads; h++) in.weight[h] = 65 + (h < heads / ranks);
            for (int32_t r = 0; r < ranks; r++) in.bandwidth[r] = 1;
            run(line, &in);
            CHECK_MSG(heads / ranks > 2 || extra_holders(&in) == 0,
                      "%d heads on %d ranks: %d extra holders", (int)heads, (int)ranks,
                      (int)extra_holders(&in));
            for (int32_t h = 0; h < heads; h++) in.weight[h] = 1039;
            run(line, &in);
            CHECK(extra_holders(&in) == 0);
            for (int32_t h = 0; h < heads; h++) CHECK(holders[h][0].rank == h * ranks / heads);
        }
    }
}

/* Two cuts nearly meet a border and go there; the third cuts a head. */
static void test_snap(void)
{
    static input in;
    in = (input){.heads = 3, .ranks = 4, .border = 2};
    in.weight[0] = 1000;
    in.weight[1] = 1003;
    in.weight[2] = 2000;
    for (int32_t r = 0; r < 4; r++) in.bandwidth[r] = 1;
    run(banyan_placement_find("line"), &in);
    CHECK(placed[0].count == 1 && placed[1].count == 1 && placed[2].count == 2);
    in.weight[1] = 1040; /* 1 % of a piece is 10 */
    run(banyan_placement_find("line"), &in);
    CHECK_MSG(extra_holders(&in) == 2, "%d", (int)extra_holders(&in));
}

/* More heads with a block more than a cut may drift: the cuts still all go to borders. */
static void test_drift(void)
{
    static input in;
    in = (input){.heads = 32, .ranks = 32, .border = 2};
    for (int32_t h = 0; h < 32; h++) in.weight[h] = h < 16 ? 81 : 80;
    for (int32_t r = 0; r < 32; r++) in.bandwidth[r] = 1;
    run(banyan_placement_find("line"), &in);
    CHECK(extra_holders(&in) == 0);
}

static void test_degenerate(void)
{
    static input in;
    for (int k = 0; banyan_placement_row(k); k++) {
        in = (input){.heads = 3, .ranks = 5, .border = 2}; /* nothing weighs anything */
        in.bandwidth[2] = in.bandwidth[3] = 1;
        run(banyan_placement_row(k), &in);
        check_contract(banyan_placement_row(k), &in);

        in = (input){.heads = 2, .ranks = 300, .border = 2}; /* more ranks than blocks */
        in.weight[0] = 3;
        in.weight[1] = 1;
        for (int32_t r = 0; r < 300; r++) in.bandwidth[r] = 1;
        run(banyan_placement_row(k), &in);
        check_contract(banyan_placement_row(k), &in);
    }
}

/* Whole heads: the busiest rank has at most 4/3 of the best (Graham). */
static void test_heads(void)
{
    static input in;
    in = (input){.heads = 8, .ranks = 3, .border = 2};
    const double weights[] = {16384, 16384, 1039, 1039, 1039, 1039, 1039, 1039};
    memcpy(in.weight, weights, sizeof weights);
    for (int32_t r = 0; r < 3; r++) in.bandwidth[r] = 1;
    run(banyan_placement_find("heads"), &in);
    CHECK(holders[0][0].rank == 0 && holders[1][0].rank == 1);
    for (int32_t h = 2; h < 8; h++) CHECK(holders[h][0].rank == 2);
    in.bandwidth[1] = 64; /* one rank is that much faster: all go there but what it delays */
    run(banyan_placement_find("heads"), &in);
    CHECK(holders[0][0].rank == 1 && holders[1][0].rank == 1);
}

static void test_table(void)
{
    CHECK(banyan_placement_find("line") && banyan_placement_find("spread"));
    CHECK(!banyan_placement_find("lime"));
    CHECK(!banyan_placement_row(-1));
    for (int i = 0; banyan_placement_row(i); i++)
        CHECK(banyan_placement_find(banyan_placement_row(i)->name) == banyan_placement_row(i));
}

int main(void)
{
    test_table();
    test_random_mixes();
    test_like_heads();
    test_drift();
    test_snap();
    test_degenerate();
    test_heads();
    return test_end();
}
