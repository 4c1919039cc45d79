/* SPDX-License-Identifier: Apache-2.0 */
/* What came out as no number. A NaN compares with nothing, so that a search for the largest
 * would pass it by and answer with some id; a row that is told of stops here instead, on every
 * rank alike. The usual reason is a cache in a format that the checkpoint's keys or values are
 * too large for. */
#include "launch/model/runner.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

bool finite_row(const float *x, int64_t count)
{
    int bad = 0;
    for (int64_t i = 0; i < count; i++) bad |= !(x[i] < INFINITY); /* -inf: a logit of no use */
    return !bad;
}

banyan_status finite_failed(model *m, const char *what, int64_t token)
{
    banyan_dtype dtype = banyan_plan_spec(m->plan)->cache_dtype;
    const char *name = banyan_dtype_name(dtype);
    int used = snprintf(m->why, WHY, "%s of token %" PRId64 " are not finite: ", what, token);
    if (used < 0 || used >= WHY) return BANYAN_ERR_ARGUMENT;
    char *rest = m->why + used;
    size_t room = (size_t)(WHY - used);
    if (dtype == BANYAN_F32)
        snprintf(
            rest, room,
            "the cache is fp32, so that the checkpoint's own numbers are too large or NaN");
    else if (dtype == BANYAN_F16)
        snprintf(rest, room,
                 "the cache's format is fp16, which ends at 65504; expected smaller keys and "
                 "values, or --set cache.dtype=BF16 or FP32");
    else
        snprintf(rest, room,
                 "the cache's format is %s; with --set cache.dtype=FP32 it rounds nothing, and "
                 "what is left is the checkpoint's",
                 name);
    return BANYAN_ERR_ARGUMENT;
}

banyan_status finite_rows(model *m, const char *what, int64_t token, const float *x,
                          int32_t rows, int64_t width)
{
    for (int32_t row = 0; row < rows; row++)
        if (!finite_row(x + row * width, width)) return finite_failed(m, what, token + row);
    return BANYAN_OK;
}
