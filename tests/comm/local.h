/* SPDX-License-Identifier: Apache-2.0 */
/* local.h - ranks that are threads of one process, for tests: what needs many ranks runs in one
 * program, under one debugger, and several ranks share one device. It is a transport like
 * others, but no row of the table.
 *
 * Messages are handed over by pointer: the receiver copies them. Those in a device's memory are
 * copied on the receiver's stream, after what the sender's had queued before, and the sender's
 * goes on after the copy. Only the hand-over waits on the host, for the other rank's call. */
#ifndef BANYAN_TESTS_LOCAL_H
#define BANYAN_TESTS_LOCAL_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a device does for its messages. All return NULL, or what went wrong. An event stands for
 * all that was queued on a stream so far. */
typedef struct local_device {
    const char *(*copy)(void *stream, void *to, const void *from, size_t bytes); /* queued */
    const char *(*mark)(void *stream, void **event);
    const char *(*follow)(void *stream,
                          void *event); /* what is queued from now on comes after */
    void (*forget)(void *event);
    const char *(*wait)(void *stream);
} local_device;

/* comm [ranks], each for one thread (not the one that made it, but when it is the only one);
 * destroyed one by one. node [ranks], or NULL: all on one. device NULL: host memory only. */
banyan_status local_create(int32_t ranks, const int32_t *node, const local_device *device,
                           banyan_comm **comm);

/* Calls body(comm[r], arg) on a thread of its own for each rank; returns when all have. */
void local_run(banyan_comm **comm, int32_t ranks, void (*body)(banyan_comm *comm, void *arg),
               void *arg);
/* The same with ranks of its own, all on one node; device as local_create. */
void local_with(int32_t ranks, const local_device *device,
                void (*body)(banyan_comm *comm, void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
