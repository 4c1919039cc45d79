/* SPDX-License-Identifier: Apache-2.0 */
/* banyan.h - exact attention over a key/value cache spread across many ranks.
 *
 * Four handles, made in this order and destroyed in the reverse order:
 *
 *     comm      who takes part, and how bytes move between them
 *     plan      every decision: which rank keeps which blocks of which head, which blocks each
 *               head reads, which kernel computes, how partial results are merged
 *     cache     memory for keys and values: this rank's share of them
 *     sequence  one sequence in it
 *
 * and one verb, banyan_attend, which appends keys and values and turns q into attention output,
 * for rows of any number of sequences at once.
 *
 * Rules that hold for every function:
 *   - A call that can fail returns banyan_status; banyan_error_message() then says in words
 *     what was wrong, the value, and what was expected. Out-parameters come last and are
 *     written only on success.
 *   - "Collective" means that every rank of the comm calls it, in the same order. Set-up calls
 *     agree: if one rank fails, all fail, the others with BANYAN_ERR_PEER naming that rank.
 *   - The library keeps no pointer to the caller's memory after a call returns.
 *   - Destroy functions accept NULL and cannot fail. Different handles are independent.
 *   - Heads, blocks, layers and tokens are numbered from 0 over the whole model and sequence,
 *     never per rank. Shapes in comments are row-major, slowest index first.
 *   - lse is a natural logarithm. */
#ifndef BANYAN_H
#define BANYAN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(BANYAN_SHARED) && defined(__GNUC__)
#define BANYAN_API __attribute__((visibility("default")))
#else
#define BANYAN_API
#endif

typedef enum banyan_status {
    BANYAN_OK = 0,
    BANYAN_ERR_ARGUMENT = -1,    /* the caller broke a documented rule */
    BANYAN_ERR_CONFIG = -2,      /* a name or value in the spec is wrong */
    BANYAN_ERR_MEMORY = -3,      /* more memory is needed than there is */
    BANYAN_ERR_UNSUPPORTED = -4, /* known, but not in this build or on this machine */
    BANYAN_ERR_DEVICE = -5,      /* CUDA reported an error */
    BANYAN_ERR_COMM = -6,        /* a transport failed, or a rank did not arrive in time */
    BANYAN_ERR_PEER = -7,        /* another rank failed; this one did not */
    BANYAN_ERR_FILE = -8         /* a snapshot's file is not there, full, or damaged */
} banyan_status;

/* BANYAN_E4M3 is a format of cached keys and values alone, of kernels that have it: a sign, 4
 * bits of exponent and 3 of fraction, up to 448, without infinities. Each cached row has a
 * factor of its own, so that its largest number becomes 448. */
typedef enum banyan_dtype { BANYAN_F32, BANYAN_BF16, BANYAN_F16, BANYAN_E4M3 } banyan_dtype;

typedef struct banyan_comm banyan_comm;
typedef struct banyan_plan banyan_plan;
typedef struct banyan_cache banyan_cache;
typedef struct banyan_sequence banyan_sequence;

/* ---- diagnostics ------------------------------------------------------------------------- */

BANYAN_API const char *banyan_version(void);
BANYAN_API const char *banyan_status_name(banyan_status status);
BANYAN_API const char *banyan_error_message(void); /* this thread's last error; never NULL */
BANYAN_API const char *banyan_dtype_name(banyan_dtype dtype); /* "fp32", "bf16", .. */
BANYAN_API size_t banyan_dtype_bytes(banyan_dtype dtype);

/* The one of `names` (ends with NULL) that is nearest to `word` by edit distance, for "did you
 * mean"; NULL when none is near. */
BANYAN_API const char *banyan_nearest(const char *word, const char *const *names);

typedef enum banyan_log_level {
    BANYAN_LOG_ERROR,
    BANYAN_LOG_WARN,
    BANYAN_LOG_INFO,
    BANYAN_LOG_DEBUG
} banyan_log_level;
typedef void (*banyan_log_fn)(void *arg, banyan_log_level level, const char *message);

/* Messages at or below `level` go to fn; fn NULL (the state at start) drops all of them. The
 * one piece of global state; set it before other threads use the library. */
BANYAN_API void banyan_log_set(banyan_log_level level, banyan_log_fn fn, void *arg);

/* What this build offers: row `index` of one of its five tables. Returns 0 past the end.
 * `available` tells whether the row was compiled in and this machine can run it; `why` is the
 * reason where not, else "". The strings are the library's. Any out-pointer may be NULL. */
typedef enum banyan_table {
    BANYAN_SELECTORS,
    BANYAN_KERNELS,
    BANYAN_PLACEMENTS,
    BANYAN_MERGES,
    BANYAN_TRANSPORTS
} banyan_table;
BANYAN_API int banyan_list(banyan_table table, int index, const char **name, const char **doc,
                           int *available, const char **why);

/* Parameter `index` of selector `selector`. Returns 0 past the end or for an unknown
 * selector. */
BANYAN_API int banyan_list_param(const char *selector, int index, const char **name,
                                 const char **default_text, const char **doc);

/* Bytes that this machine, or the control group that this process is in, can still give: what a
 * plan's needs are compared with. -1 when it does not say. */
BANYAN_API int64_t banyan_memory_free(void);

/* ---- comm -------------------------------------------------------------------------------- */

/* transport  native
 * "self"       NULL                one rank
 * "mpi"        an MPI_Comm *, or NULL: MPI_COMM_WORLD, which is then initialised (if it is not)
 *              and finalised with the comm. The communicator is duplicated.
 * "nccl"       Like "mpi" for host memory; NCCL for device memory. (A process that MPI did not
 *              launch is one rank.) It uses the CUDA device that is current in the calling
 *              thread, which is no other rank's.
 *              Graphs that have captured its messages are destroyed before the comm, which is
 *              destroyed by all ranks
 * "imaginary"  "node:8 rank:4" (const char *): 32 ranks of which this process is rank 0; serves
 *              plans only, moving bytes is UNSUPPORTED (its ranks agree with this one)
 * NULL         "mpi" when the process was started by an MPI launcher, else "self"
 * Collective. */
BANYAN_API banyan_status banyan_comm_create(const char *transport, void *native,
                                            banyan_comm **out);
BANYAN_API void banyan_comm_destroy(banyan_comm *comm);
/* What MPI_Get_library_version says of the MPI that this library is linked to, and in
 * *handle_bytes (or NULL) the size of an MPI_Comm: a binding compares both with those of its
 * own MPI before it gives a communicator to banyan_comm_create. NULL in a build without MPI. */
BANYAN_API const char *banyan_mpi_library(size_t *handle_bytes);
BANYAN_API int banyan_comm_rank(const banyan_comm *comm);
BANYAN_API int banyan_comm_size(const banyan_comm *comm);
BANYAN_API int banyan_comm_node(const banyan_comm *comm, int rank); /* its node, from 0 */
BANYAN_API int banyan_comm_nodes(const banyan_comm *comm);

/* The ranks of equal color, ordered by (key, rank), as a comm of their own. color < 0: *out is
 * NULL. Collective over `comm`, which outlives the new one. */
BANYAN_API banyan_status banyan_comm_split(banyan_comm *comm, int color, int key,
                                           banyan_comm **out);

/* The longest wait for other ranks, in seconds, after which a call fails with ERR_COMM and a
 * message that names the ranks that did not arrive. 0: for ever (the default is 600). MPI's own
 * calls in comm_create and, once all ranks have come, in comm_split know no limit. */
BANYAN_API void banyan_comm_timeout(banyan_comm *comm, double seconds);
/* From now on the partials of a merge that lie in host memory carry a checksum, and what was
 * changed on the way is ERR_COMM, naming both ranks. The same on all ranks, before a plan is
 * made. Off by default: networks have checksums of their own, and this reads each message twice
 * more (some 0.2 ms a MiB). A token decoded on 4 ranks that share 2 cores (32 heads of 128,
 * spread: 16 KiB a message) took 157 us at 2K tokens, and 10 us more with checksums; at 128K,
 * where it takes 14 ms, no more than can be told from noise. */
BANYAN_API void banyan_comm_checksums(banyan_comm *comm, int on);

/* What a message costs between two ranks of one node, and of two nodes: the figures by which
 * plans choose and predict merges. Until they are set: 0.5 us and 16 GB/s inside, 2 us and 12.5
 * GB/s between. All ranks set the same, before plans are made; a comm that is split off
 * inherits them. NULL leaves a link as it is; ARGUMENT for what is negative or not finite. */
typedef struct banyan_link {
    double alpha; /* seconds to start a message */
    double beta;  /* seconds per byte */
} banyan_link;
BANYAN_API banyan_status banyan_comm_links(banyan_comm *comm, const banyan_link *inside,
                                           const banyan_link *between);

/* Send and receive any number of messages; returns when all are done. The messages from one
 * rank to another are matched in the order in which both sides list them; sizes must agree, or
 * the receiver fails with ERR_COMM and both sizes. A message to oneself is allowed (sizes that
 * differ are ARGUMENT). Each rank that takes part calls it; nobody else needs to. */
typedef struct banyan_message {
    int peer;
    void *data;
    size_t bytes;
} banyan_message;
BANYAN_API banyan_status banyan_comm_exchange(banyan_comm *comm, const banyan_message *sends,
                                              int send_count, const banyan_message *recvs,
                                              int recv_count);

/* The same in two parts, so that a rank can compute while its messages move. start posts them;
 * test moves them on without waiting and tells in *done whether they are all through; wait
 * waits for them. The data are the transport's until wait returned, or test with *done: from
 * then on the exchange is over. One at a time on a comm, and nothing else on this comm in
 * between. MPI moves large messages only while it is called: test now and then. */
BANYAN_API banyan_status banyan_comm_exchange_start(banyan_comm *comm,
                                                    const banyan_message *sends, int send_count,
                                                    const banyan_message *recvs,
                                                    int recv_count);
BANYAN_API banyan_status banyan_comm_exchange_test(banyan_comm *comm, int *done);
BANYAN_API banyan_status banyan_comm_exchange_wait(banyan_comm *comm);

/* Collective, and the same bits on every rank: allreduce folds in ascending rank order. */
typedef enum banyan_op { BANYAN_SUM, BANYAN_MAX } banyan_op;
BANYAN_API banyan_status banyan_comm_broadcast(banyan_comm *comm, void *data, size_t bytes,
                                               int root);
BANYAN_API banyan_status banyan_comm_allgather(banyan_comm *comm, const void *mine,
                                               size_t bytes,
                                               void *all); /* all: [ranks][bytes] */
BANYAN_API banyan_status banyan_comm_allreduce(banyan_comm *comm, double *values, int count,
                                               banyan_op op);

/* Every rank passes its own status; if any is not OK, all return an error: a failing rank its
 * own, the others BANYAN_ERR_PEER naming the first failing rank and its message. Collective. */
BANYAN_API banyan_status banyan_comm_agree(banyan_comm *comm, banyan_status mine);

/* ---- spec and plan ----------------------------------------------------------------------- */

/* Query heads first_head..last_head of layers first_layer..last_layer (inclusive; -1 as a last
 * means the last there is) read the blocks that `use` selects: a selector's name and its
 * parameters, "s2 stride=16 local=16 per=kv", "sink_window sink=1 window=256t". */
typedef struct banyan_rule {
    int32_t first_layer, last_layer;
    int32_t first_head, last_head;
    const char *use;
} banyan_rule;

/* The shape of layers first_layer..last_layer (inclusive; -1 as a last means the last there
 * is). */
typedef struct banyan_layer_shape {
    int32_t first_layer, last_layer;
    int32_t kv_heads, key_dim, value_dim; /* 0: the spec's */
    float scale;      /* 0: the spec's where key_dim is, else 1/sqrt(key_dim) */
    int value_in_key; /* 1: a value is its key's first value_dim numbers, and v is not given */
} banyan_layer_shape;

/* By what heads weigh when ranks are balanced: the blocks that they keep, or the (query head,
 * block) pairs that a prefill computes. */
typedef enum banyan_balance { BANYAN_BALANCE_DECODE, BANYAN_BALANCE_PREFILL } banyan_balance;
/* On which holder of a query head's keys its output is written: a whole group on its largest
 * holder, or query heads spread over the holders. */
typedef enum banyan_home { BANYAN_HOME_FIRST, BANYAN_HOME_DEALT } banyan_home;
/* Where outputs are written: on a head's home, or on every rank. */
typedef enum banyan_out { BANYAN_OUT_HOME, BANYAN_OUT_ALL } banyan_out;

/* What is asked for. Strings and arrays are borrowed for the call. banyan_spec_init sets the
 * defaults given here, and is the only place that does. */
typedef struct banyan_spec {
    size_t size; /* of this struct, as the caller knows it: set by banyan_spec_init */

    /* the attention of the model */
    int32_t layers;           /* required */
    int32_t heads;            /* required: query heads */
    int32_t kv_heads;         /* 0: heads. Divides heads */
    int32_t key_dim;          /* required, 1..576 */
    int32_t value_dim;        /* 0: key_dim */
    float scale;              /* factor on q.k; 0: 1/sqrt(key_dim) */
    const banyan_rule *rules; /* the last that matches wins; none: dense */
    int32_t rule_count;
    const banyan_layer_shape *shapes; /* layers of another shape; the last that matches wins */
    int32_t shape_count;
    /* [layers]: the layer whose keys and values a layer reads, itself or one before it, which
     * then has keys and values of its own. NULL: each its own. Only a layer that has its own is
     * given k and v */
    const int32_t *cache_layer;
    /* [layers][heads]: a logit (not scaled) of each query head that joins the denominator of
     * its softmax, and has no value; -INFINITY: none. NULL: none at all */
    const float *sinks;

    /* the cache */
    int64_t max_tokens;       /* required: longest sequence */
    int64_t planned_tokens;   /* 0: max_tokens. The length at which ranks are balanced */
    int32_t sequences;        /* 1: the most at a time */
    int64_t pool_tokens;      /* 0: max_tokens. Tokens of all sequences, in whole blocks */
    int32_t max_rows;         /* most rows in one call, 512 */
    int32_t block_tokens;     /* 64; a power of two, 16..256 */
    int32_t rollback_tokens;  /* 0: how far back `at` may go from the longest so far */
    banyan_dtype cache_dtype; /* bf16 */
    int evict;                /* 1: reuse the memory of blocks nobody will read */

    /* the caller's arrays */
    banyan_dtype in_dtype;  /* of q, k and v: fp32 */
    banyan_dtype out_dtype; /* fp32 */

    /* how */
    const char *placement;   /* "line" */
    banyan_balance balance;  /* decode */
    const double *bandwidth; /* [ranks] relative speed of each rank, or NULL: equal */
    const char *merge;       /* NULL: the cheapest by the cost model */
    const char *kernel;      /* NULL: the fastest that this machine can run */
    const char *device;      /* "cpu", or "cuda": see banyan_cache_create */
    banyan_home home;        /* first */
    banyan_out out;          /* home */
    int reproducible;     /* 1: the same bits for any ranks, placement, merge and threads, with
                                the same kernel; up to 2^22 blocks */
    int32_t threads;      /* 0: the cores that this process may use (its affinity) over the
                             ranks of its node, at least 1: say it where ranks are bound */
    int strict;           /* 1: a coverage hole is an error, not a warning */
    int32_t lost_rank;    /* -1. Its blocks are left out of every result, for tests */
    int32_t lost_layer;   /* -1: in every layer; else lost_rank is lost in this one only */
    int64_t memory_limit; /* bytes per rank (with "cuda": of the device); 0: what is free */
} banyan_spec;

/* The defaults, of a struct of `size` bytes: what a binding calls. */
BANYAN_API void banyan_spec_defaults(banyan_spec *spec, size_t size);
static inline void banyan_spec_init(banyan_spec *spec)
{
    banyan_spec_defaults(spec, sizeof *spec);
}

/* Collective; fails on all ranks or on none. The comm outlives the plan. */
BANYAN_API banyan_status banyan_plan_create(const banyan_spec *spec, banyan_comm *comm,
                                            banyan_plan **out);
BANYAN_API void banyan_plan_destroy(banyan_plan *plan);
/* Everything that was decided, for people: who keeps what, memory, balance, messages,
 * coverage. */
BANYAN_API void banyan_plan_print(const banyan_plan *plan, FILE *out);
/* The same to memory, as snprintf: at most `bytes` with the NUL at the end. Returns the length
 * of the whole text, -1 when there is no memory for it. text may be NULL when bytes is 0. */
BANYAN_API int64_t banyan_plan_text(const banyan_plan *plan, char *text, size_t bytes);
/* One number for what was asked and decided, the same on all ranks (plan_create fails where it
 * is not). Not in it: threads, memory_limit and the kernel, which may differ by machine. */
BANYAN_API uint64_t banyan_plan_hash(const banyan_plan *plan);
/* The spec with its defaults, and copies of its strings and arrays: the plan's, as long as it
 * is there. A merge that was not asked for stays NULL, a memory_limit 0. */
BANYAN_API const banyan_spec *banyan_plan_spec(const banyan_plan *plan);

/* Pure arithmetic, the same on every rank; -1 or 0 for indices outside the plan. */
/* Does `rank` hold a part of this KV head? Only then does it read the head's q, k and v. */
BANYAN_API int banyan_plan_holds(const banyan_plan *plan, int32_t layer, int32_t kv_head,
                                 int rank);
/* The rank that keeps (or kept) a block of a KV head, in a sequence of this turn that is no
 * fork; -1 also where max_tokens ends before the block. */
BANYAN_API int banyan_plan_owner(const banyan_plan *plan, uint64_t turn, int32_t layer,
                                 int32_t kv_head, int64_t block);
/* The rank on which attend writes the output of a query head. */
BANYAN_API int banyan_plan_home(const banyan_plan *plan, int32_t layer, int32_t head);
/* Does the row at token `row` of a query head read token `token` (by its pattern)? */
BANYAN_API int banyan_plan_reads(const banyan_plan *plan, int32_t layer, int32_t head,
                                 int64_t row, int64_t token);
/* Tokens *first .. *end-1, which the row at token `row` of a query head reads as one, a
 * compensation token: the means of their keys and values, with the logarithm of their number
 * added to the score. 0: there are none. */
BANYAN_API int banyan_plan_compensates(const banyan_plan *plan, int32_t layer, int32_t head,
                                       int64_t row, int64_t *first, int64_t *end);

/* Blocks that rows of a query head read besides those of banyan_plan_reads, chosen by what is
 * in them (selector "top"): of the blocks first .. (the row's own) - local, the best `blocks`,
 * by a sum over query heads head[0 .. heads-1], which choose together and are the plan's, and
 * over the rows of a call that lie in one own block. */
typedef struct banyan_choosing {
    const char *by; /* "mean" or "bounds" of a block's keys: see attention/choice.c */
    int64_t first, local, blocks;
    /* > 0: the fewest of them that have this share of the softmax over all of those blocks, of
     * the plan's scale times sharpness times the mean over heads and rows of their scores */
    double mass, sharpness;
    const int32_t *head;
    int32_t heads;
    int64_t summary_bytes; /* what is read of each of all of those blocks to choose */
} banyan_choosing;
/* 0: it chooses none. */
BANYAN_API int banyan_plan_chooses(const banyan_plan *plan, int32_t layer, int32_t head,
                                   banyan_choosing *out);

/* Rows of a part of a call with at least so many rows read, of what banyan_plan_reads says,
 * columns and diagonals only, or some blocks, which the part's rows choose (selectors
 * "vertical_slash" and "flex": see attention/lines.h). 0: those of this query head do not. */
BANYAN_API int32_t banyan_plan_lines(const banyan_plan *plan, int32_t layer, int32_t head);

/* The layer whose choice a decoded row (a part of one row) of this query head reads, so many
 * single tokens and nothing else of what banyan_plan_reads says (selector "tidal"); where that
 * layer has chosen nothing for the row, since its call had more rows, all of it. -1: it reads
 * all of it. tokens: how many; or NULL. */
BANYAN_API int32_t banyan_plan_follows(const banyan_plan *plan, int32_t layer, int32_t head,
                                       int64_t *tokens);

/* What the plan gives one rank when `sequences` sequences of `tokens` tokens each, with the
 * turns 0, 1, .., are cached, over all layers. A step decodes one row of each. */
typedef struct banyan_share {
    int64_t kept_blocks;     /* block records that are kept */
    int64_t kept_bytes;      /* and their bytes */
    int64_t read_blocks;     /* (KV head, block) records that the next step reads */
    int64_t pairs;           /* (query head, block) pairs that it computes */
    int64_t capacity_bytes;  /* bytes of records set aside */
    int64_t workspace_bytes; /* everything else that cache_create takes */
    int64_t device_bytes;    /* of these two, what lies in device memory: 0 on the CPU */
    int64_t messages;        /* messages sent for a step */
    int64_t bytes_sent;      /* and their bytes */
    int64_t snapshot_bytes;  /* of kept_blocks, as banyan_cache_save writes them */
    /* What the next step reads besides records, to choose blocks by data. */
    int64_t summary_bytes;
} banyan_share;
BANYAN_API banyan_status banyan_plan_share(const banyan_plan *plan, int rank, int64_t sequences,
                                           int64_t tokens, banyan_share *out);

/* The merge that the plan takes: asked for, or the cheapest. */
BANYAN_API const char *banyan_plan_merge_name(const banyan_plan *plan);
/* Seconds that merging `rows` rows takes over all layers, by the cost model and the comm's
 * links: of the plan's merge. 0 when nothing is merged, infinity when it cannot be told. */
BANYAN_API double banyan_plan_merge_time(const banyan_plan *plan, int32_t rows);

/* ---- cache and sequences ----------------------------------------------------------------- */

typedef struct banyan_stats {
    int64_t tokens;         /* of all sequences: of each, its longest layer */
    int64_t sequences;      /* that there are now */
    int64_t blocks;         /* block records held now; one that forks share counts once */
    int64_t bytes;          /* and their bytes */
    int64_t evicted_blocks; /* since creation */
    int64_t capacity_bytes, workspace_bytes, device_bytes; /* as in banyan_share */
    int64_t merges;     /* panels of rows merged since creation, layer by layer */
    int64_t messages;   /* partials sent to other ranks since creation: messages */
    int64_t bytes_sent; /* and their bytes */
    int64_t pairs;      /* (query row, block) pairs computed since creation */
    /* with a device: the host's time, mostly of queueing */
    double append_seconds, attend_seconds, merge_seconds;
    double choice_seconds; /* of attend_seconds: what choosing columns and diagonals took */
} banyan_stats;

/* An empty cache: this rank's memory for at most spec.sequences sequences of spec.pool_tokens
 * tokens together, its workspace and its messages. Memory is set aside here and touched as
 * tokens arrive. Collective. The plan outlives it.
 *
 * With device "cuda" it lies on the thread's current device (all of it is taken here), and so
 * must q, k, v, out, lse, mass and strongest; other calls may be made with any device current.
 * (Without a device `stream` is NULL, else ARGUMENT.)
 * banyan_attend is ordered on `stream` and returns once its work is queued: they stay as they
 * are until the stream got there. stream: a cudaStream_t; NULL is none of CUDA's default
 * streams, but one of the cache's own, which is ordered with no other stream
 * (cudaStreamNonBlocking; banyan_cache_wait waits for it). With a transport that moves host
 * memory ("mpi"), a call whose partials are merged with other ranks' waits for the stream in
 * between.
 *
 * A call that waits for nothing (above) may be captured in a graph: of a step
 * (banyan_cache_step), to be replayed for other steps; or alone, to be replayed as it is for as
 * long as no other call was made on the cache, when no block begins or goes in it (attending
 * only, or appending within a block). Others are UNSUPPORTED there. At most `layers` calls per
 * cache can be captured. */
BANYAN_API banyan_status banyan_cache_create(const banyan_plan *plan, void *stream,
                                             banyan_cache **out);
/* Its sequences are destroyed with it, if they were not before. */
BANYAN_API void banyan_cache_destroy(banyan_cache *cache);
BANYAN_API void banyan_cache_stats(const banyan_cache *cache, banyan_stats *out);

/* Until all calls on the cache are done; on the CPU they are when they return. On a device
 * whose messages wait there for other ranks (nccl), this wait ends with ERR_COMM after the
 * comm's time limit, or where another rank sent what this one did not expect; one for the
 * stream itself has no limit. */
BANYAN_API banyan_status banyan_cache_wait(banyan_cache *cache);

/* An empty sequence. `turn` is where its blocks begin in the order in which blocks are dealt to
 * ranks: sequences of different turns (0, 1, 2, ..) balance the ranks together, however short
 * they are; any number will do. MEMORY when the cache has spec.sequences of them. All ranks
 * create, fork and destroy the same sequences in the same order, and no messages are sent for
 * it. */
BANYAN_API banyan_status banyan_sequence_create(banyan_cache *cache, uint64_t turn,
                                                banyan_sequence **out);
/* A second sequence that begins with the first `tokens` tokens of this one, in all layers
 * (those that are shorter are forked as they are). Whole blocks are shared, and the last,
 * unfinished one is copied; blocks after it are dealt by `turn`. Both may then be appended to,
 * forked, rolled back and destroyed in any order: a block goes when the last sequence that
 * holds it lets it go. ARGUMENT when blocks that rows at `tokens` read were evicted; MEMORY
 * when there is no room, on all ranks alike. */
BANYAN_API banyan_status banyan_sequence_fork(banyan_sequence *sequence, int64_t tokens,
                                              uint64_t turn, banyan_sequence **out);
BANYAN_API void banyan_sequence_destroy(banyan_sequence *sequence);
/* Tokens in a layer, or the most in any with layer -1. -1 outside the plan. */
BANYAN_API int64_t banyan_sequence_length(const banyan_sequence *sequence, int32_t layer);
/* The rank that keeps (or kept, or will keep) a block of a KV head, the same on every rank; -1
 * outside the plan, also where max_tokens ends before the block. */
BANYAN_API int banyan_sequence_owner(const banyan_sequence *sequence, int32_t layer,
                                     int32_t kv_head, int64_t block);

/* A walk over the block records that this rank holds of a KV head, ascending by block: the one
 * number `index`. *record are `*bytes` opaque bytes in the kernel's format (on the device with
 * device "cuda"), the same for the same rows in every cache whose plan has the same kernel,
 * shape and cache_dtype, so that they may be copied from one to the other. Valid until the next
 * call on the cache; records of neighbouring index often lie one behind the other. Returns 0
 * past the end. */
BANYAN_API int banyan_sequence_record(banyan_sequence *sequence, int32_t layer, int32_t kv_head,
                                      int64_t index, int64_t *block, void **record,
                                      size_t *bytes);

/* ---- snapshots --------------------------------------------------------------------------- */

/* Writes all sequences of the cache to a folder that all ranks see, which is made where it is
 * not there: keys and values as they are kept, in cache_dtype, and a note, the caller's own
 * bytes. A snapshot that is there is replaced: until the new one is whole on disk (fsync) it is
 * the old one that is opened, whenever this or any other process ends. On the ranks and plan
 * that saved there, or opened it, before, only blocks that came since are written.
 *
 * ARGUMENT when layers are of unequal lengths, or lack keys and values of a step; UNSUPPORTED
 * when the kernel's blocks cannot be unpacked, while the stream is captured, and, as all of
 * this section is, in a build without xxhash.h; FILE for the file system's reasons, also when
 * not all ranks see the folder or another job saves there. The note is rank 0's. Waits for the
 * device. Collective; fails on all ranks or on none. */
BANYAN_API banyan_status banyan_cache_save(banyan_cache *cache, const char *folder,
                                           const void *note, size_t bytes);

/* A cache with the sequences of a snapshot, as banyan_cache_create makes an empty one. The plan
 * may have other ranks, another placement, kernel, device, merge, and rules that keep less:
 * each rank reads what it keeps. CONFIG, by the field's name, when the plan is of another shape
 * or dtype, has no room for the sequences, or keeps blocks that were let go before the
 * snapshot; FILE when a file is missing or damaged, naming it and the block. Rows that are more
 * than max_rows + rollback_tokens back are as gone as in any cache of the plan. Collective;
 * fails on all ranks or on none. */
BANYAN_API banyan_status banyan_cache_open(const banyan_plan *plan, void *stream,
                                           const char *folder, banyan_cache **out);

/* Sequences that there are in a cache, and the one with this index, 0 .. count-1: in an opened
 * cache in the order in which they were in the saved one. A handle as of
 * banyan_sequence_create; of one that has a handle the same one. */
BANYAN_API int32_t banyan_cache_sequences(const banyan_cache *cache);
BANYAN_API banyan_status banyan_sequence_open(banyan_cache *cache, int32_t index,
                                              banyan_sequence **out);

/* The note of a snapshot: at most `bytes` of it to note, which may be NULL when bytes is 0, and
 * in *length how many it has. Any process; not collective. */
BANYAN_API banyan_status banyan_snapshot_note(const char *folder, void *note, size_t bytes,
                                              size_t *length);
/* What is in a snapshot, for people. */
BANYAN_API banyan_status banyan_snapshot_print(const char *folder, FILE *out);
/* Reads all of it and compares all checksums; *bytes (or NULL): of its blocks. FILE, naming
 * file and block, for the first that is damaged. */
BANYAN_API banyan_status banyan_snapshot_verify(const char *folder, int64_t *bytes);

/* ---- attention --------------------------------------------------------------------------- */

typedef struct banyan_range {
    int64_t first, end; /* tokens first .. end-1 */
} banyan_range;

/* A part of a batch: rows of one sequence, at tokens at .. at+rows-1. Initialise it with {0} or
 * by names: what is not set means what its comment says of 0. */
typedef struct banyan_rows {
    banyan_sequence *sequence;
    int64_t at;
    int32_t rows;       /* 0: a place kept free, in a captured graph */
    int64_t first, end; /* only tokens first .. end-1 count; 0, 0: all. Results of a part with a
                           range have no sinks: banyan_combine adds them */
    const banyan_range *probes; /* the share of softmax mass of each of these is measured too */
    int32_t probe_count;
    /* [probe_count][rows][heads], written where out is; NULL: none. With a device: of one
     * probe. */
    float *mass;
    /* [rows][heads]: the token of the largest score, the lower on ties; -1: none was seen;
     * NULL: not asked for. On the CPU. */
    int64_t *strongest;
} banyan_rows;

/* Append k and v of each part's tokens to one layer, and attend to the layer's tokens causally:
 * row i of a part, at token at+i, sees tokens 0 .. at+i of its own sequence, of the blocks that
 * its heads' patterns select. The rows of the parts stand one behind the other:
 *
 *   q    [all rows][heads][key_dim], or NULL: append only
 *   k    [all rows][kv_heads][key_dim]      both NULL: attend only, to tokens appended before
 *   v    [all rows][kv_heads][value_dim]    NULL alone: values lie in the keys (value_in_key)
 *   out  [all rows][heads][value_dim]       may be NULL when q is
 *   lse  [all rows][heads] or NULL          ln of the sum of exp(scale q.k), and of the sink
 *
 * Parts may be decoded rows and chunks of a prefill, in any order; together they have at most
 * spec.max_rows rows. With k and v a sequence stands in one part only; without, several parts
 * may name the same rows. All rows of a panel (some 256) are merged across ranks together,
 * whatever sequences they belong to, and the bits of a row do not depend on what else is in the
 * batch.
 *
 * A rank reads q, k and v only of heads that it holds (banyan_plan_holds), and writes out and
 * lse only of heads whose home it is (every head with BANYAN_OUT_ALL); other entries are
 * untouched. A row that sees nothing gets zeros and lse -inf (its sink, where it has one).
 *
 * With k and v, `at` must not leave a gap, and an `at` below the layer's length goes back:
 * later tokens are forgotten. It may not go below the longest length so far minus
 * rollback_tokens, since blocks that only rows before that would read are gone. Without k and
 * v nothing is forgotten: at + rows is at most the layer's length.
 *
 * Errors: ARGUMENT; UNSUPPORTED (`strongest`, or mass of several probes, on a device); MEMORY
 * when the pool is full (alike on all ranks; nothing was changed); COMM or DEVICE. After one
 * that comes while rows are computed or merged the comm is broken, and every further call
 * fails. Ranks do not agree on errors here: a caller's bug that only one rank sees ends in COMM
 * on the others after the comm's time limit. Collective; allocates nothing. */
BANYAN_API banyan_status banyan_attend(banyan_cache *cache, int32_t layer,
                                       const banyan_rows *batch, int32_t count, const void *q,
                                       const void *k, const void *v, void *out, float *lse);

/* Appends the tokens of the batch's parts to all layers at once, but for their keys and values,
 * which the calls that follow bring: lengths go on, blocks begin and go. A call of
 * banyan_attend with k and v that names a part of the step (its sequence, at and rows) only
 * writes them, and attends. So a step is in all layers or, when it fails, in none. `first`,
 * `end` and what follows them in banyan_rows are the calls' matter. Between a step and its
 * calls its sequences are neither forked nor appended to.
 *
 * On a device a step's calls may be captured, and the graph is replayed for other steps:
 *
 *     begin capture;  banyan_cache_step(..);  banyan_attend(..) for each layer;  end capture
 *     each step:      banyan_cache_step(..);  replay
 *
 * While a stream is captured banyan_cache_step changes nothing: it says what the calls that are
 * captured after it will be given, parts of so many rows, and each of them is of these parts;
 * their sequences and tokens are read from device memory. Before each replay a step brings
 * there, in one copy that is ordered on the stream, where its parts are and which blocks they
 * read; blocks that begin or go take copies of their own. The step's parts are as many as those
 * that were captured, with as many rows, or with none: a place kept free, whose rows of q, k
 * and v are not read and whose results mean nothing. The graph is captured again when that
 * changes, or q, k, v, out or lse do; a cache has one such graph, the last.
 *
 * ARGUMENT also when the layers of a sequence are of unequal length (in mid-call); MEMORY as in
 * banyan_attend. UNSUPPORTED, of a captured call: parts with ranges, probes or `strongest`,
 * more query vectors of a part and KV head (rows x query heads of one pattern) than the
 * device's decode takes (cuda: 32, with key_dim above 128 256), and more rows than are merged
 * at a time. Collective; allocates nothing. */
BANYAN_API banyan_status banyan_cache_step(banyan_cache *cache, const banyan_rows *batch,
                                           int32_t count);

/* Joins results of the same rows of a layer that attended to different tokens (parts with
 * ranges), and adds the layer's sinks once: outs [count] of [rows][heads][value_dim] of
 * out_dtype, lses [count] of [rows][heads], as banyan_attend wrote them; out and lse (or NULL)
 * may be one of them. In ascending order, so that every rank computes the same bits. Of the
 * heads that are written here; not collective. With a device all of them but the arrays of
 * pointers lie there, and it is queued. */
BANYAN_API banyan_status banyan_combine(banyan_cache *cache, int32_t layer, int64_t rows,
                                        int32_t count, const void *const *outs,
                                        const float *const *lses, void *out, float *lse);

#ifdef __cplusplus
}
#endif
#endif
