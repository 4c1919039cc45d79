/* SPDX-License-Identifier: Apache-2.0 */
/* sim.h - decode on a simulated cluster: what the files of banyan-sim share.
 *
 * One layer of one decoded row is, on each rank, reading the keys and values that it keeps,
 * which is simulated as bytes / memory bandwidth, and then the merge, whose messages are really
 * sent, by the library's own code, through a simulated network. Every rank is a coroutine of
 * one process, so they can share a plan by its address. */
#ifndef BANYAN_SIM_H
#define BANYAN_SIM_H

#include "dist/plan.h"

#include <mpi.h>

enum { sim_per_node = 8 };

typedef struct sim_machine {
    banyan_link inside, between;
    double memory; /* bytes per second of one rank */
} sim_machine;

typedef struct sim_method sim_method;

/* One method on one number of ranks, as this rank sees it. */
typedef struct scene {
    const sim_method *method;
    const sim_machine *machine;
    MPI_Comm mpi;
    banyan_comm *comm;       /* the library's, over mpi */
    const banyan_plan *plan; /* one for all ranks */
    int32_t rank, ranks;
    int64_t tokens;
    double bytes;    /* of keys and values that this rank reads in a layer */
    double computed; /* the simulated time at which this rank had computed all of its layer */
    int64_t messages, sent;
    int64_t wrong; /* results that are not what they must be */

    banyan_exchange *exchange;
    void **item; /* [heads]: partials */
    float *room; /* for all-reduces: 4 times the floats of all partials */
    void *block[2];
} scene;

/* One way to attend to context that is spread over ranks. */
struct sim_method {
    const char *name;
    const char *placement, *merge; /* of the plan; merge NULL: the cheapest */
    banyan_out out;
    banyan_home home;
    banyan_status (*prepare)(scene *s);
    banyan_status (*layer)(scene *s); /* all of it; sets s->computed */
};

extern const sim_method sim_methods[]; /* ends with a name of NULL; the last two are peers */

/* What a layer came to, over all ranks. */
typedef struct outcome {
    const sim_method *method; /* NULL: not run */
    const char *merge;
    double seconds;                   /* from the common start to the last rank's end */
    double compute, mean_compute;     /* largest and mean over ranks */
    double predicted;                 /* of the merge, by the plan's cost model; 0: none */
    double messages, bytes;           /* sent by all ranks */
    double most_messages, most_bytes; /* by the rank that sends most */
} outcome;

static inline double sim_comm_seconds(const outcome *o)
{
    return o->seconds - o->compute;
}

/* Simulated time passes on this rank. */
void sim_compute(double seconds);

/* ring.c */
banyan_status ring_prepare(scene *s);
banyan_status ring_layer(scene *s);

/* report.c: a table in Markdown, and a line of JSON for each outcome. */
typedef struct report {
    FILE *json; /* or NULL */
    int32_t layers;
    int64_t tokens_per_rank;
    int count;      /* numbers of ranks so far */
    outcome *first; /* [methods]: of the smallest number of ranks */
} report;
void report_write(report *r, int32_t ranks, const outcome *all);

#endif
