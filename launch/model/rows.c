/* SPDX-License-Identifier: Apache-2.0 */
/* Element-wise work on rows of activations: every rank does all of it, so it is kept to one pass
 * over memory. Sums run in 16 lanes, folded at the end: compilers may not reorder a sum of floats
 * by themselves. */
#include "launch/isa.h"
#include "launch/model/llama.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

static inline __attribute__((always_inline)) float square_sum(const float *x, int64_t width)
{
    float lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j] * x[i + j];
    for (; i < width; i++) sum += x[i] * x[i];
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* RMSNorm (Zhang and Sennrich, arXiv 1910.07467): x w / sqrt(mean x^2 + eps). */
static inline __attribute__((always_inline)) void norm_row(const float *restrict x,
                                                           int64_t width,
                                                           const float *restrict weight,
                                                           double eps, float *restrict h)
{
    float inverse = (float)(1.0 / sqrt(square_sum(x, width) / (double)width + eps));
    for (int64_t i = 0; i < width; i++) h[i] = x[i] * inverse * weight[i];
}

EACH_ISA void rows_norm(const float *restrict x, int64_t rows, int64_t width,
                        const float *restrict weight, double eps, float *restrict h)
{
    for (int64_t row = 0; row < rows; row++)
        norm_row(x + row * width, width, weight, eps, h + row * width);
}

EACH_ISA void rows_add_norm(float *restrict x, const piece *restrict pieces, int count,
                            int64_t rows, int64_t width, const float *restrict weight,
                            double eps, float *restrict h)
{
    for (int64_t row = 0; row < rows; row++, x += width, h += width) {
        for (int p = 0; p < count; p++) {
            const float *restrict from = pieces[p].data + row * pieces[p].stride;
            float *restrict to = x + pieces[p].first;
            for (int64_t i = 0; i < pieces[p].count; i++) to[i] += from[i];
        }
        norm_row(x, width, weight, eps, h);
    }
}

void rows_copy(float *to, int64_t to_stride, const float *from, int64_t from_stride,
               int64_t rows, int64_t width)
{
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + row * to_stride, from + row * from_stride, (size_t)width * sizeof *to);
}

/* gate_up [rows][gate, up][width] -> out [rows][width] = silu(gate) up */
void rows_silu(const float *gate_up, int64_t rows, int64_t width, float *out)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * width, *up = gate + width;
        for (int64_t i = 0; i < width; i++)
            out[row * width + i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    }
}
