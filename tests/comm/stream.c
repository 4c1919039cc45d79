/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/comm/stream.h"
#include "tests/test.h"

#include <pthread.h>
#include <time.h>

typedef struct work {
    void (*fn)(void *arg);
    struct work *next;
    size_t bytes;
    max_align_t arg[];
} work;

struct stream {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    work *first, *last;
    int is_busy, is_ending;
    stream_graph *graph; /* while it is captured */
    uint64_t seed;
};

struct stream_graph {
    work *first, *last;
};

/* Mostly at once, now and then late. */
static void dawdle(uint64_t *seed)
{
    const struct timespec late = {0, 50000};
    if (!test_below(seed, 20)) nanosleep(&late, NULL);
}

static void *serve(void *arg)
{
    stream *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->first && !s->is_ending) pthread_cond_wait(&s->changed, &s->lock);
        work *w = s->first;
        if (!w) break;
        s->first = w->next;
        s->is_busy = 1;
        pthread_mutex_unlock(&s->lock);
        dawdle(&s->seed);
        w->fn(w->arg);
        free(w);
        pthread_mutex_lock(&s->lock);
        s->is_busy = 0;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

stream *stream_open(uint64_t seed)
{
    stream *s = calloc(1, sizeof *s);
    if (!s) abort();
    s->seed = seed;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (pthread_create(&s->thread, NULL, serve, s)) abort();
    return s;
}

void stream_close(stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->is_ending = 1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static work *new_work(void (*fn)(void *arg), const void *arg, size_t bytes)
{
    work *w = malloc(sizeof *w + bytes);
    if (!w) abort();
    *w = (work){.fn = fn, .bytes = bytes};
    memcpy(w->arg, arg, bytes);
    return w;
}

static void append(work **first, work **last, work *w)
{
    if (*first)
        (*last)->next = w;
    else
        *first = w;
    *last = w;
}

void stream_push(stream *s, void (*fn)(void *arg), const void *arg, size_t bytes)
{
    work *w = new_work(fn, arg, bytes);
    if (s->graph) {
        append(&s->graph->first, &s->graph->last, w);
        return;
    }
    pthread_mutex_lock(&s->lock);
    append(&s->first, &s->last, w);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void stream_wait(stream *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->first || s->is_busy) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

int stream_is_idle(stream *s)
{
    pthread_mutex_lock(&s->lock);
    const int is_idle = !s->first && !s->is_busy;
    pthread_mutex_unlock(&s->lock);
    return is_idle;
}

void stream_begin_capture(stream *s)
{
    s->graph = calloc(1, sizeof *s->graph);
    if (!s->graph) abort();
}

stream_graph *stream_end_capture(stream *s)
{
    stream_graph *graph = s->graph;
    s->graph = NULL;
    return graph;
}

void stream_replay(stream *s, const stream_graph *graph)
{
    for (const work *w = graph->first; w; w = w->next) stream_push(s, w->fn, w->arg, w->bytes);
}

void stream_forget(stream_graph *graph)
{
    for (work *w = graph->first, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    free(graph);
}

/* ---- memory ------------------------------------------------------------------------------ */

static const char *allocate(void *ctx, int on_host, size_t bytes, void **out)
{
    (void)ctx, (void)on_host;
    void *memory = malloc(bytes);
    if (!memory) return "out of memory";
    memset(memory, 0xa5, bytes);
    *out = memory;
    return NULL;
}

static void release(void *ctx, int on_host, void *memory)
{
    (void)on_host;
    stream_wait(ctx);
    free(memory);
}

typedef struct copying {
    void *to;
    const void *from;
    size_t bytes;
} copying;

static void do_copy(void *arg)
{
    const copying *c = arg;
    memcpy(c->to, c->from, c->bytes);
}

static const char *copy(void *ctx, void *to, const void *from, size_t bytes)
{
    const copying c = {to, from, bytes};
    stream_push(ctx, do_copy, &c, sizeof c);
    return NULL;
}

typedef struct filling {
    void *memory;
    int byte;
    size_t bytes;
} filling;

static void do_fill(void *arg)
{
    const filling *f = arg;
    memset(f->memory, f->byte, f->bytes);
}

static const char *fill(void *ctx, void *memory, int byte, size_t bytes)
{
    const filling f = {memory, byte, bytes};
    stream_push(ctx, do_fill, &f, sizeof f);
    return NULL;
}

typedef struct putting {
    void *to;
    size_t bytes;
    unsigned char header[BANYAN_HEADER_BYTES];
} putting;

static void do_put(void *arg)
{
    const putting *p = arg;
    memcpy(p->to, p->header, p->bytes);
}

static const char *put(void *ctx, void *to, const void *from, size_t bytes)
{
    putting p = {.to = to, .bytes = bytes};
    if (bytes > sizeof p.header) return "too many bytes to put";
    memcpy(p.header, from, bytes);
    stream_push(ctx, do_put, &p, sizeof p);
    return NULL;
}

static const char *gather(void *ctx, const banyan_gathered *move, int32_t count)
{
    const char *failed = NULL;
    for (int32_t i = 0; i < count && !failed; i++)
        failed = move[i].is_put ? put(ctx, move[i].to, move[i].from, move[i].bytes)
                                : copy(ctx, move[i].to, move[i].from, move[i].bytes);
    return failed;
}

typedef struct comparing {
    const void *got;
    unsigned char expected[BANYAN_HEADER_BYTES];
    banyan_fault *fault;
} comparing;

static void do_compare(void *arg)
{
    const comparing *c = arg;
    if (!memcmp(c->got, c->expected, sizeof c->expected) || c->fault->is_set) return;
    memcpy(c->fault->got, c->got, sizeof c->fault->got);
    memcpy(c->fault->expected, c->expected, sizeof c->fault->expected);
    __atomic_store_n(&c->fault->is_set, 1, __ATOMIC_RELEASE);
}

static const char *wait(void *ctx)
{
    stream_wait(ctx);
    return NULL;
}

static int is_captured(void *ctx)
{
    return ((stream *)ctx)->graph != NULL;
}

static void *stream_of(void *ctx)
{
    return ctx;
}

static const banyan_memory_row stream_row = {.name = "stream",
                                             .is_apart = 1,
                                             .allocate = allocate,
                                             .release = release,
                                             .copy = copy,
                                             .fill = fill,
                                             .put = put,
                                             .gather = gather,
                                             .wait = wait,
                                             .is_captured = is_captured,
                                             .stream = stream_of};

banyan_memory stream_memory(stream *s, int is_staged)
{
    return (banyan_memory){.row = &stream_row, .own = s, .is_staged = is_staged};
}

/* ---- folds ------------------------------------------------------------------------------- */

enum { MOST_VALUES = 16 };

typedef struct folding {
    void *out;
    const void *value[MOST_VALUES];
    int32_t values;
    size_t bytes;
    banyan_combine_fn combine;
} folding;

static void do_fold(void *arg)
{
    const folding *f = arg;
    void *sum = memcpy(malloc(f->bytes + 1), f->value[0], f->bytes);
    for (int32_t i = 1; i < f->values; i++) f->combine(NULL, sum, sum, f->value[i], f->bytes);
    memcpy(f->out, sum, f->bytes);
    free(sum);
}

int32_t stream_fold(stream *s, const banyan_arrivals *a, void *const *data, size_t bytes,
                    banyan_combine_fn combine)
{
    int32_t combines = 0;
    for (int32_t i = 0; i < a->checks; i++) {
        comparing c = {.got = a->check[i].got, .fault = &a->fault[i]};
        memcpy(c.expected, a->check[i].expected, sizeof c.expected);
        stream_push(s, do_compare, &c, sizeof c);
    }
    for (int32_t i = 0; i < a->folds; i++) {
        folding f = {.out = data[a->fold[i].item],
                     .values = a->fold[i].values,
                     .bytes = bytes,
                     .combine = combine};
        if (f.values > MOST_VALUES) abort();
        memcpy(f.value, a->fold[i].value, (size_t)f.values * sizeof *f.value);
        stream_push(s, do_fold, &f, sizeof f);
        combines += f.values - 1;
    }
    return combines;
}

/* ---- events ------------------------------------------------------------------------------ */

/* Both streams and the rank that made it hold it: whoever comes last frees it. */
typedef struct event {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_done, users;
} event;

static void leave(event *e)
{
    pthread_mutex_lock(&e->lock);
    const int is_last = --e->users == 0;
    pthread_mutex_unlock(&e->lock);
    if (!is_last) return;
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

static void join(event *e)
{
    pthread_mutex_lock(&e->lock);
    e->users++;
    pthread_mutex_unlock(&e->lock);
}

static void do_mark(void *arg)
{
    event *e = *(event **)arg;
    pthread_mutex_lock(&e->lock);
    e->is_done = 1;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    leave(e);
}

static const char *mark(void *s, void **out)
{
    event *e = calloc(1, sizeof *e);
    if (!e) return "out of memory";
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    e->users = 2;
    stream_push(s, do_mark, &e, sizeof e);
    *out = e;
    return NULL;
}

static void do_follow(void *arg)
{
    event *e = *(event **)arg;
    pthread_mutex_lock(&e->lock);
    while (!e->is_done) pthread_cond_wait(&e->changed, &e->lock);
    pthread_mutex_unlock(&e->lock);
    leave(e);
}

static const char *follow(void *s, void *e)
{
    join(e);
    stream_push(s, do_follow, &e, sizeof e);
    return NULL;
}

static void forget(void *e)
{
    leave(e);
}

const local_device stream_device = {copy, mark, follow, forget, wait};
