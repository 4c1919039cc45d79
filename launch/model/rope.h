/* SPDX-License-Identifier: Apache-2.0 */
/* rope.h - rotary position embeddings (Su et al., RoFormer, arXiv 2104.09864, section 3.2).
 *
 * Knows: the kinds of ropes.def, each of which gives an angle per token to every pair of a
 * head's entries, and a factor on cos and sin (so on scores its square); tables of cos and
 * sin; turning heads by them. Refuses to know: which layers turn, where heads lie.
 *
 * A kind is one file, rope_NAME.c, with one const struct, and one row of ropes.def. */
#ifndef BANYAN_ROPE_H
#define BANYAN_ROPE_H

#include "banyan.h"
#include "launch/model/hf_config.h"

enum { ROPE_PAIRS = 288, ROPE_STEPS = 64 }; /* a head has at most 576 entries */

struct rope_row;

/* What config.json says; numbers that it does not give are 0. */
typedef struct rope_params {
    const struct rope_row *row;
    int32_t dims; /* entries of a head that turn, from the first; even */
    double theta;
    double trained;  /* max_position_embeddings */
    double original; /* original_max_position_embeddings */
    double factor, low_freq_factor, high_freq_factor, beta_fast, beta_slow;
    double attention_factor, mscale, mscale_all_dim;
    bool truncate; /* of yarn's ramp: to whole pairs */
    double short_factor[ROPE_PAIRS], long_factor[ROPE_PAIRS];
} rope_params;

/* One kind. */
typedef struct rope_row {
    const char *name, *also; /* "rope_type"; an older spelling, or NULL */
    const char *needs[5];    /* fields that must be there, ends with NULL */
    bool extends;            /* made for `factor` times the length that it was trained for */
    /* frequency [dims / 2], radians a token; returns the factor on cos and sin. tokens: the
     * whole sequence's, for the kinds that depend on it. */
    double (*make)(const rope_params *p, double tokens, double *frequency);
} rope_row;

const rope_row *rope_kind(int index); /* NULL past the end */
const char *rope_doc(int index);
/* theta^(-2i/dims) */
double rope_frequency(double theta, int32_t dims, int32_t pair);

/* What the values are where an object of config.json gives none. */
typedef struct rope_defaults {
    double theta, partial;           /* partial_rotary_factor: the share of a head that turns */
    bool theta_given, partial_given; /* at the top of the file: the object's may not differ */
    int32_t head_dim;
    double trained, original; /* original 0: not given at the top */
} rope_defaults;
/* object NULL: the default kind. A fault is c's. */
void rope_read(hf_config *c, const json_t *object, const rope_defaults *d, rope_params *out);
/* Tokens that it is made for. */
double rope_reach(const rope_params *p);

/* ---- rotate.c ---- */

typedef struct rope {
    int32_t pairs;
    double *frequency; /* [pairs]: radians per token */
    double *step;      /* [ROPE_STEPS][2][pairs]: cos, sin of j frequency */
    double factor;     /* on cos and sin */
} rope;

banyan_status rope_make(rope *r, const rope_params *p, double tokens);
void rope_free(rope *r);
void rope_table(const rope *r, int64_t at, int32_t rows, float *turn); /* [rows][2][pairs] */
/* Turn `heads` consecutive heads of `dim` entries of one row; turn is the row's. Entries
 * from 2 pairs on stay as they are. */
void rope_turn(float *x, int32_t heads, int32_t dim, int32_t pairs, const float *turn);

#endif
