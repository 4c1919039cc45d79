/* SPDX-License-Identifier: Apache-2.0 */
/* stream.h - a device without a device, for tests of what is queued: a stream is a thread that
 * does what was queued, in order, some time later. What forgets to wait, or reuses memory too
 * early, meets wrong numbers. Device memory is of the heap. */
#ifndef BANYAN_TESTS_STREAM_H
#define BANYAN_TESTS_STREAM_H

#include "comm/comm.h"
#include "tests/comm/local.h"

typedef struct stream stream;

stream *stream_open(uint64_t seed); /* of the delays */
void stream_close(stream *s);       /* after all of it is done */
/* fn(arg) later, with a copy of the `bytes` of arg. */
void stream_push(stream *s, void (*fn)(void *arg), const void *arg, size_t bytes);
void stream_wait(stream *s);
int stream_is_idle(stream *s);
/* Between begin and end, what is queued goes to a graph, which replays it as often as it is
 * asked to. */
typedef struct stream_graph stream_graph;
void stream_begin_capture(stream *s);
stream_graph *stream_end_capture(stream *s);
void stream_replay(stream *s, const stream_graph *graph);
void stream_forget(stream_graph *graph);

/* Its memory, for exchanges: own is the stream. */
banyan_memory stream_memory(stream *s, int is_staged);
/* banyan_fold_fn of such an exchange: combine, which is done later, of each two values; returns
 * how often. */
int32_t stream_fold(stream *s, const banyan_arrivals *arrivals, void *const *data, size_t bytes,
                    banyan_combine_fn combine);
/* For ranks that are threads, each with a stream of its own. */
extern const local_device stream_device;

#endif
