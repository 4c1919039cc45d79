/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - checkpoints run through banyan.
 *
 * Knows: Hugging Face checkpoints (config.json + safetensors) of the families of
 * families.def, the arithmetic between attention calls, how matrices are cut over ranks.
 * Refuses to know: needles, flags, result files.
 *
 * Matrices are cut evenly by columns over all ranks whatever the placement of heads;
 * activations are fp32 and are exchanged through banyan_comm. */
#ifndef BANYAN_MODEL_H
#define BANYAN_MODEL_H

#include "banyan.h"

typedef struct model model;
struct device;

typedef struct model_shape {
    int32_t layers, heads, kv_heads, head_dim, hidden, intermediate, vocab;
    double rope_theta, norm_eps;
    int tied;
    int64_t max_positions; /* tokens that it was made for, 0: unknown; not a limit */
} model_shape;

/* Only config.json; no comm, no weights. why: the reason in words on failure. */
banyan_status model_shape_read(const char *dir, model_shape *out, char *why, size_t why_bytes);

/* One number for a checkpoint, the same wherever its folder is; see digest.c for what it
 * covers and what it cannot see. No comm; reads 64 KiB of each tensor. */
banyan_status model_digest(const char *dir, uint64_t *digest, char *why, size_t why_bytes);

/* Called now and then while weights are read, with the share of this rank's that is done; NULL:
 * nobody. */
typedef struct model_loading {
    void (*progress)(void *arg, double share);
    void *arg;
} model_loading;

/* Open a checkpoint on every rank of comm: weights are mapped, and each rank touches only
 * its part. `spec` gives rules, cache and execution; the shape is filled in from the
 * checkpoint, and rules too where spec has none: windows and patterns that the model was
 * trained with. Rotary embeddings that depend on the length of the text (dynamic, longrope)
 * are made for spec->max_tokens. All ranks must have read the same model (model_digest).
 * Makes the plan and the cache. Collective; the error is banyan_error_message() or `why`,
 * same on every rank. device: of launch/device.h, the one that spec->device names; it
 * outlives the model. Weights, the embedding among them, and activations lie there, and all
 * between an id and the next is done there, but for how experts are chosen: each layer that has
 * some copies its router's logits out. Weights in bf16 (or mxfp4) stay bf16 there, and inputs
 * of their products are rounded to bf16, sums are fp32; other weights are fp32. Between ranks
 * activations pass through the host. */
banyan_status model_open(const char *dir, const banyan_spec *spec, banyan_comm *comm,
                         struct device *device, const model_loading *loading, model **out,
                         char *why, size_t why_bytes);
void model_close(model *m);
/* The same weights with an empty cache: destroys the cache and the plan and makes them anew
 * from `spec` (another length, other rules; nothing in it may point into the old plan). On
 * failure the model can only be closed. Collective. */
banyan_status model_reset(model *m, const banyan_spec *spec, char *why, size_t why_bytes);

/* Are the files of the checkpoint, which stay mapped, what they were when it was opened? Else
 * CONFIG, and results may be of a mixture: model_message names the file. Collective. */
banyan_status model_unchanged(model *m);
/* Patterns that are compared on one prefill: the last layer's keys and values go to `count`
 * further cache layers as well, which rules name as layers shape.layers .. . Holds from the
 * next model_reset on. */
void model_add_readings(model *m, int32_t count);
/* Which of them the last layer attends to: 1 .. count, or 0: its own. The others only
 * append. */
void model_choose_reading(model *m, int32_t reading);

/* A second model of the same weights, with no cache until its first model_reset. The first is
 * closed after it. */
banyan_status model_twin(const model *m, model **out);

const model_shape *model_get_shape(const model *m);
uint64_t model_get_digest(const model *m); /* of what was opened */
const banyan_plan *model_plan(const model *m);
banyan_cache *model_cache(model *m);

/* From here on calls go to a fork of the sequence, of its first `tokens` tokens; model_back
 * forgets it, and calls go to the sequence as it was. The spec has room for two sequences.
 * Collective: `mine`, where it is no OK, is what this rank has met before, and no rank has a
 * fork. */
banyan_status model_fork(model *m, int64_t tokens, banyan_status mine);
void model_back(model *m);
/* The sequence to a folder that all ranks see, with the ids of its tokens, and one more where
 * the last is not read yet; and the sequence of such a folder in place of what there is, which
 * stays where it fails, also where the folder's ids are not the first of these [count] of rank
 * 0 any more: another job may have saved since they were read. model_message says why.
 * Collective. */
banyan_status model_save(model *m, const char *folder, const uint32_t *ids, int64_t count);
banyan_status model_load(model *m, const char *folder, const uint32_t *ids, int64_t count);
int64_t model_length(const model *m); /* tokens of the sequence */
/* The ids that were saved with it, with room for `room` more, for free(), and the digest of the
 * model. One process. NULL: why. */
uint32_t *snapshot_ids(const char *folder, int64_t room, int64_t *count, uint64_t *digest,
                       char *why, size_t why_bytes);
/* This rank's memory besides weights and cache: activations and messages of max_rows rows. */
int64_t model_workspace(const model *m);
/* Multiply-adds done in matrices by this rank since opening. */
int64_t model_matrix_work(const model *m);

/* What the last failed call on this model said, in words. */
const char *model_message(const model *m);

/* What all layers' attention looks at in the last `rows` rows of a call: the strongest token of
 * each row and head, and the softmax mass of `ranges` ranges of tokens (which may be empty) of
 * each row. Filled on every rank. On the CPU, and up to where a model has dual chunk
 * attention. */
typedef struct model_watch {
    int32_t rows, ranges;
    banyan_range *range; /* [rows][ranges]: the caller fills them in */
    float *mass;         /* [layers][rows][ranges][heads] */
    int64_t *strongest;  /* [layers][rows][heads]; -1: the row sees nothing */
    struct watching *work;
} model_watch;
/* Room for it; rows * ranges is at most the spec's max_rows. Its rows may be made fewer from
 * call to call. */
banyan_status model_watch_make(const model *m, int32_t rows, int32_t ranges, model_watch *out);
void model_watch_free(model_watch *w);

/* What evaluation wants to see of the last `rows` rows of one layer's attention. Arrays are
 * filled on every rank; any may be NULL. */
typedef struct model_probe {
    int32_t layer;
    int64_t first_token, token_count; /* for mass */
    float *out;         /* [rows][heads][head_dim], before the output projection */
    float *lse;         /* [rows][heads] */
    float *mass;        /* [rows][heads]: share of softmax in the token range */
    model_watch *watch; /* of all layers; no more rows than are asked for */
} model_probe;

/* Run tokens at .. at+count-1 through the model, in chunks of the spec's max_rows. The last
 * layer computes only the last `rows` (0..max_rows, <= count) of them; their logits
 * [rows][vocab] and greedy ids [rows] (lowest id on ties) are filled in on every rank where
 * not NULL. rows 0: append only. progress, or NULL, is called now and then with the tokens
 * done. Collective. */
banyan_status model_forward(model *m, int64_t at, const uint32_t *ids, int64_t count,
                            int32_t rows, float *logits, uint32_t *greedy,
                            const model_probe *probe, void (*progress)(void *arg, int64_t done),
                            void *arg);

/* ---- the constructed model (see constructed.c) ------------------------------------------- */

typedef struct constructed_spec {
    int64_t max_tokens;
    int32_t heads, kv_heads;
    banyan_dtype dtype;
    int32_t shards;
    /* Layers, 0: 2; and which one finds the needle, 0: the last. The others from layer 1 on
     * attend as it does, and add nothing. In one that is not the last, rows of a prefill attend
     * too. */
    int32_t layers, retrieval;
} constructed_spec;

/* Write config.json and safetensors for it into `dir` (made if missing). One process. */
banyan_status constructed_write(const char *dir, const constructed_spec *spec, char *why,
                                size_t why_bytes);

/* What an evaluation must know of it: special ids, the code of a token, and thresholds. */
enum {
    CONSTRUCTED_VOCAB = 32768,
    CONSTRUCTED_BOS = 0,      /* null tokens are ids 0..7: no code, zero value */
    CONSTRUCTED_QUESTION = 1, /* <Q> */
    CONSTRUCTED_NONE = 2,     /* what the model says when no head matches */
    CONSTRUCTED_NULLS = 8,
    CONSTRUCTED_KEY = 8,    /* <K>: the first of the markers, ordinary coded tokens */
    CONSTRUCTED_VALUE = 9,  /* <V> */
    CONSTRUCTED_DOT = 10,   /* ends an answer */
    CONSTRUCTED_WORDS = 16, /* ids from here on are words */
    CONSTRUCTED_CODE = 128, /* entries of a code, each -1 or +1 .. */
    CONSTRUCTED_WORD = 32   /* .. and those that queries and keys have */
};
void constructed_code(uint32_t id, int8_t code[CONSTRUCTED_CODE]);
/* Layer 0: query head `head` copies the token that lies this many tokens back (1..3). */
int32_t constructed_offset(int32_t head);
/* Layer 0's score of a key that lies `delta` tokens further back than that. */
double constructed_position(const constructed_spec *spec, int64_t delta);
/* Of the layers behind it: the base of the rotary embedding, what a matching token adds to a
 * logit, and which share of a full match a null token has. 0: there is no such model. */
int constructed_numbers(const constructed_spec *spec, double *theta, double *beta,
                        double *null_share);
/* Is this checkpoint a constructed one (1, or 0), and for which length? (a field of its
 * config.json) -1, and why: what is there cannot be read. */
int constructed_recognise(const char *dir, constructed_spec *out, char *why, size_t why_bytes);

#endif
