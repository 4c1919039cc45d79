/* SPDX-License-Identifier: Apache-2.0 */
/* family.h - model architectures, as descriptions that one layer program (layers.c)
 * executes.
 *
 * Knows: how families name their tensors, what their layers do besides what all do, how
 * config.json says it. Refuses to know: ranks, memory, arithmetic.
 *
 *     x = E[id] embedding_scale
 *     a = norm(x);  q, k, v = W a (+ bias);  (norm of q, k);  (rope)
 *     o = Wo attention(q, k, v) (+ bias)
 *     (o = norm(o));  x += residual_scale o
 *     b = norm(x);  m = Wd (act(Wg b) * Wu b) (+ biases), or that of some experts, weighted
 *     (m = norm(m));  x += residual_scale m
 *     logits = W norm(x) / logit_divisor
 *
 * A family is one file, family_NAME.c, with one const struct, one row of families.def, and a
 * case of tests/launch/forward.py. A tensor that it does not name (NULL) its layers do not
 * have, and what it does not say does not happen. */
#ifndef BANYAN_FAMILY_H
#define BANYAN_FAMILY_H

#include "launch/model/hf_config.h"
#include "launch/model/model.h"
#include "launch/model/rope.h"
#include "launch/model/steps.h"

/* Tensors of q, k and v: three; one, q then k then v; one, for each KV head its q heads, k,
 * v. */
typedef enum qkv_layout { QKV_APART, QKV_JOINED, QKV_GROUPED } qkv_layout;

/* Of gate and up: two; one, gate then up; one, gate at even rows and up at odd ones. */
typedef enum gate_up_layout { GATE_UP_APART, GATE_UP_JOINED, GATE_UP_MIXED } gate_up_layout;

/* Names without ".weight" and ".bias"; those of a layer follow `layer`, in which %d is its
 * number (and in those of experts the expert's). q, or gate, names the one tensor where they
 * are joined. */
typedef struct tensor_names {
    const char *embedding, *final_norm, *head, *layer;
    const char *input_norm, *q, *k, *v, *q_norm, *k_norm, *o, *attention_norm;
    const char *post_norm, *gate, *up, *down, *mlp_norm;
    const char *router, *expert_gate, *expert_up, *expert_down;
    const char *sinks; /* without an ending */
} tensor_names;

/* Llama's, from which most differ little. */
#define LLAMA_TENSORS                                                                          \
    .embedding = "model.embed_tokens", .final_norm = "model.norm", .head = "lm_head",          \
    .layer = "model.layers.%d.", .input_norm = "input_layernorm", .o = "self_attn.o_proj"
#define LLAMA_QKV .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj"
#define LLAMA_QK_NORMS .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm"
#define LLAMA_MLP .gate = "mlp.gate_proj", .up = "mlp.up_proj", .down = "mlp.down_proj"
#define LLAMA_POST_NORM .post_norm = "post_attention_layernorm"

/* Names of fields of config.json; NULL: Llama's. */
typedef struct config_words {
    const char *layers, *kv_heads, *head_dim, *intermediate, *vocab, *positions, *eps, *act;
    const char *attention_bias, *mlp_bias, *theta;
} config_words;

struct description;

typedef struct family {
    const char *architectures[4], *types[4]; /* "architectures", "model_type"; end with NULL */
    config_words words;
    tensor_names names;
    qkv_layout qkv;
    gate_up_layout gate_up;
    norm_kind norm;
    bool experts_together; /* in one tensor, whose even outputs are gate's: views.c */
    bool interleaved;      /* rope turns entries (2i, 2i+1) of a head, not (i, i + d/2) */
    bool qkv_bias;         /* always; "attention_bias" says it for others .. */
    bool biased;           /* .. where it is absent */
    bool no_o_bias;        /* "attention_bias" is of q, k and v alone */
    int32_t head_dim;      /* where config.json gives none; 0: hidden_size / heads */
    double theta, eps;     /* .. ; 0: 10000, 1e-6 */
    double partial;        /* share of a head that turns, .. ; 0: all of it */
    bool tied;             /* .. */
    const char *act;       /* .. ; NULL: "silu" */
    /* Reads what is this family's own: fields into d, which holds the rest. NULL: nothing. */
    void (*read)(hf_config *c, struct description *d);
} family;

enum { LAYER_USE = 96, ROPES = 2 };

/* What one layer does otherwise than its neighbours. */
typedef struct layer_kind {
    char use[LAYER_USE]; /* what its heads read, as in a rule; "": all */
    int8_t rope;         /* which of the description's; -1: nothing turns */
    bool experts;
} layer_kind;

/* A family with what config.json says. */
typedef struct description {
    const family *family;
    model_shape shape;
    norm_kind norm;
    activation act;
    bool qkv_bias, o_bias, mlp_bias;
    double attention_scale; /* on q k; 0: 1 / sqrt(head_dim) */
    double embedding_scale, residual_scale, logit_divisor;
    rope_params rope[ROPES];
    int32_t ropes;
    int32_t experts, top_experts, expert_intermediate; /* experts 0: none */
    bool experts_normed;                               /* weights of the chosen sum to 1 */
    bool router_bias, expert_bias, is_mxfp4;           /* .. of the experts alone */
    double act_cap;                                    /* of gegelu */
    int32_t block_tokens;           /* of `use` that speaks of blocks; 0: any */
    layer_kind *layer;              /* [shape.layers] */
    int32_t *dummy, dummies;        /* ids whose logits are -infinity */
    int32_t dual_chunk, dual_local; /* of dual chunk attention; 0: none */
    double dual_original;           /* tokens beyond which its scores are sharpened; 0: never */
} description;

/* Only config.json. `why`: the reason in words on failure. */
banyan_status description_read(const char *dir, description *out, char *why, size_t why_bytes);
void description_free(description *d);

/* What a row has between gate and down: of all its experts, where there are. */
int64_t description_inner(const description *d);
/* For a family's read: heads of layer `layer` see the last `window` tokens; 0: all. */
void description_window(description *d, int32_t layer, int32_t window);
/* All layers have the window "sliding_window". */
void description_slide(hf_config *c, description *d, int32_t absent);
/* Layers from "max_window_layers" on have it, if "use_sliding_window". */
void description_slide_above(hf_config *c, description *d);
/* A list of ids that the model never says. */
void description_dummies(hf_config *c, description *d, const char *field);
/* "layer_types" of config.json; false where it is not there, else layers of sliding
 * attention get the window and, where there are two, the second rope. */
bool description_layer_types(hf_config *c, description *d, int32_t window);
/* A window's tokens: absent where the field is absent, 0 where it is null. */
int32_t description_window_field(hf_config *c, const char *field, int32_t absent);

const family *family_row(int index); /* NULL past the end */
const char *family_name(int index);
const char *family_doc(int index);

#endif
