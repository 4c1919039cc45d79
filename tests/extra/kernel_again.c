/* SPDX-License-Identifier: Apache-2.0 */
/* The scalar kernel once more. */
#include "attention/attention.h"

extern const banyan_kernel banyan_kernel_scalar, banyan_kernel_again;

static int usable(void)
{
    return banyan_kernel_scalar.usable();
}

static int supports(const banyan_block_shape *shape)
{
    return banyan_kernel_scalar.supports(shape);
}

static size_t record_bytes(const banyan_block_shape *shape)
{
    return banyan_kernel_scalar.record_bytes(shape);
}

static void pack(const banyan_block_shape *shape, void *record, int fresh, int32_t first_row,
                 int32_t rows, const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                 banyan_dtype in_dtype)
{
    banyan_kernel_scalar.pack(shape, record, fresh, first_row, rows, k, k_stride, v, v_stride,
                              in_dtype);
}

static size_t workspace_bytes(const banyan_block_shape *shape, int32_t heads, int32_t rows)
{
    return banyan_kernel_scalar.workspace_bytes(shape, heads, rows);
}

static void attend(const banyan_tile *tile)
{
    banyan_kernel_scalar.attend(tile);
}

static void observe(const banyan_tile *tile, banyan_observed *o, float *column)
{
    banyan_kernel_scalar.observe(tile, o, column);
}

static void score(const banyan_tile *tile, float *out)
{
    banyan_kernel_scalar.score(tile, out);
}

static void unpack(const banyan_block_shape *shape, const void *record, int32_t rows,
                   const banyan_plain *out)
{
    banyan_kernel_scalar.unpack(shape, record, rows, out);
}

const banyan_kernel banyan_kernel_again = {
    .name = "again",
    .usable = usable,
    .supports = supports,
    .record_bytes = record_bytes,
    .pack = pack,
    .workspace_bytes = workspace_bytes,
    .attend = attend,
    .observe = observe,
    .score = score,
    .unpack = unpack,
};
