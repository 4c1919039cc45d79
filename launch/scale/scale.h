/* SPDX-License-Identifier: Apache-2.0 */
/* scale.h - the parts of `banyan scale`: one job of P ranks measures many cases, each on some
 * of its ranks, and compares methods, measurement with prediction, and all results with a
 * float64 oracle.
 *
 *     cases     which (ranks, tokens, method) there are
 *     predict   what a case should take, and how many ranks are worth having
 *     measure   warm-up, steps, statistics over ranks
 *     methods   attend.c: plans of this library;  ring*.c: ring attention
 *     output    table.c (text, Markdown), json.c, plot.c */
#ifndef BANYAN_SCALE_H
#define BANYAN_SCALE_H

#include "launch/device.h"
#include "launch/launch.h"
#include "launch/machine/machine.h"
#include "launch/oracle/oracle.h"
#include "launch/single.h"

/* ---- what is asked ---- */

struct scale_case;
struct scale_count;

/* How a method computes. Every function is called by all ranks of the case. */
typedef struct scale_runner {
    banyan_status (*open)(struct scale_case *c); /* plan, data, and what a step starts from */
    banyan_status (*prepare)(struct scale_case *c); /* before every step; not timed; or NULL */
    /* One token through all layers, or one prefill. Adds the seconds in which this rank
     * computed. */
    banyan_status (*step)(struct scale_case *c, double *compute);
    void (*count)(const struct scale_case *c,
                  struct scale_count *sum); /* since open, this rank */
    banyan_status (*predict)(struct scale_case *c, double *seconds);
    void (*close)(struct scale_case *c); /* also after a failed open */
} scale_runner;
extern const scale_runner scale_attend, scale_ring, scale_ring_q, scale_ring_prefill;

typedef struct scale_method {
    const char *name, *doc;
    const char *placement, *merge;        /* of the plan; NULL: as the config says */
    bool everywhere;                      /* outputs on all ranks; else as the config says */
    bool deals;                           /* homes are dealt; else as the config says */
    const scale_runner *decode, *prefill; /* prefill NULL: it has none */
    bool reproducible;                    /* spec.reproducible is set */
    bool dense_only;                      /* knows no patterns */
    bool prefills_on_cpu;                 /* prefill works on arrays in the host's memory */
} scale_method;
extern const scale_method scale_methods[]; /* ends with a NULL name */
/* NULL: said why. `why` may be NULL: then nothing is said. */
const scale_method *scale_method_find(const job *j, const char *name);

typedef enum scale_mode { SCALE_STRONG, SCALE_WEAK, SCALE_WEAK_WORK, SCALE_NODES } scale_mode;

/* A rank of the job, as far as others must know it. */
typedef struct scale_rank {
    /* The same for ranks that share one kernel, whatever their nodes are called. */
    uint64_t machine;
    int32_t cores; /* of that machine */
    int32_t node;
} scale_rank;

typedef struct scale_task {
    const job *j;
    config_spec asked;
    scale_mode mode;
    bool prefill;
    int32_t steps, warmup, samples;
    double seconds; /* no new step of a case after as many */
    uint64_t seed;
    scale_rank *all; /* [ranks of the job] */
    const Banyan__Machine *machine;
    double measuring; /* seconds that it took to measure it; 0: it was read */
    struct scale_line *line;
    int32_t lines;
} scale_task;

/* ---- cases ---- */

/* A case, and on rank 0 what came of it. */
typedef struct scale_line {
    const scale_method *method;
    int32_t ranks, nodes,
        per_node;         /* per_node: that many ranks of each node; 0: the first ranks */
    int64_t base, tokens; /* as --tokens says, and what this case holds */
    bool measured;
    char why[512]; /* when it was not */

    int32_t steps, threads;
    double median, p95, p99, spread; /* seconds; spread: half of the middle half, relative */
    double compute_most, compute_mean, communication; /* seconds */
    int64_t messages, bytes, most_messages,
        most_bytes; /* of all ranks, and of one, in a step */
    double predicted;
    double pairs, kv_bytes; /* computed and read in a step, all ranks */
    double speedup, alone;  /* against one rank, and its seconds; 0: not known */
    double read_share;      /* of the measured bandwidth of the same ranks; 0: not known */
    double error, error_share;
    uint64_t bits, plan_hash;
    bool same_bits;
    int64_t peak_memory;
    char kernel[24], merge[24];
    int32_t busy, cores; /* threads on the fullest machine, and its cores */
} scale_line;

/* Fills t->line from the config. EXIT_OK, or said. */
int scale_cases(scale_task *t);
bool scale_takes_part(const scale_task *t, const scale_line *line, int rank);
static inline int32_t scale_together(const scale_task *t, const scale_line *line)
{
    return line->busy / t->asked.spec.threads; /* ranks on the fullest machine */
}

/* ---- one case ---- */

/* Tokens repeat after as many, a prime: k, v and q are made once, and yet any two blocks that
 * are not a multiple of it apart differ. */
enum { SCALE_PERIOD = 4099 };

typedef struct scale_count {
    double messages, bytes, pairs; /* doubles: exact below 2^53, and to be summed over ranks */
} scale_count;

/* A row of a head that is compared with the oracle, on the rank that has it. */
typedef struct scale_sample {
    int32_t layer, head;
    int64_t token;
    int64_t call_at, call_end; /* of the call that computed it */
    bool taken;
    float lse, *out;
} scale_sample;

enum { SCALE_Q, SCALE_K, SCALE_V, SCALE_OUT, SCALE_LSE, SCALE_ARRAYS };

typedef struct scale_case {
    const scale_task *t;
    const scale_line *line;
    const scale_runner *runner;
    banyan_comm *comm;
    int32_t rank;
    int64_t tokens;
    banyan_plan *plan;
    const banyan_spec *spec;
    banyan_cache *cache;
    banyan_sequence *sequence;
    device_array on[SCALE_ARRAYS]; /* what attend reads and writes, and its host side: */
    float *q, *k, *v, *out,
        *lse; /* k, v: [period + max_rows][kv_heads][dim]; q, out: see fill */
    int32_t q_rows;
    oracle_task oracle;
    scale_sample *sample;
    int32_t samples;
    bool watched; /* in this step outputs are hashed and samples taken */
    uint64_t bits;
    double kv_bytes;   /* keys and values that this rank reads in a decode step */
    scale_count ended; /* of caches that are gone */
    void *own;         /* of the runner */
} scale_case;

/* The spec of a case: the config's, with the method's placement, merge, out and home. */
banyan_spec scale_spec(const scale_task *t, const scale_line *line);
/* Arrays and their data, on the device too; a rank makes what of k, v, q it reads. Needs
 * c->plan. */
banyan_status scale_fill(scale_case *c, bool (*reads)(const scale_case *, int32_t kv_head));
static inline int64_t scale_row(int64_t token)
{
    return token % SCALE_PERIOD;
}
/* Outputs of rows at .. at+rows-1 lie in `out`: hash them, keep samples. home(c, layer, head):
 * is it this rank's to show? */
void scale_watch(scale_case *c, int32_t layer, int64_t at, int32_t rows, const float *out,
                 const float *lse, bool (*is_here)(const scale_case *, int32_t, int32_t));

/* Measures a case on the ranks of `comm`; line is filled on its rank 0. */
banyan_status scale_measure(const scale_task *t, scale_line *line, banyan_comm *comm);
/* Compares c's samples with the oracle: the worst error and share of its bound on this rank. */
banyan_status scale_check(scale_case *c, double *error, double *share, int32_t *checked);

/* The thread that computes while the caller, who alone may call MPI, exchanges. */
typedef struct scale_aside scale_aside;
scale_aside *scale_aside_create(void);
void scale_aside_destroy(scale_aside *a);
void scale_aside_start(scale_aside *a, banyan_status (*work)(void *), void *arg);
bool scale_aside_busy(scale_aside *a);
banyan_status scale_aside_wait(scale_aside *a); /* the work's status */

/* ---- prediction ---- */

/* Seconds of one step by a plan: the slowest rank's computing and the merge. together: ranks on
 * the fullest machine. INFINITY: not known. */
double predict_step(const banyan_plan *plan, const Banyan__Machine *m, int32_t ranks,
                    int32_t together, int64_t tokens, bool prefill);
/* Seconds in which one rank computes a decoded row over `bytes` bytes of keys and values. */
double predict_read(const Banyan__Machine *m, const banyan_spec *s, double bytes,
                    int32_t together);
/* .. and a prefill's (query row, block) pairs, and appends bytes of keys and values. */
double predict_pairs(const Banyan__Machine *m, const banyan_spec *s, double pairs,
                     int32_t together);
double predict_append(const Banyan__Machine *m, const banyan_spec *s, double bytes);
/* Which of the first 1, 2, 4, .. ranks of a machine are fastest at `tokens`, and from which
 * context on more are worth having; for people. comm may be imaginary; one_machine: its nodes
 * are all on one. Not collective. */
banyan_status predict_advise(const banyan_spec *spec, const Banyan__Machine *m,
                             const banyan_comm *comm, bool one_machine, int64_t tokens,
                             bool prefill, FILE *out);

/* ---- output ---- */

void scale_print_heading(const scale_task *t, FILE *out);
void scale_print(const scale_task *t, const scale_line *line, FILE *out);
void scale_print_end(const scale_task *t, FILE *out); /* below the table: what its marks mean */
void scale_write_json(const scale_task *t, const scale_line *line, FILE *out);
void scale_markdown(const scale_task *t, FILE *out);
/* A gnuplot script that draws all lines. */
void scale_plot(const scale_task *t, FILE *out);
/* "dense", or the rules of the config. */
void scale_pattern(const scale_task *t, char *text, size_t bytes);
double scale_kv_rate(const scale_line *line); /* bytes a second */

#endif
