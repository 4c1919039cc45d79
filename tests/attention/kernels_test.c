/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of kernels, for every row of the table that this machine can run, against the
 * float64 oracle. One trial draws everything at once: shape, format, which blocks which heads
 * see and through which edges, the clip; packs the blocks piece by piece into garbage, with
 * rollbacks; and poisons with NaN and inf every token that nobody sees. */
#include "tests/attention/kernel_trial.h"

#include <math.h>

static int64_t partial_floats(const trial *t)
{
    return (int64_t)t->heads * t->rows * (int64_t)banyan_partial_floats(t->shape.value_dim);
}

/* Attend in one call, in two calls, or in two partials that are combined. */
static void attend_somehow(const trial *t, float *partial, uint64_t *random)
{
    int64_t rows = (int64_t)t->heads * t->rows;
    int64_t half = test_below(random, t->entries + 1);
    switch (test_below(random, 3)) {
    case 0: trial_attend(t, 0, t->entries, NULL, partial, random); break;
    case 1:
        trial_attend(t, 0, half, NULL, partial, random);
        trial_attend(t, half, t->entries - half, NULL, partial, random);
        break;
    case 2: {
        float *other = take((size_t)partial_floats(t) * sizeof(*other));
        banyan_partial_clear(other, t->shape.value_dim, rows);
        trial_attend(t, 0, half, NULL, partial, random);
        trial_attend(t, half, t->entries - half, NULL, other, random);
        banyan_partial_combine(partial, partial, other, t->shape.value_dim, rows);
        free(other);
        break;
    }
    }
}

static void check_row(trial *t, int32_t head, int32_t row, const float *partial)
{
    int32_t value_dim = t->shape.value_dim;
    int64_t index = (int64_t)head * t->rows + row;
    const float *p = partial + index * (int64_t)banyan_partial_floats(value_dim);
    const trial_verdict v = trial_compare(t, head, row, p);
    CHECK_MSG(
        v.error <= 1,
        "%s seed %llu: %s in %s, block %d, dims %d/%d, kind %d, heads %d rows %d: head %d "
        "row %d sees %lld: error/bound %g, out %g expected %g, lse %g expected %g",
        t->kernel->name, (unsigned long long)t->seed, banyan_dtype_name(t->shape.dtype),
        banyan_dtype_name(t->in_dtype), t->shape.block_tokens, t->shape.key_dim, value_dim,
        t->kind, t->heads, t->rows, head, row, (long long)v.tokens, v.error, v.out,
        v.expect_out, v.lse, v.expect_lse);
    if (v.tokens > 0) return;
    int empty = p[value_dim] == -INFINITY && p[value_dim + 1] == 0;
    for (int32_t d = 0; d < value_dim; d++) empty = empty && p[d] == 0;
    CHECK_MSG(empty, "%s seed %llu: a row that sees nothing changed its partial",
              t->kernel->name, (unsigned long long)t->seed);
}

static void run_trial(trial *t, uint64_t *random)
{
    size_t record_bytes = t->kernel->record_bytes(&t->shape);
    size_t floats = (size_t)partial_floats(t);
    float *partial = take((floats + GUARD) * sizeof(float));
    float *again = take((floats + GUARD) * sizeof(float));
    unsigned char *before = take(record_bytes);
    uint64_t repeat = *random;

    CHECK(record_bytes % 64 == 0);
    CHECK_MSG(trial_pack(t, random), "%s seed %llu: pack wrote past the record",
              t->kernel->name, (unsigned long long)t->seed);
    memcpy(before, t->record[0], record_bytes);
    for (int round = 0; round < 2; round++) {
        float *p = round ? again : partial;
        uint64_t same = repeat;
        banyan_partial_clear(p, t->shape.value_dim, (int64_t)t->heads * t->rows);
        for (int i = 0; i < GUARD; i++) p[floats + (size_t)i] = 7;
        attend_somehow(t, p, &same);
        for (int i = 0; i < GUARD; i++) CHECK(p[floats + (size_t)i] == 7);
    }
    CHECK_MSG(!memcmp(partial, again, floats * sizeof(float)), "%s seed %llu: two runs differ",
              t->kernel->name, (unsigned long long)t->seed);
    CHECK_MSG(!memcmp(before, t->record[0], record_bytes), "attend wrote to a record");
    for (int32_t h = 0; h < t->heads; h++)
        for (int32_t i = 0; i < t->rows; i++) check_row(t, h, i, partial);
    free(before);
    free(again);
    free(partial);
}

static void trial_with_seed(const banyan_kernel *kernel, uint64_t seed)
{
    uint64_t random = seed;
    trial t = {.seed = seed, .kernel = kernel};
    if (!trial_draw(&t, &random)) return;
    run_trial(&t, &random);
    trial_free(&t);
}

/* A row whose only token so far has a NaN key is NaN, and stays so when it sees others; the row
 * of another head that reads the others only is not touched. */
static void nan_alone(const banyan_kernel *kernel, banyan_dtype dtype)
{
    enum { BLOCK = 16, DIM = 4, PARTIAL = DIM + 2 };
    banyan_block_shape shape = {BLOCK, DIM, DIM, dtype, 0};
    if (!kernel->supports(&shape)) return;
    size_t bytes = kernel->record_bytes(&shape);
    float k[DIM] = {1, NAN, 1, 1}, good[BLOCK * DIM] = {0},
          q[2 * DIM] = {1, 1, 1, 1, 1, 1, 1, 1};
    float partial[2 * PARTIAL];
    void *record[2] = {take(bytes), take(bytes)};
    uint64_t random = 1;
    banyan_entry entry[2] = {{record[0], 0, 1, -1, NULL, NULL},
                             {record[1], 1, 3, -1, NULL, NULL}};
    banyan_edge edge = {.sink_end = 0, .window = BLOCK};
    for (int i = 0; i < 2; i++) fill_garbage(record[i], bytes, &random);
    kernel->pack(&shape, record[0], 1, 0, BLOCK, good, DIM, good, DIM, BANYAN_F32);
    kernel->pack(&shape, record[0], 0, BLOCK - 1, 1, k, DIM, good, DIM, BANYAN_F32);
    kernel->pack(&shape, record[1], 1, 0, BLOCK, good, DIM, good, DIM, BANYAN_F32);
    entry[0].edge = 0; /* of block 0, the row at token 30 sees token 15 only */
    void *workspace = take(kernel->workspace_bytes(&shape, 2, 1));
    banyan_tile tile = {.shape = shape,
                        .scale = 1,
                        .heads = 2,
                        .rows = 1,
                        .at = 2 * BLOCK - 2,
                        .q = q,
                        .entry = entry,
                        .entries = 1,
                        .edge = &edge,
                        .end_token = INT64_MAX,
                        .partial = partial,
                        .workspace = workspace};
    banyan_partial_clear(partial, DIM, 2);
    kernel->attend(&tile);
    tile.entry = entry + 1;
    kernel->attend(&tile);
    for (int d = 0; d < DIM; d++) {
        CHECK_MSG(isnan(partial[d]), "%s in %s", kernel->name, banyan_dtype_name(dtype));
        CHECK(partial[PARTIAL + d] == 0);
    }
    CHECK(isnan(partial[DIM + 1]) && partial[PARTIAL + DIM] == 0);
    CHECK(partial[PARTIAL + DIM + 1] == BLOCK - 1);
    free(workspace);
    free(record[0]);
    free(record[1]);
}

/* kernels_test [KERNEL|all [FIRST [LAST]]]: which kernel, and which trials, by seed. */
int main(int argc, char **argv)
{
    const char *only = argc > 1 && strcmp(argv[1], "all") ? argv[1] : NULL;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint64_t last = argc > 3 ? strtoull(argv[3], NULL, 10) : argc > 2 ? first : 150;
    int usable = 0;
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        if (kernel->device || !kernel->usable() || (only && strcmp(only, kernel->name) != 0))
            continue;
        usable++;
        for (int dtype = BANYAN_F32; dtype <= BANYAN_F16; dtype++)
            nan_alone(kernel, (banyan_dtype)dtype);
        for (uint64_t seed = first; seed <= last; seed++) trial_with_seed(kernel, seed);
    }
    CHECK_MSG(usable > 0, "no kernel%s%s can run here", only ? " " : "", only ? only : "");
    return test_end();
}
