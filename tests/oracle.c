/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/oracle.h"
#include "attention/attention.h"

#include <stdlib.h>

/* scale q.k, and in *size the same with absolute values */
static double score_of(const oracle *o, const float *q, const float *k, double *size)
{
    double sum = 0, absolute = 0;
    for (int32_t d = 0; d < o->key_dim; d++) {
        sum += (double)q[d] * k[d];
        absolute += fabs((double)q[d] * k[d]);
    }
    *size = absolute * fabs(o->scale);
    return sum * o->scale;
}

static int sees(const oracle *o, int head, int64_t row, int64_t token)
{
    return !o->reads || o->reads(o->ctx, head, row, token);
}

/* Two passes, as in a textbook: the maximum, then the sums. */
void oracle_row(const oracle *o, const float *q, int head, int64_t row, double *out,
                double *lse, bound *b)
{
    int32_t kv_head = head / (o->heads / o->kv_heads), value_dim = o->value_dim;
    int64_t last = row < o->tokens ? row : o->tokens - 1, seen = 0;
    double sink = o->sinks ? (double)o->sinks[head] : -INFINITY;
    double max = sink, sum = 0, squares = 0, size = 0, largest = 0, largest_value = 0;
    double *score = malloc((size_t)(last + 1) * sizeof(*score));
    if (!score) abort();

    for (int64_t t = 0; t <= last; t++) {
        if (!sees(o, head, row, t)) continue;
        score[t] = score_of(o, q, o->k + (t * o->kv_heads + kv_head) * o->key_dim, &size);
        if (score[t] > max || isnan(score[t])) max = score[t];
        if (size > largest) largest = size;
        seen++;
    }
    if (sink > -INFINITY) { /* one more token, without a value */
        sum = exp(sink - max);
        squares = sum * sum;
        if (fabs(sink) > largest) largest = fabs(sink);
        seen++;
    }
    for (int32_t d = 0; d < value_dim; d++) out[d] = 0;
    for (int64_t t = 0; t <= last; t++) {
        if (!sees(o, head, row, t)) continue;
        const float *v = o->v + (t * o->kv_heads + kv_head) * value_dim;
        double weight = exp(score[t] - max);
        sum += weight;
        squares += weight * weight;
        for (int32_t d = 0; d < value_dim; d++) {
            out[d] += weight * v[d];
            if (fabs(v[d]) > largest_value) largest_value = fabs(v[d]);
        }
    }
    for (int32_t d = 0; d < value_dim && seen; d++) out[d] /= sum;
    *lse = seen ? max + log(sum) : -INFINITY;
    if (b) {
        b->key_dim = o->key_dim;
        b->tokens = seen;
        b->score = largest;
        b->value = largest_value;
        b->spread = seen ? sqrt(squares) / sum : 1;
    }
    free(score);
}

void oracle_round(float *x, int64_t count, banyan_dtype dtype)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t stored[1];
        banyan_from_float(stored, dtype, &x[i], 1);
        banyan_to_float(&x[i], stored, dtype, 1);
    }
}

/* |error| / bound, where both sides may be NaN, or the same infinity */
static double ratio(double expect, double got, double limit)
{
    if (isnan(expect) || isnan(got)) return isnan(expect) && isnan(got) ? 0 : INFINITY;
    if (expect == got) return 0;
    double error = fabs(expect - got);
    return isnan(limit) || isinf(error) ? INFINITY : error / limit;
}

double oracle_compare(const double *expect_out, double expect_lse, const bound *b,
                      int32_t value_dim, const void *out, banyan_dtype out_dtype,
                      const float *lse)
{
    double worst = lse ? ratio(expect_lse, *lse, bound_lse(b)) : 0;
    size_t element = banyan_dtype_bytes(out_dtype);
    for (int32_t d = 0; d < value_dim; d++) {
        float got;
        banyan_to_float(&got, (const char *)out + (size_t)d * element, out_dtype, 1);
        double r = ratio(expect_out[d], got, bound_out(b, expect_out[d], out_dtype));
        if (r > worst) worst = r;
    }
    return worst;
}
