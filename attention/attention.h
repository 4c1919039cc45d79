/* SPDX-License-Identifier: Apache-2.0 */
/* attention.h - attention on one rank: arithmetic, and nothing else.
 *
 * Knows: partials, block lists, selectors (which blocks a head reads and keeps), kernels (how a
 * block is stored and how rows attend to it).
 * Refuses to know: ranks, layers, transports, files, logs. Nothing here allocates, and nothing
 * here starts a thread; callers bring the memory and the threads. Includes banyan.h only. */
#ifndef BANYAN_ATTENTION_H
#define BANYAN_ATTENTION_H

#include "banyan.h"
#include "banyan_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BANYAN_MAX_DIM = 576, /* of key_dim and value_dim */
    BANYAN_TILE_HEADS =
        64 /* bits of banyan_entry.heads: query heads in a tile, or pairs of them */
};

/* ---- numbers ----------------------------------------------------------------------------- */

float banyan_bf16_to_float(uint16_t x);
uint16_t banyan_bf16_from_float(float x); /* round to nearest even; NaN stays NaN */
float banyan_f16_to_float(uint16_t x);
uint16_t banyan_f16_from_float(float x);
float banyan_e4m3_to_float(uint8_t x);
uint8_t banyan_e4m3_from_float(float x); /* what is larger than 448 becomes 448 */
/* `count` consecutive values to and from fp32. */
void banyan_to_float(float *out, const void *in, banyan_dtype dtype, int64_t count);
void banyan_from_float(void *out, banyan_dtype dtype, const float *in, int64_t count);

static inline int64_t banyan_smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t banyan_larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- partials ---------------------------------------------------------------------------- */

/* A partial is softmax attention stopped half way: what one query row knows after seeing some
 * of the keys, with s_i = scale * q.k_i:
 *
 *     m = max_i s_i     l = sum_i exp(s_i - m)     o = sum_i exp(s_i - m) v_i
 *
 * Stored as value_dim + 2 floats: o[value_dim], m, l. The empty partial is o = 0, m = -inf, l =
 * 0. See partial.c for the derivation of combine. */
static inline size_t banyan_partial_floats(int32_t value_dim)
{
    return (size_t)value_dim + 2;
}
/* A base point for the same sum, so high that its l, now `l` relative to exp(m), is 1/2 or a
 * little less. */
float banyan_partial_above(float m, double l);
void banyan_partial_clear(float *p, int32_t value_dim, int64_t rows);
/* out = lo + hi, row by row; out may be either input. The caller passes the part that comes
 * first (lower rank, lower block run) as lo, so that every rank computes the same bits. */
void banyan_partial_combine(float *out, const float *lo, const float *hi, int32_t value_dim,
                            int64_t rows);
/* A sink: a logit without a value that joins the softmax of each row, once: p + (sink, 1, 0).
 * -INFINITY changes nothing. */
void banyan_partial_sink(float *p, float sink, int32_t value_dim, int64_t rows);
/* out [rows][value_dim] with row stride out_stride (elements of out_dtype); lse [rows] with
 * stride lse_stride, or NULL. An empty partial gives zeros and -inf. */
void banyan_partial_finish(const float *p, int32_t value_dim, int64_t rows, void *out,
                           banyan_dtype out_dtype, int64_t out_stride, float *lse,
                           int64_t lse_stride);

/* ---- fixed-point sums: partials added up the same in any order --------------------------- */

/* For at most this many blocks. */
enum { BANYAN_FIXED_BLOCKS = 1 << 22 };
/* Of one row, a multiple of 64; they are at least 8-byte aligned. See fixed.c for what is in
 * them. */
size_t banyan_fixed_bytes(int32_t value_dim);
void banyan_fixed_clear(void *sums, int32_t value_dim, int64_t rows);
/* One block's partial to the sum of one row: l and o, relative to exp(base). l = 0: nothing was
 * seen; l or base NaN: so is the row. */
void banyan_fixed_add(void *sum, double base, float l, const float *o, int32_t value_dim);
/* out = lo + hi, row by row; out may be either input. The bits are those of hi + lo, and of all
 * blocks added to one sum. */
void banyan_fixed_combine(void *out, const void *lo, const void *hi, int32_t value_dim,
                          int64_t rows);
/* To ordinary partials, whose memory may begin where the sums' does. */
void banyan_fixed_round(const void *sums, float *partials, int32_t value_dim, int64_t rows);
/* What they say without values: sums of value_dim 0. */
void banyan_fixed_strip(const void *sums, void *out, int32_t value_dim, int64_t rows);

/* ---- selectors: which blocks a head reads, and which a KV head keeps --------------------- */

enum {
    BANYAN_MAX_PARAMS = 16,
    BANYAN_MAX_PERIOD = 4096,
    BANYAN_MAX_RUNS = 12 /* of a selection */
};

/* A number in a head rule. "256" counts in the unit of the parameter, "256t" in tokens; "0.125"
 * is of a parameter that takes fractions. */
typedef struct banyan_value {
    int64_t number;
    int in_tokens;
    double fraction; /* else 0 */
} banyan_value;

typedef struct banyan_param {
    const char *name;
    const char *default_text; /* in the syntax of a rule */
    const char *choices;      /* "kv|query": the number is the index of the choice; else NULL */
    int in_blocks;            /* a length: blocks, or tokens with the suffix t */
    int in_tokens;            /* a length in tokens, with or without the suffix */
    int is_fraction;          /* min .. max, with decimals */
    int64_t min, max;
    const char *doc;
} banyan_param;

#include "attention/choice.h"
#include "attention/lines.h"

/* A selector with its parameters, bound to one query head of the model. */
typedef struct banyan_pattern {
    const struct banyan_selector *selector;
    banyan_value value[BANYAN_MAX_PARAMS];
    int32_t head, heads; /* global index of the query head, and how many there are */
    int32_t kv_heads;
    int32_t block_tokens;
    /* Of the plan: what lengths that are shares of the whole refer to. */
    int64_t planned_tokens;
} banyan_pattern;

/* Blocks first, first+step, .. <= last. edge: some rows see only some of the tokens (below). */
typedef struct banyan_run {
    int64_t first, last, step;
    int edge;
} banyan_run;

/* In an edge run the row at token t sees token s iff s <= t and (s < sink_end or s > t -
 * window). */
typedef struct banyan_edge {
    int64_t sink_end, window;
} banyan_edge;

/* What rows of one own block read: runs ascending and disjoint. A pattern that needs more than
 * BANYAN_MAX_RUNS of them is refused when it is planned; `too_many` is set here, and the runs
 * that there are must not be used. */
typedef struct banyan_selection {
    banyan_run run[BANYAN_MAX_RUNS];
    int32_t count;
    int too_many;
    banyan_edge edge;
} banyan_selection;

/* What a KV head keeps, in closed form: blocks below `prefix`, and blocks whose number modulo
 * `period` is in the residue set, are kept for good ("permanent"); any other block stays for
 * rows up to `reach` tokens after the block's last token, and can go after that. */
typedef struct banyan_retention {
    int64_t prefix;
    int32_t period;
    uint64_t residue[BANYAN_MAX_PERIOD / 64]; /* bit r % 64 of word r / 64 */
    int64_t reach;
} banyan_retention;

/* One row of attention/selectors.def. Pure functions of their arguments. It says three things
 * apart: what a row reads, token by token; the same in runs of blocks; and what must stay for
 * later rows. */
typedef struct banyan_selector {
    const char *name;
    const banyan_param *params; /* ends with a NULL name */
    /* NULL, or: are these parameters possible together? On failure writes why, in words. */
    banyan_status (*check)(const banyan_pattern *pattern, char *why, size_t why_bytes);
    /* Does the row at token `row` read token `token` (0 <= token <= row)? The exact truth; a
     * row's own block is always read. */
    int (*reads)(const banyan_pattern *pattern, int64_t row, int64_t token);
    /* The same for rows first_row..last_row (tokens, all in one block: their "own"), by
     * blocks. */
    void (*select)(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                   banyan_selection *out);
    /* Which blocks must stay: at least all of which a later row reads a token, and it may be
     * more. */
    void (*keeps)(const banyan_pattern *pattern, banyan_retention *out);
    /* NULL: query heads with equal parameters read alike. Else: do these two, of equal
     * parameters? */
    int (*alike)(const banyan_pattern *a, const banyan_pattern *b);
    /* NULL, or: rows `row` .. up to this one, exclusive, read by one law; INT64_MAX: all that
     * come. Rows on both sides of it are never selected for together. */
    int64_t (*until)(const banyan_pattern *pattern, int64_t row);
    /* NULL, or: the tokens *first .. *end-1 that rows of own block `own` read as one, a
     * compensation token: the means of their keys and values, with the logarithm of their
     * number added to the score. They are all tokens below the own block that `reads` denies;
     * *first is always the same, and *end does not fall from block to block. 0: there are none.
     * Such a row of the table is `whole`. */
    int (*compensates)(const banyan_pattern *pattern, int64_t own, int64_t *first,
                       int64_t *end);
    int whole; /* 1: a KV head that is read so has one holder */
    /* NULL, or: rows read further blocks, which are chosen by what is in them. `reads` and
     * `select` say what is read whatever the data are; everything is kept. */
    void (*chooses)(const banyan_pattern *pattern, banyan_choice *out);
    /* NULL, or: rows of a long part of a call read only columns and diagonals of what `reads`
     * and `select` say, or only some blocks, which are chosen by the part's rows. Such a row of
     * the table is `whole`, and no two query heads are alike. */
    void (*lines)(const banyan_pattern *pattern, banyan_lines *out);
    /* NULL, or: decoded rows read of what `reads` and `select` say only tokens that an earlier
     * layer chose. Everything is kept, and no two query heads are alike. */
    void (*follows)(const banyan_pattern *pattern, banyan_following *out);
} banyan_selector;

const banyan_selector *banyan_selector_find(const char *name);
const banyan_selector *banyan_selector_row(int index); /* NULL past the end */

/* Parse "s2 stride=16 local=16" for one query head. On failure writes the reason, with the
 * nearest name where one is meant, and returns CONFIG. */
banyan_status banyan_pattern_parse(const char *use, int32_t head, int32_t heads,
                                   int32_t kv_heads, int32_t block_tokens,
                                   int64_t planned_tokens, banyan_pattern *out, char *why,
                                   size_t why_bytes);
int banyan_pattern_equal(const banyan_pattern *a, const banyan_pattern *b); /* same tokens? */
/* Select, of patterns that have been accepted. */
static inline void banyan_pattern_select(const banyan_pattern *pattern, int64_t first_row,
                                         int64_t last_row, banyan_selection *out)
{
    out->count = out->too_many = 0;
    pattern->selector->select(pattern, first_row, last_row, out);
}
/* Is a block among the selected ones? */
int banyan_selection_holds(const banyan_selection *s, int64_t block);
/* Does the row at token `row` read token `token`? */
int banyan_pattern_reads(const banyan_pattern *pattern, int64_t row, int64_t token);

/* Append blocks first..last by step to a selection; clips at 0, drops what is empty, and trims
 * what the run before covers, so that runs stay disjoint. Add them with ascending first and
 * last; one that overlaps a strided run must have step 1, and takes what it overlaps. */
void banyan_selection_add(banyan_selection *s, int64_t first, int64_t last, int64_t step,
                          int edge);

/* a becomes the retention of a head that needs both. FALSE (0) when the common period would
 * exceed BANYAN_MAX_PERIOD: then a keeps everything, which is right but larger. */
int banyan_retention_union(banyan_retention *a, const banyan_retention *b);
int banyan_retention_permanent(const banyan_retention *r, int64_t block);
/* Permanent blocks below `block`; for a block that will be evicted, the block number itself. */
int64_t banyan_retention_ordinal(const banyan_retention *r, int64_t block);
int64_t banyan_retention_count(const banyan_retention *r,
                               int64_t blocks); /* permanent among the first */
/* Will any row at or after token `row` read a token of `block`? */
int banyan_retention_keeps(const banyan_retention *r, int64_t block, int64_t row,
                           int32_t block_tokens);

/* ---- the strongest token ----------------------------------------------------------------- */

/* Of one row: the token of its largest score, the lower one on ties; -1: nothing was seen. A
 * score that is NaN is no score. */
typedef struct banyan_strongest {
    float score;
    int32_t upper; /* 0; merges use it */
    int64_t token;
} banyan_strongest;

void banyan_strongest_clear(banyan_strongest *best, int64_t rows);
/* Row by row; out may be either input. */
void banyan_strongest_combine(banyan_strongest *out, const banyan_strongest *lo,
                              const banyan_strongest *hi, int64_t rows);

/* ---- block lists ------------------------------------------------------------------------- */

/* A block that is held here. */
typedef struct banyan_held {
    int64_t block;
    void *record;
} banyan_held;

/* The blocks of a KV head that are held here, ascending by block, in chunks that sequences
 * share. */
enum { BANYAN_HELD_CHUNK = 64 };
typedef struct banyan_held_list {
    banyan_held *const *chunk;
    int64_t count;
} banyan_held_list;

static inline const banyan_held *banyan_held_at(const banyan_held_list *list, int64_t i)
{
    return &list->chunk[i / BANYAN_HELD_CHUNK][i % BANYAN_HELD_CHUNK];
}

/* One block for the kernel: which query heads of the tile read it, and how. */
typedef struct banyan_entry {
    const void *record;
    int64_t block;
    /* Bit h: query head h of the tile (query heads h unit .. h unit + unit-1). */
    uint64_t heads;
    int32_t edge; /* index into the tile's edges, or -1: every token up to the row */
    /* NULL, or: bits of the record's tokens that all rows see, whatever the tile says of tokens
     * and `block` and `edge` of this entry. */
    const uint64_t *mask;
    const int64_t *token; /* NULL, or of a record that was gathered: which tokens they are */
} banyan_entry;

/* Query heads of a group that share one pattern. */
typedef struct banyan_class {
    banyan_pattern pattern;
    uint64_t heads;
} banyan_class;

/* What a class has chosen: blocks, ascending; or all the blocks that it reads: with `band`
 * those whose distance from the own block is one of its bits, with `only` those that are
 * bits. */
typedef struct banyan_chosen {
    const banyan_pick *pick;
    int64_t count;
    const uint64_t *band, *only;
} banyan_chosen;

/* The list for rows first_row..last_row (one own block): held blocks that at least one class
 * selects or has chosen (chosen [class_count]; NULL: nobody has), ascending; a block appears
 * once per way in which it is seen. entries has room for held->count * class_count, edges for
 * class_count. Returns the number of entries; -1 when a class selects too many runs. */
int64_t banyan_list_build(const banyan_class *classes, int32_t class_count,
                          const banyan_chosen *chosen, int64_t first_row, int64_t last_row,
                          const banyan_held_list *held, banyan_entry *entries,
                          banyan_edge *edges);

/* ---- kernels ----------------------------------------------------------------------------- */

/* How a block of one KV head is stored. A kernel owns the bytes of a record: it packs rows in
 * the layout that it likes, and everybody else treats a record as opaque. */
typedef struct banyan_block_shape {
    int32_t block_tokens, key_dim, value_dim;
    banyan_dtype dtype;
    int32_t value_in_key; /* 1: a value is the first value_dim numbers of its key, kept once */
} banyan_block_shape;

/* Query rows that attend to one list: `heads` query heads of one KV head, `rows` consecutive
 * rows with one own block. */
typedef struct banyan_tile {
    banyan_block_shape shape;
    float scale;
    int32_t heads, rows;       /* <= BANYAN_TILE_HEADS units, <= block_tokens */
    int32_t unit;              /* query heads that a bit of an entry stands for; 0: 1 */
    int64_t at;                /* token of row 0; row i is at token at + i */
    const float *q;            /* [heads][rows][key_dim], as given (not scaled) */
    const banyan_entry *entry; /* ascending */
    int64_t entries;
    /* Entries that follow these, and are attended to next: to be asked for early. */
    int64_t behind;
    const banyan_edge *edge;
    int64_t first_token, end_token; /* only these tokens count: 0, INT64_MAX is all */
    float *partial;                 /* [heads][rows][value_dim + 2], combined into */
    void *workspace;                /* workspace_bytes, 64-byte aligned; nothing kept in it */
    /* NULL, or fixed-point sums [heads][rows]: each block's partials alone are added to them,
     * and `partial` is not used. A block adds the same bits whatever else is in the list. */
    void *sums;
} banyan_tile;

static inline int32_t banyan_tile_unit(const banyan_tile *tile)
{
    return tile->unit > 1 ? tile->unit : 1;
}

#include "attention/device.h"

/* Rows of a block one behind the other, in shape->dtype: what every kernel keeps of them,
 * whatever its layout. With BANYAN_E4M3 k and v are codes, and a number is its code times its
 * row's factor. */
typedef struct banyan_plain {
    void *k;                    /* [rows][key_dim] */
    void *v;                    /* [rows][value_dim]; not used with value_in_key */
    float *k_factor, *v_factor; /* [rows], of BANYAN_E4M3 alone */
} banyan_plain;

/* One row of attention/kernels.def. A kernel that lacks a dtype or a shape says so in
 * `supports`; everything else must be there. Records are 64-byte aligned.
 * Masking is exact: a token that a row does not see has no influence on it, even if its key or
 * value is NaN or inf; a token that was never written is never seen.
 * A row with `device` works on a device's memory: it has no pack, workspace_bytes, attend,
 * observe and score. */
typedef struct banyan_kernel {
    const char *name;
    int (*usable)(void); /* by this processor */
    int (*supports)(const banyan_block_shape *shape);
    size_t (*record_bytes)(const banyan_block_shape *shape); /* a multiple of 64 */
    /* Write rows first_row .. first_row+rows-1 of a block. fresh: the record holds nothing yet,
     * all of its bytes are garbage. k [rows][key_dim] with stride k_stride elements, likewise
     * v, which is not read with value_in_key; both of in_dtype. */
    void (*pack)(const banyan_block_shape *shape, void *record, int fresh, int32_t first_row,
                 int32_t rows, const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                 banyan_dtype in_dtype);
    size_t (*workspace_bytes)(const banyan_block_shape *shape, int32_t heads, int32_t rows);
    void (*attend)(const banyan_tile *tile);
    /* The observed rows of o, which are the tile's and of one query head, meet the tile's
     * entries, whole blocks up to the row (lines.h): column NULL the first time, the second
     * time column [entries] [block_tokens] gets the sums of p of each token. workspace_bytes is
     * of rows that may be more than a block's. */
    void (*observe)(const banyan_tile *tile, banyan_observed *o, float *column);
    /* Of a tile of one query head, q . k of its rows and all tokens of its entries, as attend
     * has them (times -1 where scale is negative): out [entries][rows][block_tokens], 64-byte
     * aligned. Of a token that was never written it is anything. */
    void (*score)(const banyan_tile *tile, float *out);
    const banyan_device *device; /* NULL: the CPU */
    /* Rows 0 .. rows-1 of a record, which is in host memory whatever the device: for snapshots,
     * and for what is summed up of a block. */
    void (*unpack)(const banyan_block_shape *shape, const void *record, int32_t rows,
                   const banyan_plain *out);
    /* A record, in host memory, of such rows and nothing else. NULL: pack does it. */
    void (*restore)(const banyan_block_shape *shape, void *record, int32_t rows,
                    const banyan_plain *in);
} banyan_kernel;

/* restore, or what stands for it. */
void banyan_kernel_restore(const banyan_kernel *kernel, const banyan_block_shape *shape,
                           void *record, int32_t rows, const banyan_plain *in);

/* Of all rows of a tile, best [heads][rows]. tile->partial is scratch. */
void banyan_strongest_find(const banyan_kernel *kernel, const banyan_tile *tile,
                           banyan_strongest *best);

const banyan_kernel *banyan_kernel_row(int index); /* NULL past the end; not all are usable */
const char *banyan_kernel_device(const banyan_kernel *kernel); /* its name, or "cpu" */
/* Of a device (NULL: "cpu"), by name, or NULL: the fastest that is usable and supports the
 * shape. The environment variable BANYAN_KERNEL, when set, stands in for a NULL name. anywhere:
 * also one that cannot run here, for plans of other machines. NULL when there is none; why says
 * so. */
const banyan_kernel *banyan_kernel_find(const char *device, int anywhere, const char *name,
                                        const banyan_block_shape *shape, char *why,
                                        size_t why_bytes);

#ifdef __cplusplus
}
#endif
#endif
