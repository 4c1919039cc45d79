/* SPDX-License-Identifier: Apache-2.0 */
/* steps.h - what is done to activations between matrices and attention, by the processor in
 * whose memory they lie.
 *
 * Knows: rows of fp32 numbers and the formulas of family.h. Refuses to know: ranks, layers,
 * which step follows which (that is the layer program's, layers.c), and matrices (device.h,
 * product).
 *
 * A processor is a row of functions: the CPU's is in rows.c, CUDA's in launch/cuda_steps.cu,
 * which queues kernels on the device's stream; there pointers are the device's, where nothing
 * else is said. Steps return nothing: what a device could not do is said by its next copy or
 * wait (device.h). */
#ifndef BANYAN_STEPS_H
#define BANYAN_STEPS_H

#include "banyan.h"

#include <math.h>
#include <string.h>

#ifdef __CUDACC__
#define STEP_FN static inline __host__ __device__
#else
#define STEP_FN static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* RMSNorm, x w / rms(x); with 1 + w; LayerNorm, (x - mean) w / deviation + bias. */
typedef enum norm_kind { NORM_RMS, NORM_RMS_ONE, NORM_LAYER } norm_kind;

/* On gate and up; gegelu (Phi-3-small; gpt-oss calls it swiglu), with a cap c:
 * min(g, c) sigmoid(1.702 g) (clamp(u, -c, c) + 1) */
typedef enum activation { ACT_SILU, ACT_GELU_TANH, ACT_GELU, ACT_GEGELU } activation;

struct tensor;
struct rope;

/* The embedding, [vocab][width]. */
typedef struct step_table {
    const struct tensor *tensor; /* as the checkpoint has it; for the CPU */
    const void *there;           /* for a device: in its memory, in bf16 or fp32 */
    banyan_dtype dtype;          /* of `there` */
} step_table;

/* A rotary embedding. */
typedef struct step_rope {
    const struct rope *rope; /* for the CPU */
    const double *turns;     /* for a device: [pairs], whole turns per token, in its memory */
    double factor;           /* on cos and sin */
    int32_t pairs;
} step_rope;

/* weight [width]; NULL: there is no such norm. bias [width], or NULL. */
typedef struct step_norm {
    norm_kind kind;
    double eps;
    const float *weight, *bias;
} step_norm;

/* A rectangle, `width` numbers of each of `rows` rows, from one place to another. Those of one
 * call do not overlap. */
typedef struct step_move {
    const float *from;
    float *to;
    int64_t from_stride, to_stride;
    int32_t rows, width;
    float scale; /* of add */
} step_move;
enum { STEP_MOVES = 64 }; /* of one call, at most */

/* In each of `rows` rows, `stride` numbers apart, the same `heads` heads of `dim` numbers:
 * their norm, then rotation by the row's `turn` [rows][cos, sin][pairs]; NULL: none. */
typedef struct step_heads {
    float *x;
    int64_t rows, stride;
    int32_t heads, dim, pairs;
    step_norm norm;
    const float *turn;
} step_heads;

typedef struct step_row {
    const char *name;
    /* x [rows][width] = scale * the rows `ids` of the table */
    void (*embed)(void *own, const step_table *table, const uint32_t *ids, int32_t rows,
                  int64_t width, float scale, float *x);
    /* h [rows][width] = norm(x), row by row; may be in place. narrow: the same in bf16, as
     * `narrow` rounds, or NULL (the CPU leaves it out) */
    void (*norm)(void *own, const step_norm *n, const float *x, int64_t rows, int64_t width,
                 float *h, uint16_t *narrow);
    void (*move)(void *own, const step_move *list, int count); /* to = from */
    void (*add)(void *own, const step_move *list, int count);  /* to += scale * from */
    void (*zero)(void *own, float *x, int64_t count);
    void (*scale)(void *own, float *x, int64_t count, float scale);
    /* x [rows][width] += bias [width] */
    void (*bias)(void *own, float *x, int64_t rows, int64_t width, const float *bias);
    /* gate_up [rows][gate, up][width] -> out [rows][width] = act(gate) up */
    void (*activate)(void *own, activation act, float cap, const float *gate_up, int64_t rows,
                     int64_t width, float *out);
    /* turn [rows][cos, sin][pairs] for tokens *at, *at + 1, .. */
    void (*turns)(void *own, const step_rope *r, const int64_t *at, int32_t rows, float *turn);
    void (*heads)(void *own, const step_heads *h);
    /* -infinity to some columns of logits [rows][count]; those that are not in it are left
     * out */
    void (*silence)(void *own, float *logits, int32_t rows, int64_t count, int64_t first,
                    const int32_t *ids, int32_t dummies);
    /* choice [rows]: of logits [rows][count], whose column 0 is id `first` */
    void (*choose)(void *own, const float *logits, int32_t rows, int64_t count, int64_t first,
                   uint64_t *choice);
    /* to = x in bf16, rounded to nearest, ties to even. Asked only of devices that are
     * apart. */
    void (*narrow)(void *own, const float *x, int64_t count, uint16_t *to);
} step_row;

/* The CPU's own: unused. CUDA's: that of launch/cuda.c. */
extern const step_row step_row_cpu, step_row_cuda;

/* A row's best logit and its id as one number, of which the larger is the better choice: by the
 * logit, then the lower id. Above all is a logit that is NaN or +infinity, which must not go
 * unnoticed; below all is CHOICE_NONE, of no column. */
#define CHOICE_NONE UINT64_C(0)
#define CHOICE_BAD UINT64_C(0xffffffff00000000)

STEP_FN uint64_t choice_make(float logit, uint32_t id)
{
    uint32_t bits;
    const float x = logit + 0.0f; /* -0 is 0 */
    memcpy(&bits, &x, sizeof bits);
    if (!(x < INFINITY)) return CHOICE_BAD | (UINT32_MAX - id);
    bits = bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
    return (uint64_t)bits << 32 | (UINT32_MAX - id);
}
STEP_FN uint32_t choice_id(uint64_t choice)
{
    return UINT32_MAX - (uint32_t)choice;
}
/* Is there an id to follow? Not where all logits are -infinity. */
STEP_FN int choice_is_good(uint64_t choice)
{
    return choice < CHOICE_BAD && choice >> 32 > UINT32_C(0x007fffff);
}

#ifdef __cplusplus
}
#endif
#endif
