/* SPDX-License-Identifier: Apache-2.0 */
/* comm.h - being one of many ranks: who is near whom, how bytes move, how items that ranks
 * share are merged, how all ranks come to one verdict, and what an error says.
 *
 * Knows: transports, topology, schedules, agreement, error words.
 * Refuses to know: what it carries. An item is `item_bytes` bytes and a function that combines
 * two of them; that these are softmax partials is somebody else's business. Includes banyan.h
 * and banyan_memory.h only. */
#ifndef BANYAN_COMM_H
#define BANYAN_COMM_H

#include "banyan.h"
#include "banyan_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ------------------------------------------------------------------------------ */

/* Set this thread's message and return `status`. The first that detects an error calls it;
 * callers pass the status on and stay silent. Lower case, the value, and what was expected. */
banyan_status banyan_fail(banyan_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Where in a run a call of many is: a number that all ranks must have alike, and its name. */
typedef struct banyan_mark {
    const char *name; /* "layer"; NULL: not used */
    int64_t value;
} banyan_mark;
enum { BANYAN_MARKS = 3 };

/* `status`, with " (merge 7, layer 3)" after the message that is set. */
banyan_status banyan_fail_at(banyan_status status, const banyan_mark *mark, int count);

void banyan_log(banyan_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- topology: which ranks share a node, and what a link costs --------------------------- */

typedef struct banyan_topology {
    int32_t ranks, nodes;
    int32_t *node; /* [ranks]: the node of a rank; nodes are numbered by their lowest rank */
    banyan_link inside, between; /* two ranks of one node, of two nodes */
} banyan_topology;

/* "node:4 rank:8" is 4 nodes of 8 ranks; "rank:5" one node; "node:4 rank:8,8,8,3" uneven nodes.
 * CONFIG, with the text and the place, for anything else. */
banyan_status banyan_topology_parse(const char *text, banyan_topology *out);
/* From a node number per rank, any numbering. */
banyan_status banyan_topology_make(const int32_t *node_of_rank, int32_t ranks,
                                   banyan_topology *out);
void banyan_topology_free(banyan_topology *topology);
/* Canonical text; parse(print(t)) == t for topologies whose nodes are runs of ranks. */
void banyan_topology_print(const banyan_topology *topology, char *text, size_t bytes);

/* ---- schedules: how a merge moves -------------------------------------------------------- */

/* Item `item` goes from src to dst in a round. combine: dst folds it into its own; otherwise it
 * replaces what dst has (when several arrive in one round, and one of them replaces, the fold
 * of all that arrive does). All steps of a round happen at once, on the values before the
 * round. */
typedef struct banyan_step {
    int32_t round, src, dst, item, combine;
} banyan_step;

typedef struct banyan_schedule {
    banyan_step *step; /* ascending (round, src, dst, item) after banyan_schedule_sort */
    int32_t count, capacity, rounds;
    int failed; /* out of memory while adding */
} banyan_schedule;

void banyan_schedule_add(banyan_schedule *s, int32_t round, int32_t src, int32_t dst,
                         int32_t item, int32_t combine);
void banyan_schedule_sort(banyan_schedule *s);
void banyan_schedule_free(banyan_schedule *s);

/* What has to be merged: item i is held by some ranks and wanted at `home`, or, with `all`, on
 * every rank of the topology. */
typedef struct banyan_item {
    const int32_t *holder; /* ascending, at least one */
    int32_t holders;
    int32_t home;
} banyan_item;

/* Everything that goes from one rank to another in a round is one message. */
typedef struct banyan_traffic {
    int64_t messages, bytes;                 /* all ranks together; with headers */
    int64_t between_messages, between_bytes; /* of these, from node to node */
    int64_t max_messages, max_bytes;         /* of the rank that sends most */
    int32_t rounds;                          /* in which anything moves */
    /* Alpha-beta estimate: in a round a rank sends its messages one after another, and
     * meanwhile receives those to it, one after another, once all their senders have got so
     * far. Then it begins its next round. The end of the last rank. */
    double seconds;
} banyan_traffic;

/* One pass of a merge that reduces: an all-reduce of `floats` values, the same number on every
 * rank. give writes this rank's; take reads what all of them came to. In a banyan_memory they
 * queue that, and ctx remembers when they cannot. */
typedef struct banyan_pass {
    banyan_op op;
    int64_t floats;
    void (*give)(void *ctx, float *values);
    void (*take)(void *ctx, const float *values);
} banyan_pass;

/* Where passes work; floats: of the longest pass. */
typedef struct banyan_pass_room {
    float *values;               /* host: 2 x floats; in a memory: 1 x floats of it */
    const banyan_memory *memory; /* NULL: the host's */
    float *staged; /* of a memory that is_staged: 2 x floats of allocate(on_host) */
} banyan_pass_room;

/* One row of comm/merges.def: build, or else both of the others.
 * build: the steps, all items together. Only an item's holders and its home (with `all`, every
 * rank in the end) take part.
 * reduce: the passes in order, over all ranks, which all have the result. Adds to messages and
 * bytes what this rank sent, which is what reduce_cost says for it (a device's transport may do
 * it in a way of its own; then, what it would have been). A plan takes such a merge only when
 * it is asked for. */
typedef struct banyan_merge {
    const char *name;
    void (*build)(const banyan_topology *topology, const banyan_item *items, int32_t count,
                  int all, banyan_schedule *out);
    banyan_status (*reduce)(banyan_comm *comm, const banyan_pass *pass, int passes, void *ctx,
                            const banyan_pass_room *room, int64_t *messages, int64_t *bytes);
    void (*reduce_cost)(const banyan_topology *topology, const int64_t *floats, int passes,
                        int rank, banyan_traffic *out);
} banyan_merge;
const banyan_merge *banyan_merge_find(const char *name);
const banyan_merge *banyan_merge_row(int index); /* NULL past the end */

/* rank >= 0: messages and bytes (also between nodes) count what that rank sends, only. Needs a
 * sorted schedule. Out of memory: infinite seconds. */
void banyan_schedule_cost(const banyan_schedule *s, const banyan_topology *topology,
                          size_t item_bytes, int rank, banyan_traffic *out);

/* Replay with sets in place of values: OK when every holder's contribution reaches home (all:
 * every rank) exactly once for every item and nothing else moves; otherwise ARGUMENT with the
 * first fault in words. */
banyan_status banyan_schedule_replay(const banyan_schedule *s, const banyan_topology *topology,
                                     const banyan_item *items, int32_t count, int all);

/* ---- messages ---------------------------------------------------------------------------- */

/* Every message begins with a header: version, plan, dtype, counts, round and marks. One that
 * is not what the receiver expects is ERR_COMM, naming both ranks and both values. */
enum { BANYAN_HEADER_BYTES = 64 };

/* ---- memory: where items and messages lie ------------------------------------------------ */

/* NULL in place of a banyan_memory is the host's. How messages in a device's move is the
 * transport's to say. One with a `device` half takes them as they are: a merge is then queued
 * as a whole, no call waits, and it can be captured in a graph. For any other, is_staged, they
 * pass through host memory:
 *
 *     items -copy-> send buffer, host -transport-> receive buffer, host -copy-> device
 *
 * and every round waits for the device before it sends. */

/* A schedule as one rank runs it: per round its messages and its folds, with all buffers.
 * `plan` is a number that all ranks' exchanges must share: each message carries it. memory:
 * where the items lie, and the buffers with them; outlives the exchange. */
typedef struct banyan_exchange banyan_exchange;
banyan_status banyan_exchange_create(const banyan_schedule *s, int rank, size_t max_item_bytes,
                                     uint64_t plan, const banyan_memory *memory,
                                     banyan_exchange **out);
void banyan_exchange_destroy(banyan_exchange *x);
size_t banyan_exchange_bytes(const banyan_exchange *x); /* host memory that it holds */
size_t banyan_exchange_device_bytes(const banyan_exchange *x);
/* What banyan_exchange_bytes of it would be, without making it: any rank of any schedule. Plans
 * use it to say what a cache takes. */
size_t banyan_exchange_measure(const banyan_schedule *s, int rank, size_t max_item_bytes);
/* The same with a banyan_memory. */
void banyan_exchange_measure_device(const banyan_schedule *s, int rank, size_t max_item_bytes,
                                    int is_staged, size_t *host, size_t *device);

/* combine(ctx, out, lo, hi, bytes): out = lo + hi, in host memory; out is lo or hi or
 * neither. */
typedef void (*banyan_combine_fn)(void *ctx, void *out, const void *lo, const void *hi,
                                  size_t bytes);

/* An item becomes value[0] + value[1] + .., in this order, each of item_bytes; one of them may
 * be what it is now. */
typedef struct banyan_fold {
    int32_t item, values;
    const void *const *value;
} banyan_fold;

/* What a round brought to a banyan_memory: items to be folded, and headers to be checked, that
 * of message i with its words, if it is not as expected, to fault[i] (of allocate(on_host)).
 * Messages that were staged have been checked. */
typedef struct banyan_arrivals {
    const banyan_fold *fold;
    const banyan_check *check;
    banyan_fault *fault;
    int32_t folds, checks;
    int is_last; /* no later round brings anything .. */
    int is_over; /* .. and none sends what this one makes */
} banyan_arrivals;

/* Queues all of that; if it cannot, ctx remembers. The arrays are this call's. */
typedef void (*banyan_fold_fn)(void *ctx, const banyan_arrivals *arrivals);

/* What goes through an exchange: item i lies at data[i] (NULL for items that this rank neither
 * holds nor gets), item_bytes each (<= max_item_bytes). */
typedef struct banyan_exchange_args {
    void *const *data;
    size_t item_bytes;
    banyan_dtype dtype;        /* of what an item is made of: for the header */
    banyan_combine_fn combine; /* in host memory */
    banyan_fold_fn fold;       /* in a banyan_memory */
    void *ctx;
    banyan_mark mark[BANYAN_MARKS];
} banyan_exchange_args;
/* Run it. Contributions to one item in one round are folded in ascending order of the lowest
 * rank that each contains, the receiver's own at its place: that order, and so every bit,
 * depends on the schedule alone. Adds to messages and bytes what this rank sent, headers
 * included. Allocates nothing. After an ERR_COMM the message ends with the marks and the
 * round. */
banyan_status banyan_exchange_run(banyan_exchange *x, banyan_comm *comm,
                                  const banyan_exchange_args *p, int64_t *messages,
                                  int64_t *bytes);
/* The same in two parts, so that a rank can go on computing while its first messages are under
 * way: start posts this rank's first round, finish does everything else. Only the items that
 * are sent in that round must be there at start, all others at finish; nothing else may use the
 * comm in between. */
banyan_status banyan_exchange_start(banyan_exchange *x, banyan_comm *comm,
                                    const banyan_exchange_args *p);
banyan_status banyan_exchange_finish(banyan_exchange *x, banyan_comm *comm,
                                     const banyan_exchange_args *p, int64_t *messages,
                                     int64_t *bytes);
int banyan_exchange_sends_first(const banyan_exchange *x, int32_t item);
/* With a banyan_memory whose messages are not staged, run, start and finish only queue: start
 * puts the first round together, finish sends it. A header that is not as expected is seen by
 * the device when it gets there, and reported, with all its words, by the next start, or by
 * this, once the stream has been waited for. In a graph, headers (marks included) are those of
 * the call that was captured. The names of marks live as long as the exchange. */
banyan_status banyan_exchange_look(const banyan_exchange *x, banyan_comm *comm);

/* ---- launcher.c: what started this process ----------------------------------------------- */

int banyan_launched_by_mpi(void);
/* CONFIG, with the word that helps, when the launcher started several ranks and the comm has
 * one. */
banyan_status banyan_launcher_check(const char *transport, int ranks);

/* ---- transports: how bytes move ---------------------------------------------------------- */

/* The half of a transport that moves device memory, apart from host memory: a comm has both.
 * Calls queue work on a stream of the device (cudaStream_t) and return; `poll` and `wait` say
 * what has gone wrong since. All ranks queue the same rounds in the same order. */
typedef struct banyan_device_moves {
    /* As the transport's own start; flush queues all that was started, as one round. */
    banyan_status (*start)(banyan_comm *comm, int recv, int peer, void *data, size_t bytes);
    banyan_status (*flush)(banyan_comm *comm, void *stream);
    /* values of all ranks become their sum or maximum, on all ranks */
    banyan_status (*allreduce)(banyan_comm *comm, float *values, int64_t count, banyan_op op,
                               void *stream);
    banyan_status (*poll)(banyan_comm *comm); /* does not wait; may be called while capturing */
    /* Until all that was queued on the stream is done, or the time limit is over. */
    banyan_status (*wait)(banyan_comm *comm, void *stream);
} banyan_device_moves;

/* One row of comm/transports.def. An optional function that is NULL is made of start and
 * wait_all. */
typedef struct banyan_transport {
    const char *name;
    int is_imaginary; /* its ranks are only described: they agree with whatever this one says */
    /* Its messages in host memory are those of another comm, which open takes over in native's
     * place, also when it fails. */
    int has_host;
    /* Fills comm->rank, comm->size, comm->state, comm->topology. */
    banyan_status (*open)(banyan_comm *comm, void *native);
    void (*close)(banyan_comm *comm);
    /* Post one message; any number until wait_all, which ends the round. recv: from peer. */
    banyan_status (*start)(banyan_comm *comm, int recv, int peer, void *data, size_t bytes);
    banyan_status (*wait_all)(banyan_comm *comm);
    /* optional. Moves posted messages on; *done: all are through, and the round is ended.
     * Without it, testing waits. */
    banyan_status (*test)(banyan_comm *comm, int *done);
    /* Makes out->state; out's rank, size and topology are set. color < 0: takes part only, and
     * out is NULL. */
    banyan_status (*split)(banyan_comm *comm, int color, int key, banyan_comm *out);
    /* optional */
    banyan_status (*broadcast)(banyan_comm *comm, void *data, size_t bytes, int root);
    banyan_status (*allgather)(banyan_comm *comm, const void *mine, size_t bytes, void *all);
    /* optional. The text and the size of banyan_mpi_library. */
    const char *(*library)(size_t *handle_bytes);
    /* optional. The time limit of something else is over, which all ranks take part in: tells
     * all of them that this one is there, listens for a moment, and writes what it heard, in
     * words. */
    void (*signs)(banyan_comm *comm, char *text, size_t bytes);
    const banyan_device_moves *device; /* NULL: it takes host memory only */
} banyan_transport;

struct banyan_comm {
    const banyan_transport *transport;
    void *state; /* the transport's own */
    int32_t rank, size;
    banyan_topology topology;
    double timeout;  /* seconds; 0: none */
    int broken;      /* a transfer failed: every further call fails, and says .. */
    char cause[384]; /* .. how; "": nobody knows */
    int has_checksums;
    int is_started; /* between exchange_start and its end */
    size_t piece;   /* bytes that the transport counts with one int; tests make it small */
    /* [BANYAN_SCRATCH_BYTES x size], so that what ranks agree with allocates nothing: a rank
     * that runs out of memory must still be able to say so. NULL: made by the first who needs
     * it. */
    void *scratch;
};
enum { BANYAN_SCRATCH_BYTES = 128 };
/* comm.c: a comm that is not open, and the end of one that is not. */
banyan_comm *
banyan_comm_new(const banyan_transport *row); /* NULL, with the message set: out of memory */
void banyan_comm_free(banyan_comm *comm);
/* The scratch, made if need be; NULL, with the message set: out of memory. */
void *banyan_comm_scratch(banyan_comm *comm);

/* A transfer failed, as the error message says. The first cause is kept: what fails later,
 * fails for it. */
void banyan_comm_break(banyan_comm *comm);
/* ERR_COMM, with the cause in the message. */
banyan_status banyan_comm_is_broken(const banyan_comm *comm);

/* The transport's start and wait_all, as everyone calls them: they refuse on a broken comm, and
 * break it when a transfer fails. */
banyan_status banyan_comm_start(banyan_comm *comm, int recv, int peer, void *data,
                                size_t bytes);
banyan_status banyan_comm_wait(banyan_comm *comm);
/* Those of its device half likewise; UNSUPPORTED where there is none. */
banyan_status banyan_comm_device_start(banyan_comm *comm, int recv, int peer, void *data,
                                       size_t bytes);
banyan_status banyan_comm_device_flush(banyan_comm *comm, void *stream);
banyan_status banyan_comm_device_allreduce(banyan_comm *comm, float *values, int64_t count,
                                           banyan_op op, void *stream);
banyan_status banyan_comm_device_wait(banyan_comm *comm, void *stream);
banyan_status banyan_comm_device_poll(banyan_comm *comm); /* OK without a device half */
/* What a banyan_memory's function returned, as a status: OK or ERR_DEVICE. */
banyan_status banyan_device_status(const char *failed);
/* UNSUPPORTED while a staged memory's stream is being captured in a graph. */
banyan_status banyan_device_refuse_capture(const banyan_comm *comm,
                                           const banyan_memory *memory);

/* transports.c: a comm of a row, which need not be in the table. */
banyan_status banyan_comm_open(const banyan_transport *row, void *native, banyan_comm **out);
const banyan_transport *banyan_transport_row(int index); /* NULL past the end */
static inline const banyan_topology *banyan_comm_topology(const banyan_comm *comm)
{
    return &comm->topology;
}

#ifdef __cplusplus
}
#endif
#endif
