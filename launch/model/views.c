/* SPDX-License-Identifier: Apache-2.0 */
/* Experts that lie in one tensor. A view is the matrix of one of them, rows of `in` numbers as
 * other matrices have them, whichever way they lie:
 *
 *     NAME                    [experts][in][rows]                 input first, BF16, F16 or F32
 *     NAME_blocks, _scales    [experts][rows][in/32][16], [experts][rows][in/32]   mxfp4
 *
 * mxfp4 (OCP Microscaling Formats 1.0, sections 5.3 and 6.3): 32 numbers of 4 bits, the earlier
 * in the lower half of a byte, sign, 2 bits of exponent and 1 of mantissa, times one power of
 * two, 2^(scale - 127). They are unpacked as they are used, and never kept wider. */
#include "launch/model/safetensors.h"

#include <inttypes.h>
#include <stdio.h>

enum { NAME = 300 };

static const tensor *blocks_and_scales(const safetensors *s, const char *name,
                                       const view_wish *w, const tensor **scales, char *why,
                                       size_t why_bytes)
{
    char part[NAME];
    const int64_t blocks[] = {w->experts, w->rows, w->in / MX_BLOCK, MX_BLOCK / 2};
    if (w->in % MX_BLOCK) {
        snprintf(why, why_bytes,
                 "tensor '%s_blocks': rows of %" PRId64 " numbers are no whole blocks of %d",
                 name, w->in, MX_BLOCK);
        return NULL;
    }
    snprintf(part, sizeof part, "%s_scales", name);
    *scales = safetensors_shaped(s, part, blocks, 3, "U8", why, why_bytes);
    snprintf(part, sizeof part, "%s_blocks", name);
    return *scales ? safetensors_shaped(s, part, blocks, 4, "U8", why, why_bytes) : NULL;
}

bool tensor_view(const safetensors *s, const char *name, const view_wish *w, tensor *out,
                 char *why, size_t why_bytes)
{
    const int64_t plain[] = {w->experts, w->in, w->rows};
    const tensor *scales = NULL;
    const tensor *all = w->is_mxfp4
                            ? blocks_and_scales(s, name, w, &scales, why, why_bytes)
                            : safetensors_shaped(s, name, plain, 3, NULL, why, why_bytes);
    if (!all) return false;
    const size_t bytes = all->bytes / (size_t)w->experts;
    *out = *all;
    out->layout = w->is_mxfp4 ? TENSOR_MXFP4 : TENSOR_COLUMNS;
    out->dims = 2;
    out->shape[0] = w->rows;
    out->shape[1] = w->in;
    out->data += (size_t)w->expert * bytes;
    out->bytes = bytes;
    if (scales) out->scales = scales->data + (size_t)w->expert * (bytes / (MX_BLOCK / 2));
    return true;
}
