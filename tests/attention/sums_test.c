/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels with fixed-point sums: the bits that a block adds depend on the block and the row
 * alone. For every kernel that this machine can run, on the trials of kernels_test:
 *
 *   - a list in one call, in two, and in two of which the second comes first: the same bits
 *   - they are those of banyan_fixed_add with the ordinary partial of each entry. That one is
 *     relative to exp(m), m rounded; with a scale that is a power of two nothing rounds
 *   - the rounded sum is right, by the float64 oracle */
#include "tests/attention/kernel_trial.h"

#include <math.h>

static size_t sums_bytes(const trial *t)
{
    return (size_t)t->heads * (size_t)t->rows * banyan_fixed_bytes(t->shape.value_dim);
}

static char *sums_take(const trial *t)
{
    char *sums = take(sums_bytes(t) + GUARD);
    banyan_fixed_clear(sums, t->shape.value_dim, (int64_t)t->heads * t->rows);
    memset(sums + sums_bytes(t), 0x5a, GUARD);
    return sums;
}

static void add_entry(const trial *t, int64_t i, char *sums, uint64_t *random)
{
    const int32_t value_dim = t->shape.value_dim;
    const size_t floats = banyan_partial_floats(value_dim),
                 bytes = banyan_fixed_bytes(value_dim);
    const size_t vectors = (size_t)t->heads * (size_t)t->rows;
    float *partial = take(vectors * floats * sizeof *partial);
    banyan_partial_clear(partial, value_dim, (int64_t)vectors);
    trial_attend(t, i, 1, NULL, partial, random);
    for (size_t v = 0; v < vectors; v++) {
        const float *o = partial + v * floats;
        banyan_fixed_add(sums + v * bytes, (double)o[value_dim], o[value_dim + 1], o,
                         value_dim);
    }
    free(partial);
}

static void check_row(trial *t, int32_t head, int32_t row, const char *sums)
{
    const int32_t value_dim = t->shape.value_dim;
    const int64_t index = (int64_t)head * t->rows + row;
    float p[BANYAN_MAX_DIM + 2];
    banyan_fixed_round(sums + (size_t)index * banyan_fixed_bytes(value_dim), p, value_dim, 1);
    const double error = trial_compare(t, head, row, p).error;
    CHECK_MSG(error <= 1, "%s seed %llu: kind %d: head %d row %d: error/bound %g",
              t->kernel->name, (unsigned long long)t->seed, t->kind, head, row, error);
}

static void run_trial(trial *t, uint64_t *random)
{
    t->scale = ldexpf(1, -(int)test_below(random, 6));
    CHECK(trial_pack(t, random));
    char *sums[4];
    for (int i = 0; i < 4; i++) sums[i] = sums_take(t);
    const int64_t half = test_below(random, t->entries + 1), rest = t->entries - half;
    trial_attend(t, 0, t->entries, sums[0], NULL, random);
    trial_attend(t, 0, half, sums[1], NULL, random);
    trial_attend(t, half, rest, sums[1], NULL, random);
    trial_attend(t, half, rest, sums[2], NULL, random);
    trial_attend(t, 0, half, sums[2], NULL, random);
    for (int64_t i = 0; i < t->entries; i++) add_entry(t, i, sums[3], random);
    for (int i = 1; i < 4; i++)
        CHECK_MSG(!memcmp(sums[0], sums[i], sums_bytes(t) + GUARD),
                  "%s seed %llu: %s, block %d, dims %d/%d, kind %d, heads %d rows %d: way %d",
                  t->kernel->name, (unsigned long long)t->seed,
                  banyan_dtype_name(t->shape.dtype), t->shape.block_tokens, t->shape.key_dim,
                  t->shape.value_dim, t->kind, t->heads, t->rows, i);
    for (int32_t h = 0; h < t->heads; h++)
        for (int32_t i = 0; i < t->rows; i++) check_row(t, h, i, sums[0]);
    for (int i = 0; i < 4; i++) free(sums[i]);
}

/* An argument is the seed of one trial to repeat. */
int main(int argc, char **argv)
{
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
        if (kernel->device || !kernel->usable()) continue;
        for (uint64_t s = seed; s <= (argc > 1 ? seed : 60); s++) {
            uint64_t random = s;
            trial t = {.seed = s, .kernel = kernel};
            if (!trial_draw(&t, &random)) continue;
            run_trial(&t, &random);
            trial_free(&t);
        }
    }
    return test_end();
}
