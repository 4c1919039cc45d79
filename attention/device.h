/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - kernels whose records, rows and results lie in a device's memory.
 *
 * A CPU kernel attends to one tile at a time. A device is given everything that a call computes
 * in one batch, since it takes thousands of tiles to fill it, and lists as spans, since a
 * million tokens of entries one by one would cost more to write down than to compute:
 *
 *     slot    a held block, or slot_tokens consecutive tokens of one (banyan_device)
 *     table   of one KV head: the slots of the blocks that are held, ascending
 *     span    an arithmetic progression of places in a table
 *     strip   query heads with one pattern x rows of one own block: they read the same spans
 *     part    rows of one sequence
 *     batch   all strips of a call; of several parts, where there are few vectors in each strip
 *
 * A queue is one stream of work on a device, with the memory that its calls need. Calls return
 * as soon as their work is queued; what they read from the host is copied before they return.
 * Functions return NULL, or what went wrong in words (valid until this thread's next call).
 *
 * Masking is exact but for this: a value (not a key) that is NaN or inf reaches all rows that
 * read its block through a masked span. Included by attention.h only. */
#ifndef BANYAN_ATTENTION_DEVICE_H
#define BANYAN_ATTENTION_DEVICE_H

/* In device memory. */
typedef struct banyan_slot {
    int32_t block; /* its number in the sequence: token block * tokens of a slot is its first */
    uint32_t record; /* its record lies at records + record * bytes of a slot */
} banyan_slot;

typedef struct banyan_table_of_blocks {
    const void *records;     /* device */
    const banyan_slot *slot; /* device, ascending by block */
} banyan_table_of_blocks;

/* Places first, first + step, .. (count of them) of a table. What the row at token t sees of
 * them:
 *
 *     masked 0   all of their tokens
 *            1   token s iff s <= t and first_token <= s < end_token
 *            2   likewise, and only where s < sink_end or s > t - window, by the strip's edge
 *
 * (A block may be cut by the range of tokens, or be a row's own, in a strip that has an edge,
 * and yet not be cut by that edge: an own block which is also an S2 head's remote one.) */
typedef struct banyan_span {
    int32_t first, count, step;
    int32_t masked;
} banyan_span;

typedef struct banyan_strip {
    int32_t table;             /* index into the batch's tables */
    int32_t first_head;        /* query head of the model that bit 0 of .. */
    uint64_t heads;            /* .. these stands for */
    int32_t part;              /* index into the batch's parts */
    int32_t first_row, rows;   /* of the batch; at most block_tokens, all of one own block */
    int32_t first_span, spans; /* in the order in which they are read; blocks ascend or not */
    int64_t blocks;            /* in all of its spans; places of the table, as all of a batch */
    int32_t edge;              /* index into the batch's edges, or -1 */
} banyan_strip;

/* Spans of one strip, as they are built: the caller gives span, capacity and room. */
typedef struct banyan_span_list {
    banyan_span *span;
    int64_t count, capacity;
    int64_t blocks;   /* in all of them */
    int has_edge;     /* a span is cut by .. */
    banyan_edge edge; /* .. this */
} banyan_span_list;

/* The blocks of a KV head that are held here, and what is known of those that are not. */
typedef struct banyan_held_set {
    banyan_held_list held;
    /* Of blocks below `settled` none is held that this does not keep for good. NULL: nothing is
     * known. */
    const banyan_retention *retention;
    int64_t settled;
} banyan_held_set;

/* What rows first_row..last_row (one own block) of a pattern's heads read of the blocks held,
 * as places in `held`; of tokens first_token .. end_token-1 only, and no block without any.
 * Takes O(log held) for each run of a selection where all blocks are held or all that the
 * retention keeps; else one step for each held block of a strided run. 0 when out->capacity is
 * too small; banyan_spans_bound is enough. */
int banyan_spans_build(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                       const banyan_held_set *held, int64_t first_token, int64_t end_token,
                       banyan_span_list *out);
/* The most spans of a strip, when at most `held_count` of the first `blocks` blocks are
 * held. */
int64_t banyan_spans_bound(const banyan_pattern *pattern, int64_t blocks, int64_t held_count);

/* Rows of a batch that are one sequence's: row first_row + i is at token at + i. Blocks without
 * a token of first_token .. end_token-1 are in none of their spans (0, INT64_MAX: all
 * count). */
typedef struct banyan_batch_part {
    int64_t at, first_token, end_token;
    int32_t first_row;
} banyan_batch_part;

/* Everything that one call computes on one rank. Arrays of strips, spans, edges, tables and
 * pointers are in host memory; what they point to is the device's. The strips of a part are
 * neighbours, and its results do not depend on what other parts there are. */
typedef struct banyan_batch {
    banyan_block_shape shape;
    float scale;
    int32_t heads; /* query heads of the model */
    int32_t rows;
    const void *q; /* [rows][heads][key_dim] of in_dtype */
    banyan_dtype in_dtype, out_dtype;
    const banyan_batch_part *part;
    const banyan_table_of_blocks *table;
    const banyan_strip *strip;
    const banyan_span *span;
    const banyan_edge *edge;
    int32_t parts, tables, strips, spans, edges;
    /* 0, or for a tape: no strip, now or when the call is rewritten, has more (query head, row)
     * vectors. The counts above will be the same then: the last strips, of part -1, fill up
     * what is not there. */
    int32_t vectors;
    int32_t part_strips; /* likewise: no part has more strips */
    /* partial[h]: [rows][value_dim + 2], written for all rows of the strips of query head h (an
     * empty list gives the empty partial); NULL: its result is final, and goes to out and lse
     * at once */
    float *const *partial; /* [heads] */
    void *out;             /* [rows][heads][value_dim] of out_dtype */
    float *lse;            /* [rows][heads], or NULL */
} banyan_batch;

/* Rows of one KV head that go to one slot's record: its tokens first .. first + rows - 1 are
 * rows row .. of the call. What it holds behind them is forgotten: it becomes zeros. */
typedef struct banyan_packing {
    void *record;                      /* device */
    int32_t kv_head, row, first, rows; /* rows 0: nothing, the record is not touched */
    int32_t fresh;
} banyan_packing;

/* Arguments of captured calls that will change from replay to replay lie on a tape, in device
 * memory. */
typedef enum banyan_tape {
    BANYAN_TAPE_NEW, /* nothing is on it; what was captured before is not replayed any more */
    /* calls are captured, and the places of their arguments are the tape's next .. */
    BANYAN_TAPE_RECORD,
    BANYAN_TAPE_OFF, /* .. until here */
    /* the same calls in the same order: they start nothing, and their arguments .. */
    BANYAN_TAPE_REWRITE,
    BANYAN_TAPE_COPY /* .. are brought to the tape here, in one copy */
} banyan_tape;

/* Partials [rows][value_dim + 2] that become one: value[0] + value[1] + .., in this order, as
 * banyan_partial_combine has it. */
typedef struct banyan_folding {
    const void *const *value;
    float *partial; /* where the sum goes, which may be one of the values; or NULL */
    int32_t values;
    int32_t head; /* the query head whose result it is; -1: of none yet */
} banyan_folding;

/* What is folded at once, with the headers of the messages that brought it. */
typedef struct banyan_fold_batch {
    const banyan_folding *fold;
    int32_t folds, value_dim;
    int64_t rows;
    /* Results go to rows of out and lse (or NULL), with the heads' sinks ([heads] in host
     * memory, or NULL: none), as of banyan_partial_sink and banyan_partial_finish. A sink is in
     * no sum. */
    const float *sinks;
    int32_t heads;
    banyan_dtype out_dtype;
    void *out;
    float *lse;
    /* check[i] is written down in fault[i] (of allocate(on_host)) */
    const banyan_check *check;
    banyan_fault *fault;
    int32_t checks;
} banyan_fold_batch;

/* The most that calls on a queue will ask for. */
typedef struct banyan_device_limits {
    banyan_block_shape shape; /* its dims are the largest; calls may be of smaller ones */
    int32_t heads, kv_heads, rows;
    int64_t parts, tables, strips, spans, packings; /* of one call */
    int32_t captured; /* calls that may be captured in graphs and replayed */
    /* 1: fixed-point sums (fixed_layout.h), of banyan_fixed_bytes(value_dim) a row, are where
     * partials are said to be: attend writes them to partial[h], which is not NULL of any head
     * that it computes, fold adds them up as integers, and rounds them where it writes results.
     * No give and take. */
    int32_t exact;
} banyan_device_limits;

typedef struct banyan_queue banyan_queue;

/* The device half of a row of attention/kernels.def. */
typedef struct banyan_device {
    const char *name; /* as in spec.device: "cuda" */
    /* A block is one slot of a table or several of so many tokens, whose records lie one behind
     * the other in the block's: kernels know slots only. 0: one, whatever a block is. */
    int32_t slot_tokens;
    /* Of a shape: parts none of whose strips has more (query head, row) vectors may share a
     * batch; others are alone in theirs. */
    int32_t (*shared_vectors)(const banyan_block_shape *shape);
    /* Can sums of this shape be exact? NULL: none can. */
    int (*is_exact)(const banyan_block_shape *shape);
    /* NULL, or why there is none, in words ("no CUDA driver", ..). */
    const char *(*missing)(void);
    const char *(*memory_free)(int64_t *bytes); /* of the thread's current device */
    /* stream: a cudaStream_t, or NULL: one of its own. Bytes that it takes are what queue_bytes
     * says. */
    const char *(*open)(const banyan_device_limits *limits, void *stream, banyan_queue **out);
    void (*close)(banyan_queue *queue);
    void (*queue_bytes)(const banyan_device_limits *limits, size_t *device, size_t *host);
    const banyan_memory_row *memory; /* of the device; own is the queue */
    /* A queue is used, and closed, while the device that it was opened on is the thread's
     * current one: enter makes it so and returns the one that was, leave makes that one so
     * again. */
    int (*enter)(const banyan_queue *queue);
    void (*leave)(int device);

    const char *(*tape)(banyan_queue *queue, banyan_tape what); /* of pack and attend */

    /* k [rows][kv_heads][key_dim], v [rows][kv_heads][value_dim] of in_dtype, on the device. */
    const char *(*pack)(banyan_queue *queue, const banyan_block_shape *shape, int32_t kv_heads,
                        const void *k, const void *v, banyan_dtype in_dtype,
                        const banyan_packing *packing, int64_t count);
    const char *(*attend)(banyan_queue *queue, const banyan_batch *batch);
    const char *(*fold)(banyan_queue *queue, const banyan_fold_batch *batch);
    /* Results of the same rows that attended to different tokens, joined, with the sinks, as
     * banyan_combine says: outs[i] [rows][heads][value_dim] of out_dtype and lses[i]
     * [rows][heads], of the heads whose is_mine[h] is not 0. outs, lses, sinks (or NULL) and
     * is_mine are in host memory; out and lse (or NULL) may be among what they point to. */
    const char *(*join)(banyan_queue *queue, const void *const *outs, const float *const *lses,
                        int32_t count, const float *sinks, const uint8_t *is_mine,
                        int32_t heads, int32_t value_dim, int64_t rows, void *out,
                        banyan_dtype out_dtype, float *lse);
    /* mass [rows][heads], of heads whose partial[h] is not NULL: the share of partial[h]
     * ([rows][value_dim + 2]) that probed[h] has. Layout of probed[h] as of partial[h]. */
    const char *(*share)(banyan_queue *queue, float *const *partial, float *const *probed,
                         int32_t heads, int32_t value_dim, int64_t rows, float *mass);
    /* The passes of an all-reduce of partials (Tree Attention's), of [rows][value_dim + 2]
     * each:
     *   0  values [heads][rows] become m; what they come to are the maxima
     *   1  values [heads][rows][value_dim] become o exp(m - maxima), and back: o
     *   2  values [heads][rows] become l exp(m - maxima), and back: l, and m = maxima
     * give: partial[h] NULL counts as the empty partial; take (not of pass 0): NULL takes
     * nothing. */
    const char *(*give)(banyan_queue *queue, int pass, float *const *partial, int32_t heads,
                        int32_t value_dim, int64_t rows, const float *maxima, float *values);
    const char *(*take)(banyan_queue *queue, int pass, float *const *partial, int32_t heads,
                        int32_t value_dim, int64_t rows, const float *maxima,
                        const float *values);
} banyan_device;

#endif
