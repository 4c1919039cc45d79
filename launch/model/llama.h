/* SPDX-License-Identifier: Apache-2.0 */
/* llama.h - inside the model runner.
 *
 * Activations are fp32, [rows][columns]. A matrix of a layer, [columns][in] as checkpoints store
 * it, is cut by columns (output features): rank r of P computes columns C r / P .. C (r+1) / P - 1
 * of every row, whatever the placement of heads, so that matrix work is even for any P. What the
 * next step needs elsewhere is then exchanged:
 *
 *     x --norm-- h --q, kv-- cut --to the holders of each head-- attend --from homes to all-- o
 *     o --Wo-- cut --to all-- x += ; norm; h --gate, up-- cut --to all-- Wd -- cut --to all-- x +=
 *
 * The vectors between matrices (norms, residual) are computed by every rank for itself: at 3 to 16
 * KB a row that is cheaper than sending them. */
#ifndef BANYAN_LLAMA_H
#define BANYAN_LLAMA_H

#include "launch/device.h"
#include "launch/model/model.h"
#include "launch/model/safetensors.h"

/* A matrix of which this rank has `count` columns from `first`. */
typedef struct linear {
    int64_t columns, in; /* of the whole */
    int64_t first, count;
    float *weight; /* [count][in], on the model's device */
} linear;

typedef struct llama_layer {
    float *input_norm, *post_norm; /* [hidden] */
    linear q;                      /* columns [heads][head_dim] */
    linear kv;                     /* columns [kv_heads][k, v][head_dim] */
    linear o, down;
    linear gate_up; /* of one of them; weight holds mine of gate, then mine of up */
} llama_layer;

typedef struct rope {
    int32_t pairs;
    double *frequency; /* [pairs]: radians per token */
    double *step;      /* [ROPE_STEPS][2][pairs]: cos, sin of j frequency */
} rope;

/* Columns first .. first+count-1 of an activation, row stride `stride`. */
typedef struct piece {
    const float *data;
    int64_t first, count, stride;
} piece;

/* What attend reads and writes. */
enum { ON_Q, ON_K, ON_V, ON_OUT, ON_LSE, ON_MASS, ON_ALL };

/* Working memory, for max_rows rows. */
typedef struct workspace {
    float *x, *h;            /* [rows][hidden] */
    float *cut, *cut_kv;     /* [rows][mine]: what a matrix gave */
    float *q, *k, *v;        /* [rows][heads or kv_heads][head_dim], as attend reads them */
    float *out;              /* [rows][heads][head_dim], as attend writes it */
    device_array on[ON_ALL]; /* these and lse, mass, which are their host sides */
    float *wide;       /* [rows][the wider of heads head_dim and intermediate]: gathered */
    float *turn;       /* [rows][2][pairs]: cos, sin */
    float *lse, *mass; /* [rows][heads] */
    float *send, *recv;
    float *logits;  /* [HEAD_ROWS][mine of vocab] */
    int32_t *owner; /* [kv_heads][blocks of a chunk]: rank that keeps the block */
    banyan_message *sends, *recvs;
    piece *pieces;
} workspace;

enum { ROPE_STEPS = 64, HEAD_ROWS = 32, WHY = 1024 };

struct model {
    model_shape shape;
    banyan_comm *comm;
    device *device;
    int rank, ranks;
    safetensors *files;
    const tensor *embedding; /* [vocab][hidden], read from the map */
    llama_layer *layer;
    float *final_norm;
    linear head;
    rope rope;
    banyan_plan *plan;
    banyan_cache *cache;
    int32_t max_rows, block_tokens;
    workspace work;
    int64_t matrix_work;
    char why[WHY];
};

/* A stretch of tokens on its way through the layers. The last `wanted` rows are the ones whose
 * attention is computed; the others only append. */
typedef struct chunk {
    int64_t at;
    int32_t rows, wanted;
} chunk;

int64_t cut_first(int64_t columns, int rank, int ranks);

/* weights.c */
/* Are all tensors there, in the shapes that the config implies? *bytes: this rank's share. */
banyan_status weights_measure(model *m, int64_t *bytes);
banyan_status weights_load(model *m);
void weights_free(model *m);

/* linear.c: out[rows][count] = in[rows][in] weight^T; counts the work. */
banyan_status linear_run(model *m, const linear *l, const float *in, int32_t rows, float *out);
banyan_status linear_run_many(model *m, const float *weight, int64_t count, int64_t width,
                              const float *in, int32_t rows, float *out);
/* A device call's result, its words kept in m->why. */
banyan_status device_result(model *m, banyan_status status);
/* `floats` of a matrix, which malloc's family gave, to the device: takes *weight, which is then the
 * device's (the same, on the CPU). */
banyan_status linear_keep(model *m, float **weight, int64_t floats);
void linear_drop(model *m, float *weight);

/* rope.c */
banyan_status rope_make(rope *r, int32_t head_dim, double theta);
void rope_free(rope *r);
void rope_table(const rope *r, int64_t at, int32_t rows, float *turn); /* [rows][2][pairs] */
/* Rotate `heads` consecutive heads of one row; turn is the row's. */
void rope_turn(float *x, int32_t heads, int32_t pairs, const float *turn);

/* rows.c */
void rows_norm(const float *x, int64_t rows, int64_t width, const float *weight, double eps,
               float *h);
void rows_add_norm(float *x, const piece *pieces, int count, int64_t rows, int64_t width,
                   const float *weight, double eps, float *h); /* x += pieces, then norm */
void rows_copy(float *to, int64_t to_stride, const float *from, int64_t from_stride,
               int64_t rows, int64_t width);
void rows_silu(const float *gate_up, int64_t rows, int64_t width, float *out);

/* exchange.c */
banyan_status exchange_heads(model *m, int32_t layer,
                             const chunk *c); /* cut -> q, k, v, turned */
banyan_status exchange_out(model *m, int32_t layer, int32_t rows, float *all);
banyan_status exchange_values(model *m, int32_t layer, int32_t rows, const float *mine,
                              float *all); /* [rows][heads] from the homes */
/* Everybody's part of a cut activation; pieces[ranks] point into the workspace or at mine. */
banyan_status exchange_cut(model *m, int64_t columns, int32_t rows, const float *mine,
                           piece *pieces);
int64_t exchange_floats(const model *m, int sending); /* room that send, recv need */

/* layers.c */
banyan_status layers_run(model *m, const chunk *c, const uint32_t *ids, int32_t rows,
                         const model_probe *probe);
/* head.c */
banyan_status head_run(model *m, const float *x, int32_t rows, float *logits, uint32_t *greedy);

/* workspace.c */
banyan_status workspace_make(model *m); /* collective */
void workspace_free(model *m);

#endif
