/* SPDX-License-Identifier: Apache-2.0 */
/* machine.h - what the machine can do that this runs on, for the verbs that compare with it:
 * bench, scale and plan.
 *
 *     ceilings  what reading memory and multiplying reach at most: ceilings*.c, peak_*.c
 *     figures   what a message, a read and a computation cost: measured, kept in a file, told
 *     ranks     which of them share a machine, and how some wait while others measure */
#ifndef BANYAN_MACHINE_H
#define BANYAN_MACHINE_H

#include "launch/device.h"
#include "launch/launch.h"

/* How long, and by which clock, something is measured. */
typedef struct pace {
    bool quick;    /* is it working? Figures are of no use */
    bool cpu_time; /* see pace_seconds */
} pace;

/* Seconds that passed; or, on a machine where others compute, what this process (the calling
 * thread) had a core for, in seconds for each of its `threads` threads. */
double pace_seconds(const pace *by, int threads);
double pace_thread_seconds(const pace *by);

/* ---- ceilings ---------------------------------------------------------------------------- */

/* One kind of arithmetic: a loop that stays in registers. `rounds` runs of it return something
 * that depends on all of it. */
typedef struct peak {
    const char *name;
    const char *kernel;   /* the kernel whose ceiling it is */
    bool bf16;            /* bf16 dot products; else fp32 multiply-adds */
    double flop_of_round; /* a multiply-add is 2 */
    bool (*usable)(void);
    float (*loop)(int64_t rounds);
} peak;
extern const peak peak_scalar, peak_avx2, peak_avx512, peak_avx512_bf16;

/* What is needed to measure them again and again. */
typedef struct ceilings {
    const pace *by;
    int threads;
    const peak *math; /* the arithmetic of the kernel and its cache format */
    int64_t rounds;   /* of it, in one measurement */
    uint64_t *words;  /* far more than the caches hold */
    int64_t bytes;
} ceilings;

/* What `threads` threads can do at most, all together. */
typedef struct rates {
    double read;  /* bytes a second from memory, 0: not measured */
    double flops; /* operations a second */
} rates;

/* Sets up for a row; `c` is zero the first time, and kept from row to row. false: no memory. */
bool ceilings_choose(ceilings *c, const pace *by, int threads, const char *kernel,
                     banyan_dtype dtype);
/* One measurement, some milliseconds. */
rates ceilings_measure(const ceilings *c, bool reads);
void ceilings_free(ceilings *c);
/* Bytes a second that `threads` threads read from `bytes` of memory: the best of five passes,
 * and all of them together, waiting for a core included. 0: no memory. */
double ceilings_read(int threads, int64_t bytes, double *sustained);

/* Of a device: bytes a second that a copy within its memory reads and writes, together;
 * operations a second of a product of bf16 matrices [n][n]. */
banyan_status ceilings_copy(device *d, int64_t bytes, double *rate);
banyan_status ceilings_matrix(device *d, int32_t n, double *rate);

/* ---- figures ----------------------------------------------------------------------------- */

/* Measures links, reading and the kernel at the config's shape into config->machine, collective
 * over the job. */
int machine_measure(const job *j, const banyan_spec *shape, int32_t threads, double *seconds);
/* Reads `path` into config->machine, collective; a missing file is an error. */
int machine_read(const job *j, const char *path);
int machine_write(const job *j, const char *path);
/* Gives a comm the machine's links. */
banyan_status machine_links(const Banyan__Machine *m, banyan_comm *comm);
/* One sentence for people, on rank 0. */
void machine_print(const Banyan__Machine *m, FILE *out);

/* ---- ranks ------------------------------------------------------------------------------- */

/* The same for ranks that share one kernel, whatever their nodes are called: of this rank, and
 * of all (the caller frees; collective). */
uint64_t hosts_number(void);
banyan_status hosts_find(banyan_comm *comm, uint64_t **numbers);

/* Sleep, rather than poll, until `leader` releases: who waits must not take cores from who
 * measures. */
banyan_status quiet_wait(banyan_comm *comm, int leader);
/* The leader's: one byte to every rank with waits[rank]. */
banyan_status quiet_release(banyan_comm *comm, const bool *waits);

#endif
