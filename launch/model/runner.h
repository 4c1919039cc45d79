/* SPDX-License-Identifier: Apache-2.0 */
/* runner.h - inside the model runner.
 *
 * Activations are fp32, [rows][columns]. A matrix of a layer, [columns][in] as checkpoints
 * store it, is cut by columns (output features): rank r of P computes columns C r / P .. C
 * (r+1) / P - 1 of every row, whatever the placement of heads, so that matrix work is even
 * for any P. What the next step needs elsewhere is then exchanged:
 *
 *     x --norm-- h --q, kv-- cut --to the holders of each head-- attend --from homes to all-- o
 *     o --Wo-- cut --to all-- x += ; norm; h --gate, up-- cut --to all--
 *       --Wd-- cut --to all-- x +=
 *
 * The vectors between matrices (norms, residual) are computed by every rank for itself: at 3
 * to 16 KB a row that is cheaper than sending them. */
#ifndef BANYAN_RUNNER_H
#define BANYAN_RUNNER_H

#include "launch/device.h"
#include "launch/single.h"
#include "launch/model/family.h"
#include "launch/model/model.h"
#include "launch/model/safetensors.h"

/* Rows row, row + step, .. of a tensor, as they lie in the map. */
typedef struct tensor_rows {
    const tensor *tensor;
    int64_t row, step, count;
} tensor_rows;

/* A matrix of which this rank has `count` columns from `first`: rows of tensors, read where
 * they lie. */
typedef struct linear {
    int64_t columns, in; /* of the whole; of one of gate and up, which are cut alike */
    int64_t first, count;
    /* What a row gives here: count numbers, or count of gate and count of up. */
    int64_t outputs;
    tensor_rows *stretch;
    int32_t stretches;
    tensor *view;       /* of an expert, where one tensor has all of them; else NULL */
    float *bias;        /* [outputs], or NULL */
    void *there;        /* [outputs][in], on a device that is apart; else NULL */
    banyan_dtype dtype; /* of `there`: bf16 where the checkpoint's numbers are, else fp32 */
    bool is_kept;       /* the bias is in the device's memory */
} linear;

typedef struct norm {
    float *weight, *bias; /* [width]; weight NULL: there is no such norm */
    bool is_kept;         /* in the device's memory */
} norm;

typedef struct layer {
    norm input, attention, post,
        mlp;             /* before and after attention, before and after the rest */
    norm q_norm, k_norm; /* of one head */
    linear q;            /* columns [heads][head_dim] */
    linear kv;           /* columns [kv_heads][k, v][head_dim] */
    linear o, gate_up, down;
    linear router, *expert_gate_up, *expert_down; /* instead of gate_up and down */
} layer;

/* Columns first .. first+count-1 of an activation, row stride `stride`. */
typedef struct activation_columns {
    const float *data;
    int64_t first, count, stride;
} activation_columns;

/* Rectangles that are moved, or added, together: moves_put, .., moves_end. */
typedef struct moves {
    const step_row *step;
    void *own;
    bool adds;
    int count;
    step_move list[STEP_MOVES];
} moves;

/* What attend reads and writes. */
enum {
    DUAL = 3
}; /* queries of dual chunk attention: to their own chunk, the one before, all others */
/* What lies on both sides, that of the device and the host's: what is sent to other ranks and
 * comes from them, what attend measured, and what the head says, choice [HEAD_ROWS] and logits
 * behind it. */
enum { ON_SEND, ON_RECV, ON_LSE, ON_MASS, ON_ANSWER, ON_ALL };

/* Working memory of a watch. */
typedef struct watching {
    banyan_rows *part;  /* [rows] */
    float *out, *value; /* [rows][heads][head_dim]; [rows][ranges or 1][heads]: this rank's */
    float *all;         /* [rows][heads], gathered */
    int64_t *strongest; /* [rows][heads]: this rank's */
} watching;

/* Working memory, for max_rows rows, in the device's memory where nothing else is said: without
 * a device that is the host's. */
typedef struct workspace {
    int64_t bytes;       /* of all that follows */
    float *x, *h;        /* [rows][hidden] */
    float *cut, *cut_kv; /* [rows][mine]: what a matrix gave */
    float *q, *k, *v;    /* [rows][heads or kv_heads][head_dim], as attend reads them */
    float *out;          /* [rows][heads][head_dim], as attend writes it */
    int64_t *input;      /* token of the chunk's first row; then its ids, uint32 [rows] */
    int64_t *asked;      /* the same, on the host */
    device_array on[ON_ALL];
    float *wide;        /* [rows][the wider of heads head_dim and intermediate]: gathered */
    float *turn[ROPES]; /* [rows][2][pairs]: cos, sin */
    float *turn_next, *turn_far; /* likewise, for the second and third query; far is one row */
    float *dual_q[2], *dual_out[2], *dual_lse[DUAL], *dual_mass[DUAL];
    banyan_rows *dual_part;
    float *some;          /* [rows][hidden] */
    uint16_t *h_narrow;   /* [rows][hidden]: h in bf16, on a device that multiplies such */
    uint16_t *narrow;     /* [rows][the widest input]: other inputs of its products, likewise */
    float *share;         /* [rows][experts], on the host */
    unsigned char *taken; /* [experts], likewise */
    float *panel;         /* [PANEL][the widest input]: columns of a matrix in fp32 */
    float *lse, *mass;    /* [rows][heads]: the host's sides */
    float *send, *recv;   /* likewise */
    int32_t *owner;       /* [kv_heads][blocks of a chunk]: rank that keeps the block */
    banyan_message *sends, *recvs;
    activation_columns *columns_of;
} workspace;

/* A decoded token's kernels, captured: graph.c. COLD: none was decoded yet; NEVER: it cannot
 * be. */
typedef struct step_graph {
    enum { GRAPH_COLD, GRAPH_WARM, GRAPH_READY, GRAPH_NEVER } state;
    void *graph;
    int64_t work; /* multiply-adds of one */
} step_graph;

enum { PANEL = 256, HEAD_ROWS = 32, WHY = 1024 };

struct model {
    description is; /* what the checkpoint says that it is */
    model_shape shape;
    banyan_comm *comm;
    device *device;
    const step_row *step; /* of the processor in whose memory activations lie */
    int rank, ranks;
    safetensors *files;
    uint64_t digest;
    const tensor *embedding; /* [vocab][hidden], read from the map */
    step_table table;        /* the same for its step */
    void *own_table;         /* table.there, where the head's matrix is another; or NULL */
    int32_t *dummy;          /* the description's, in the device's memory */
    double *turns[ROPES];    /* of step_rope, likewise */
    layer *layer;
    float *sinks; /* [layers and readings][heads], or NULL */
    norm final_norm;
    linear head;
    rope rope[ROPES];
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_sequence *sequence; /* that calls go to */
    banyan_sequence *parent;   /* of which it is a fork; or NULL */
    int32_t max_rows, block_tokens;
    int32_t readings,
        reading; /* further cache layers of the last layer, and which one it reads */
    workspace work;
    step_graph graph; /* of this workspace and cache */
    int64_t matrix_work;
    bool has_narrow; /* some matrix is kept in bf16 */
    bool is_twin;    /* the weights are another model's */
    char why[WHY];
};

/* A stretch of tokens on its way through the layers. The last `wanted` rows are the ones whose
 * attention is computed; the others only append. */
typedef struct chunk {
    int64_t at;
    int32_t rows, wanted;
} chunk;

static inline int64_t larger64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t smaller64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The model's layer whose keys and values a cache layer has. */
static inline int32_t layer_of(const model *m, int32_t cache_layer)
{
    return cache_layer < m->shape.layers ? cache_layer : m->shape.layers - 1;
}

int64_t cut_first(int64_t columns, int rank, int ranks);

/* weights.c */
/* Finds all tensors, in the shapes that the description implies, and none besides; reads the
 * vectors. *bytes: this rank's share of the matrices. */
banyan_status weights_find(model *m, int64_t *bytes);
/* Reads this rank's share once: are all values finite? To the device, where that is apart. */
banyan_status weights_load(model *m, const model_loading *loading);
void weights_free(model *m);

/* digest.c */
banyan_status digest_make(const char *dir, const safetensors *files, uint64_t *digest,
                          char *why, size_t why_bytes);

/* linear.c: out[rows][outputs] = in[rows][in] weight^T + bias; counts the work. On a device
 * weights in bf16 are multiplied as they are, by inputs that are rounded to bf16, and added up
 * in fp32; the CPU multiplies what they are in fp32 by fp32. */
banyan_status linear_run(model *m, const linear *l, const float *in, int32_t rows, float *out);
/* A device call's result, its words kept in m->why. */
banyan_status device_result(model *m, banyan_status status);
/* The columns to a device that is apart, in bf16 where all of them are of so few digits, else
 * in fp32. */
banyan_status linear_keep(model *m, linear *l);
/* A vector of malloc likewise; from the call on it is vector_free's as `is_kept`. */
banyan_status vector_keep(model *m, float **vector, int64_t count, bool *is_kept);
void vector_free(model *m, float *vector, bool is_kept);
/* All of the embedding, likewise, and m->table. After the head. */
banyan_status embedding_keep(model *m);
void linear_free(model *m, linear *l);
/* What a widest input needs of work.panel. */
int64_t linear_widest(const model *m);

/* Do activations lie in a memory of their own? */
static inline bool on_device(const model *m)
{
    return m->device->row->memory->is_apart;
}

static inline step_norm norm_step(const model *m, const norm *n)
{
    return (step_norm){m->is.norm, m->shape.norm_eps, n->weight, n->bias};
}

/* moves.c */
moves moves_of(const model *m, bool adds);
moves moves_on_host(void);
void moves_put(moves *l, step_move one);
void moves_end(moves *l);
/* work.columns_of, each to its columns of `to`; scale: where they are added. */
void moves_columns(moves *l, const model *m, float *to, int64_t to_stride, int64_t rows,
                   float scale);

/* heads.c: norm and rotation of the q and k that this rank holds. */
void heads_prepare(model *m, int32_t layer, const chunk *c);

/* experts.c: work.h to the sum of its experts, cut, in work.cut. */
banyan_status experts_run(model *m, const layer *l, int32_t rows);

/* attend.c */
/* The calls of one layer: rows that only append, then those that attend; q, k, v and out are
 * work's. */
banyan_status attend_run(model *m, int32_t layer, const chunk *c, const model_probe *probe);

/* watch.c: of the last rows of a chunk that attends */
banyan_status watch_check(model *m, int64_t end, int32_t rows, const model_watch *w);
banyan_status watch_run(model *m, int32_t layer, int32_t cache_layer, const chunk *c,
                        model_watch *w);

/* dual.c */
/* Tokens up to which dual chunk attention is plain; without it there is no end. */
int64_t dual_reach(const description *d);
double dual_sharpness(const description *d, double tokens); /* a factor on scores */
bool dual_is_on(const model *m, const chunk *c);            /* for some row of the chunk */
/* Tables of cos and sin for the chunk's keys and queries. */
void dual_turns(model *m, const chunk *c);
/* The further queries of some heads of a row, from the one that is not turned yet; `wanted`: of
 * the row among those that attend. */
void dual_turn_queries(model *m, int64_t row, int64_t wanted, int32_t head, int32_t heads);
/* attend_run, where it is on. */
banyan_status dual_attend(model *m, int32_t layer, const chunk *c, const model_probe *probe);

/* exchange.c */
banyan_status exchange_heads(model *m, int32_t layer, const chunk *c); /* cut -> q, k, v */
/* *all [rows][heads][head_dim]: all heads' outputs */
banyan_status exchange_out(model *m, int32_t layer, int32_t rows, const float **all);
/* [rows][heads] from the homes; both on the host */
banyan_status exchange_values(model *m, int32_t layer, int32_t rows, const float *mine,
                              float *all);
/* Everybody's part of a cut activation; work.columns_of[ranks] point into the workspace or at
 * mine. */
banyan_status exchange_cut(model *m, int64_t columns, int32_t rows, const float *mine);
/* .. on the host */
banyan_status exchange_host_cut(model *m, int64_t columns, int32_t rows, const float *mine);
/* .. put together: *all [rows][columns] is `mine`, where that is the whole, or `room`. */
banyan_status exchange_whole(model *m, int64_t columns, int32_t rows, const float *mine,
                             float *room, const float **all);
int64_t exchange_floats(const model *m, int sending); /* room that send, recv need */

/* layers.c */
/* Where the chunk is and its ids, to the device, in one copy. */
banyan_status layers_input(model *m, const chunk *c, const uint32_t *ids);
/* All that follows: work.h is the final norm of the last `rows` rows, first in the array. */
banyan_status layers_compute(model *m, const chunk *c, int32_t rows, const model_probe *probe);
/* head.c: token is that of the first row. */
banyan_status head_run(model *m, int64_t token, const float *x, int32_t rows, float *logits,
                       uint32_t *greedy);
/* Its two halves, for up to HEAD_ROWS rows: what is queued; and the answer, fetched. */
banyan_status head_compute(model *m, const float *x, int32_t rows);
banyan_status head_answer(model *m, int64_t token, int32_t rows, float *logits,
                          uint32_t *greedy);

/* graph.c: one token that is decoded, up to head_answer, where *done. */
banyan_status graph_run(model *m, const chunk *c, const uint32_t *id, bool *done);
void graph_drop(model *m);

/* finite.c: is no number of them NaN or +inf? */
bool finite_row(const float *x, int64_t count);
/* .. of rows for tokens from `token` on: ARGUMENT, with the words in m->why, where one is. */
banyan_status finite_rows(model *m, const char *what, int64_t token, const float *x,
                          int32_t rows, int64_t width);
banyan_status finite_failed(model *m, const char *what, int64_t token);

/* workspace.c */
banyan_status workspace_make(model *m); /* collective */
void workspace_free(model *m);

#endif
