/* SPDX-License-Identifier: Apache-2.0 */
/* A Llama checkpoint whose weights are written down instead of learned: it answers
 *
 *     BOS x 4, words .., <K> k1 k2 k3 <V> v1 v2 v3 v4 . , words .., <Q> k1 k2 k3 <V>
 *
 * with v1 v2 v3 v4 . , from any depth of up to max_tokens tokens, and with <none> when the key
 * is not there. Two layers that do something:
 *
 * Residual stream (768): A, the token's code (128) | B1 B2 B3, codes of the tokens 1, 2, 3 back
 * (128 each) | C, the answer (128) | const | flag of null tokens | filler. const is 16, and
 * flag and filler of null tokens 8, so that every embedding has the square sum 128 + 256 = 64 +
 * 64 + 256, and RMSNorm divides by a known number: sqrt(384/768), and 1 after layer 0 has
 * filled B1..B3.
 *
 * Layer 0, query head h copies the token 1 + h mod 3 back into B, by position alone. Keys are
 * the constant sqrt(A_i) on pair i, queries the same turned by -offset: the rotary embedding
 * makes of them the score sum_i A_i cos(theta_i delta), delta = distance - offset. With a
 * geometric ladder of frequencies that is a vernier, sharp at 0; the A_i below solve the
 * covering problem of keeping every other delta at least a gap G under the peak. Null tokens
 * look at themselves instead and copy their code, which is zero.
 *
 * Layer 1, every head: the query has e(x_t), e(x_t-1), e(x_t-2) (e: first 32 signs of a code),
 * the key e(x_s-1), e(x_s-2), e(x_s-3), the value the code of x_s. These lie on pairs 15..62,
 * which turn less than half a radian over the whole length: that is what theta is chosen for,
 * pair 15 turning 0.5 rad. Each matching token adds beta to the logit; a wrong one adds at most
 * beta/2. Null tokens have a key of their own, on the slowest pair, that every query matches
 * with 11/12 of a full match: half way to the nearest miss. With beta = 4 (ln N + 6.9), N
 * nearest misses together weigh less than 1e-3 of a match. C becomes the sum over heads of what
 * they found, the head of the model compares it with all codes, and <none> says half a head's
 * worth.
 *
 * There may be more layers: all from layer 1 on have layer 1's queries, keys and values, and
 * one of them, the retrieval layer, its output; the others' outputs are multiplied by zero. */
#include "launch/model/hf_config.h"
#include "launch/model/model.h"
#include "launch/model/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CODE = CONSTRUCTED_CODE,
    DIM = 128,           /* of a head */
    PAIRS = DIM / 2,     /* of a head */
    POSITION_PAIRS = 15, /* pairs 0..14 carry positions, 15..62 codes, 63 the null */
    WORD = CONSTRUCTED_WORD,
    KEY_TOKENS = 3,   /* tokens that have to match */
    COL_A = 0,        /* columns of the residual stream */
    COL_B = CODE,     /* three of them */
    COL_C = 4 * CODE, /* answer */
    COL_CONST = 5 * CODE,
    COL_FLAG = COL_CONST + 1, /* of null tokens */
    COL_FILLER = COL_CONST + 2,
    HIDDEN = 6 * CODE,
    INTERMEDIATE = 16, /* of a feed-forward of zeros */
    MOST_LAYERS = 32,
    LAYER_TENSORS = 9
};

static const double const_entry = 16, null_entry = 8;        /* values in the embedding */
static const double null_share = 1 - 0.5 / (2 * KEY_TOKENS); /* of a full match */

/* Weights of the position pairs, in units of the gap, for the two lengths that they were solved
 * for. A shorter context uses the same ladder: its distances are among those that were
 * checked. */
static const struct ladder {
    int64_t tokens;
    double gap, weight[POSITION_PAIRS];
} ladders[] = {
    {INT64_C(1) << 20,
     20,
     {2.09, .495, .321, .372, .396, .191, .253, .391, .272, .128, .220, .200, .171, .211, 0}},
    {INT64_C(1) << 24,
     25,
     {2.10, .629, .683, .469, .400, .443, .438, .316, .364, .336, .266, .331, .324, 0, 0}}};

typedef struct design {
    constructed_spec spec;
    const struct ladder *ladder;
    double theta, beta;
} design;

static bool make_design(const constructed_spec *spec, design *out, char *why, size_t why_bytes)
{
    int64_t most = ladders[1].tokens;
    *out = (design){.spec = *spec};
    if (!out->spec.layers) out->spec.layers = 2;
    if (!out->spec.retrieval) out->spec.retrieval = out->spec.layers - 1;
    if (spec->layers < 0 || spec->layers == 1 || spec->layers > MOST_LAYERS ||
        out->spec.retrieval < 1 || out->spec.retrieval >= out->spec.layers) {
        snprintf(
            why, why_bytes,
            "%d layers, of which layer %d finds the needle; the constructed model has 2 .. "
            "%d, and layer 0 is not the one",
            (int)out->spec.layers, (int)out->spec.retrieval, MOST_LAYERS);
        return false;
    }
    if (spec->heads < KEY_TOKENS || spec->kv_heads < 1 || spec->heads % spec->kv_heads != 0) {
        snprintf(why, why_bytes,
                 "%d heads and %d KV heads; the constructed model needs at least %d heads, a "
                 "multiple of its KV heads",
                 (int)spec->heads, (int)spec->kv_heads, KEY_TOKENS);
        return false;
    }
    if (spec->max_tokens < 16 || spec->max_tokens > most) {
        snprintf(why, why_bytes,
                 "%" PRId64 " tokens; the constructed model is made for 16 .. "
                 "%" PRId64,
                 spec->max_tokens, most);
        return false;
    }
    out->ladder = &ladders[spec->max_tokens > ladders[0].tokens];
    out->theta = pow((double)out->ladder->tokens / 0.5, (double)PAIRS / POSITION_PAIRS);
    out->beta = 4 * (log((double)spec->max_tokens) + 6.9);
    return true;
}

int32_t constructed_offset(int32_t head)
{
    return 1 + head % KEY_TOKENS;
}

double constructed_position(const constructed_spec *spec, int64_t delta)
{
    design d;
    char why[256];
    double score = 0;
    if (!make_design(spec, &d, why, sizeof why)) return 0;
    for (int i = 0; i < POSITION_PAIRS; i++)
        score += d.ladder->gap * d.ladder->weight[i] *
                 cos(pow(d.theta, -(double)i / PAIRS) * (double)delta);
    return score;
}

int constructed_numbers(const constructed_spec *spec, double *theta, double *beta, double *null)
{
    design d;
    char why[256];
    if (!make_design(spec, &d, why, sizeof why)) return false;
    *theta = d.theta;
    *beta = d.beta;
    *null = null_share;
    return true;
}

/* ---- rows of the tensors, each handed in as zeros ---------------------------------------- */

static void fill_nothing(const void *arg, int64_t row, float *out)
{
    (void)arg, (void)row, (void)out;
}

static void fill_ones(const void *arg, int64_t row, float *out)
{
    (void)arg, (void)row;
    for (int i = 0; i < HIDDEN; i++) out[i] = 1;
}

static void fill_embedding(const void *arg, int64_t row, float *out)
{
    int8_t code[CODE];
    (void)arg;
    constructed_code((uint32_t)row, code);
    for (int i = 0; i < CODE; i++) out[COL_A + i] = code[i];
    out[COL_CONST] = (float)const_entry;
    if (row < CONSTRUCTED_NULLS) out[COL_FLAG] = out[COL_FILLER] = (float)null_entry;
}

/* An id's logit is its code times C: the number of heads that found it. */
static void fill_head(const void *arg, int64_t row, float *out)
{
    int8_t code[CODE];
    (void)arg;
    constructed_code((uint32_t)row, code);
    for (int i = 0; i < CODE; i++) out[COL_C + i] = code[i] / (float)CODE;
    if (row == CONSTRUCTED_NONE) out[COL_CONST] = (float)(0.5 / const_entry);
}

/* Row `row` of a head's position vector for a query `offset` back (0: the key): amplitude
 * sqrt(A_i), turned by -offset. Attention divides by sqrt(DIM), so sqrt(DIM) is in the
 * amplitude. */
static double position_entry(const design *d, int64_t row, int32_t offset)
{
    int64_t pair = row % PAIRS;
    if (pair >= POSITION_PAIRS) return 0;
    double angle = offset * pow(d->theta, -(double)pair / PAIRS);
    double size = sqrt(d->ladder->gap * d->ladder->weight[pair] * sqrt(DIM));
    return size * (row % DIM < PAIRS ? cos(angle) : -sin(angle));
}

/* In layer 0 norm(x) = x / sqrt(1/2). */
static void fill_position_q(const void *arg, int64_t row, float *out)
{
    const design *d = arg;
    double there = position_entry(d, row, constructed_offset((int32_t)(row / DIM)));
    double here = position_entry(d, row, 0);
    out[COL_CONST] = (float)(there / (const_entry / sqrt(0.5)));
    out[COL_FLAG] = (float)((here - there) / (null_entry / sqrt(0.5)));
}

static void fill_position_k(const void *arg, int64_t row, float *out)
{
    out[COL_CONST] = (float)(position_entry(arg, row, 0) / (const_entry / sqrt(0.5)));
}

static void fill_position_v(const void *arg, int64_t row, float *out)
{
    (void)arg;
    out[COL_A + row % DIM] = (float)sqrt(0.5);
}

/* B_j is the mean over the heads that look j back. */
static void fill_position_o(const void *arg, int64_t row, float *out)
{
    const design *d = arg;
    int64_t offset = (row - COL_B) / CODE + 1;
    int32_t count = 0;
    if (row < COL_B || row >= COL_C) return;
    for (int32_t h = 0; h < d->spec.heads; h++) count += constructed_offset(h) == offset;
    for (int32_t h = 0; h < d->spec.heads; h++)
        if (constructed_offset(h) == offset) out[h * DIM + row % CODE] = 1 / (float)count;
}

/* Which entry of the codes of KEY_TOKENS tokens lies in row `row` of a head: -1, or 0..95. */
static int64_t content_entry(int64_t row)
{
    int64_t pair = row % PAIRS - POSITION_PAIRS, half = row % DIM / PAIRS;
    if (pair < 0 || pair >= KEY_TOKENS * WORD / 2) return -1;
    return 2 * pair + half;
}

static int is_null_row(int64_t row)
{
    return row % DIM == PAIRS - 1;
}

/* In layer 1 norm(x) = x, and x / sqrt(1/2) for null tokens, whose B is empty. */
static void fill_content_q(const void *arg, int64_t row, float *out)
{
    const design *d = arg;
    int64_t entry = content_entry(row);
    if (entry >= 0) /* A, B1, B2 follow each other */
        out[COL_A + entry / WORD * CODE + entry % WORD] = (float)(d->beta * sqrt(DIM) / WORD);
    if (is_null_row(row))
        out[COL_CONST] =
            (float)(null_share * KEY_TOKENS * d->beta * sqrt(DIM) / (null_entry * const_entry));
}

static void fill_content_k(const void *arg, int64_t row, float *out)
{
    int64_t entry = content_entry(row);
    (void)arg;
    if (entry >= 0) out[COL_B + entry / WORD * CODE + entry % WORD] = 1;
    if (is_null_row(row)) out[COL_FLAG] = (float)sqrt(0.5);
}

static void fill_content_v(const void *arg, int64_t row, float *out)
{
    (void)arg;
    out[COL_A + row % DIM] = 1;
}

static void fill_content_o(const void *arg, int64_t row, float *out)
{
    const design *d = arg;
    if (row < COL_C || row >= COL_C + CODE) return;
    for (int32_t h = 0; h < d->spec.heads; h++) out[h * DIM + row % CODE] = 1;
}

/* ---- the checkpoint ---------------------------------------------------------------------- */

typedef void (*fill_fn)(const void *arg, int64_t row, float *out);

static int add_source(tensor_source *list, int count, const design *d, int layer,
                      const char *part, int64_t rows, int64_t cols, fill_fn fill)
{
    tensor_source *t = &list[count];
    *t = (tensor_source){.rows = rows, .cols = cols, .fill = fill, .arg = d};
    if (layer >= 0)
        snprintf(t->name, sizeof t->name, "model.layers.%d.%s.weight", layer, part);
    else
        snprintf(t->name, sizeof t->name, "%s.weight", part);
    return count + 1;
}

static int list_tensors(const design *d, tensor_source *list)
{
    static const fill_fn fills[][4] = {
        {fill_position_q, fill_position_k, fill_position_v, fill_position_o},
        {fill_content_q, fill_content_k, fill_content_v, fill_content_o},
        {fill_content_q, fill_content_k, fill_content_v, fill_nothing}};
    int64_t q = (int64_t)d->spec.heads * DIM, kv = (int64_t)d->spec.kv_heads * DIM;
    int n = add_source(list, 0, d, -1, "model.embed_tokens", CONSTRUCTED_VOCAB, HIDDEN,
                       fill_embedding);
    for (int layer = 0; layer < d->spec.layers; layer++) {
        const fill_fn *fill = fills[layer == 0 ? 0 : layer == d->spec.retrieval ? 1 : 2];
        n = add_source(list, n, d, layer, "input_layernorm", HIDDEN, 0, fill_ones);
        n = add_source(list, n, d, layer, "self_attn.q_proj", q, HIDDEN, fill[0]);
        n = add_source(list, n, d, layer, "self_attn.k_proj", kv, HIDDEN, fill[1]);
        n = add_source(list, n, d, layer, "self_attn.v_proj", kv, HIDDEN, fill[2]);
        n = add_source(list, n, d, layer, "self_attn.o_proj", HIDDEN, q, fill[3]);
        n = add_source(list, n, d, layer, "post_attention_layernorm", HIDDEN, 0, fill_ones);
        n = add_source(list, n, d, layer, "mlp.gate_proj", INTERMEDIATE, HIDDEN, fill_nothing);
        n = add_source(list, n, d, layer, "mlp.up_proj", INTERMEDIATE, HIDDEN, fill_nothing);
        n = add_source(list, n, d, layer, "mlp.down_proj", HIDDEN, INTERMEDIATE, fill_nothing);
    }
    n = add_source(list, n, d, -1, "model.norm", HIDDEN, 0, fill_ones);
    return add_source(list, n, d, -1, "lm_head", CONSTRUCTED_VOCAB, HIDDEN, fill_head);
}

static bool write_config(const char *dir, const design *d, char *why, size_t why_bytes)
{
    static const char *const torch_names[] = {
        [BANYAN_F32] = "float32", [BANYAN_BF16] = "bfloat16", [BANYAN_F16] = "float16"};
    const constructed_spec *s = &d->spec;
    json_t *root = json_pack(
        "{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:f, s:n, s:f, s:s, s:b, s:b, "
        "s:b, "
        "s:s, s:i, s:i, s:{s:i, s:I, s:i}}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "hidden_size", HIDDEN,
        "intermediate_size", INTERMEDIATE, "num_hidden_layers", (int)s->layers,
        "num_attention_heads", (int)s->heads, "num_key_value_heads", (int)s->kv_heads,
        "head_dim", DIM, "vocab_size", CONSTRUCTED_VOCAB, "max_position_embeddings",
        (json_int_t)s->max_tokens, "rope_theta", d->theta, "rope_scaling", "rms_norm_eps", 1e-5,
        "hidden_act", "silu", "tie_word_embeddings", 0, "attention_bias", 0, "mlp_bias", 0,
        "torch_dtype", torch_names[s->dtype], "bos_token_id", CONSTRUCTED_BOS, "eos_token_id",
        CONSTRUCTED_DOT, "banyan_constructed", "version", 1, "max_tokens",
        (json_int_t)s->max_tokens, "retrieval", (int)s->retrieval);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    bool good = text && text_write(dir, "config.json", text, why, why_bytes);
    if (!text) snprintf(why, why_bytes, "out of memory");
    free(text);
    json_decref(root);
    return good;
}

banyan_status constructed_write(const char *dir, const constructed_spec *spec, char *why,
                                size_t why_bytes)
{
    design d;
    tensor_source list[3 + MOST_LAYERS * LAYER_TENSORS];
    if (!make_design(spec, &d, why, why_bytes)) return BANYAN_ERR_ARGUMENT;
    int count = list_tensors(&d, list);
    if (spec->shards < 1 || spec->shards > count) {
        snprintf(why, why_bytes, "shards is %d; expected 1 .. %d", (int)spec->shards, count);
        return BANYAN_ERR_ARGUMENT;
    }
    bool made = mkdir(dir, 0777) == 0;
    if (!made && errno != EEXIST) {
        snprintf(why, why_bytes, "%s: %s", dir, strerror(errno));
        return BANYAN_ERR_ARGUMENT;
    }
    if (safetensors_write(dir, list, count, spec->dtype, spec->shards, why, why_bytes)) {
        if (write_config(dir, &d, why, why_bytes)) return BANYAN_OK;
        safetensors_remove(dir, spec->shards);
    }
    if (made) rmdir(dir);
    return BANYAN_ERR_MEMORY;
}

static int32_t integer_field(const json_t *object, const char *name)
{
    return (int32_t)json_integer_value(json_object_get(object, name));
}

int constructed_recognise(const char *dir, constructed_spec *out, char *why, size_t why_bytes)
{
    hf_config c;
    if (!hf_config_open(dir, &c, why, why_bytes)) return access(c.path, F_OK) ? 0 : -1;
    const json_t *root = c.root;
    const json_t *mark = json_object_get(root, "banyan_constructed");
    const json_t *tokens = json_object_get(mark, "max_tokens");
    const char *type = json_string_value(json_object_get(root, "torch_dtype"));
    int known =
        json_is_integer(tokens) && json_integer_value(json_object_get(mark, "version")) == 1;
    if (known && out) {
        const json_t *retrieval = json_object_get(mark, "retrieval"); /* older ones lack it */
        *out = (constructed_spec){.max_tokens = json_integer_value(tokens),
                                  .heads = integer_field(root, "num_attention_heads"),
                                  .kv_heads = integer_field(root, "num_key_value_heads"),
                                  .dtype = type && strcmp(type, "float32") == 0   ? BANYAN_F32
                                           : type && strcmp(type, "float16") == 0 ? BANYAN_F16
                                                                                  : BANYAN_BF16,
                                  .shards = 1,
                                  .layers = integer_field(root, "num_hidden_layers")};
        out->retrieval = retrieval ? (int32_t)json_integer_value(retrieval) : out->layers - 1;
    }
    hf_config_close(&c);
    return known;
}
