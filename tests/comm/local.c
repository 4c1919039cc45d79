/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/comm/local.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { channels = 2, on_host = 0, on_device = 1 }; /* messages of one never meet the other's */

/* A message that was sent: in the sender's list, and in the queue from it to its receiver. */
typedef struct letter {
    const void *data;
    size_t bytes;
    int is_taken;
    void *ready; /* device: the event after which it may be read */
    void *taken; /* device: the event after which it was */
    struct letter *next;
} letter;

typedef struct world {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t ranks, users;
    letter **first; /* [channels][ranks: from][ranks: to], the oldest */
} world;

typedef struct request {
    int recv, peer;
    void *data;
    size_t bytes;
    letter *letter;
} request;

typedef struct list {
    request *request;
    int count, capacity;
} list;

typedef struct local_state {
    world *world;
    const local_device *device;
    banyan_transport transport; /* of this comm: with a device half, or without */
    list posted[channels];
} local_state;

extern const banyan_transport local_transport;

static world *new_world(int32_t ranks)
{
    world *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->ranks = w->users = ranks;
    w->first = calloc(channels * (size_t)ranks * (size_t)ranks, sizeof *w->first);
    if (w->first) return w;
    free(w);
    return NULL;
}

static letter **queue_of(world *w, int channel, int from, int to)
{
    return &w->first[((size_t)channel * (size_t)w->ranks + (size_t)from) * (size_t)w->ranks +
                     (size_t)to];
}

static banyan_status start(banyan_comm *comm, int channel, int recv, int peer, void *data,
                           size_t bytes)
{
    list *l = &((local_state *)comm->state)->posted[channel];
    if (l->count == l->capacity) {
        const int capacity = 2 * l->capacity + 16;
        request *more = realloc(l->request, (size_t)capacity * sizeof *more);
        if (!more) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a message");
        l->request = more;
        l->capacity = capacity;
    }
    l->request[l->count++] =
        (request){.recv = recv, .peer = peer, .data = data, .bytes = bytes};
    return BANYAN_OK;
}

/* What is left of a time limit, in seconds. It counts what was waited, a little at a time:
 * while the whole process stands still (a debugger, SIGSTOP) no rank can arrive, and that is
 * nobody's fault. */
typedef struct patience {
    double left;
} patience;

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The world is locked. 0: the time limit is over. */
static int wait_for_change(const banyan_comm *comm, world *w, patience *p)
{
    const double most = p->left < 0.25 ? p->left : 0.25;
    const double begin = now(CLOCK_MONOTONIC), end = now(CLOCK_REALTIME) + most;
    const struct timespec until = {(time_t)end, (long)((end - (double)(time_t)end) * 1e9)};
    if (comm->timeout <= 0) return pthread_cond_wait(&w->changed, &w->lock) == 0;
    const int is_changed = pthread_cond_timedwait(&w->changed, &w->lock, &until) == 0;
    const double waited = now(CLOCK_MONOTONIC) - begin;
    p->left -= waited < most ? waited : most;
    return is_changed || p->left > 0;
}

static banyan_status fail_missing(const banyan_comm *comm, const request *r)
{
    return banyan_fail(BANYAN_ERR_COMM, "rank %d waited %g s: rank %d did not arrive%s",
                       (int)comm->rank, comm->timeout, r->peer, r->recv ? "" : " to receive");
}

static banyan_status send_letter(const banyan_comm *comm, world *w, int channel, request *r,
                                 void *ready)
{
    letter *one = calloc(1, sizeof *one);
    if (!one) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a message");
    *one = (letter){.data = r->data, .bytes = r->bytes, .ready = ready};
    r->letter = one;
    pthread_mutex_lock(&w->lock);
    letter **last = queue_of(w, channel, comm->rank, r->peer);
    while (*last) last = &(*last)->next;
    *last = one;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return BANYAN_OK;
}

/* The oldest message from the peer, out of the queue. */
static banyan_status take_letter(const banyan_comm *comm, world *w, int channel, request *r,
                                 patience *p)
{
    letter **first = queue_of(w, channel, r->peer, comm->rank);
    int is_in_time = 1;
    pthread_mutex_lock(&w->lock);
    while (!*first && is_in_time) is_in_time = wait_for_change(comm, w, p);
    r->letter = *first;
    if (*first) *first = (*first)->next;
    pthread_mutex_unlock(&w->lock);
    if (!r->letter) return fail_missing(comm, r);
    if (r->letter->bytes == r->bytes) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_COMM, "rank %d sent %zu bytes, but rank %d expected %zu",
                       r->peer, r->letter->bytes, (int)comm->rank, r->bytes);
}

static void give_back(world *w, letter *one, void *taken)
{
    pthread_mutex_lock(&w->lock);
    one->taken = taken;
    one->is_taken = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static banyan_status await_taken(const banyan_comm *comm, world *w, const request *r,
                                 patience *p)
{
    int is_in_time = 1;
    pthread_mutex_lock(&w->lock);
    while (!r->letter->is_taken && is_in_time) is_in_time = wait_for_change(comm, w, p);
    const int is_taken = r->letter->is_taken;
    pthread_mutex_unlock(&w->lock);
    return is_taken ? BANYAN_OK : fail_missing(comm, r);
}

/* ---- host memory ------------------------------------------------------------------------- */

static banyan_status local_start(banyan_comm *comm, int recv, int peer, void *data,
                                 size_t bytes)
{
    return start(comm, on_host, recv, peer, data, bytes);
}

/* A letter that nobody took is lost: its receiver may still come for it. */
static banyan_status local_wait_all(banyan_comm *comm)
{
    local_state *state = comm->state;
    list *l = &state->posted[on_host];
    patience p = {comm->timeout};
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < l->count && !status; i++)
        if (!l->request[i].recv)
            status = send_letter(comm, state->world, on_host, &l->request[i], NULL);
    for (int i = 0; i < l->count && !status; i++) {
        request *r = &l->request[i];
        if (!r->recv) continue;
        status = take_letter(comm, state->world, on_host, r, &p);
        if (!status && r->bytes) memcpy(r->data, r->letter->data, r->bytes);
        if (r->letter) give_back(state->world, r->letter, NULL);
    }
    for (int i = 0; i < l->count && !status; i++) {
        if (l->request[i].recv) continue;
        status = await_taken(comm, state->world, &l->request[i], &p);
        if (!status) free(l->request[i].letter);
    }
    l->count = 0;
    return status;
}

/* ---- device memory ----------------------------------------------------------------------- */

static banyan_status device_status(const char *failed)
{
    return failed ? banyan_fail(BANYAN_ERR_DEVICE, "%s", failed) : BANYAN_OK;
}

static banyan_status device_start(banyan_comm *comm, int recv, int peer, void *data,
                                  size_t bytes)
{
    return start(comm, on_device, recv, peer, data, bytes);
}

static banyan_status take_on_stream(banyan_comm *comm, request *r, void *stream, patience *p)
{
    local_state *state = comm->state;
    const local_device *device = state->device;
    void *taken = NULL;
    banyan_status status = take_letter(comm, state->world, on_device, r, p);
    if (status) return status;
    status = device_status(device->follow(stream, r->letter->ready));
    if (!status)
        status = device_status(device->copy(stream, r->data, r->letter->data, r->bytes));
    if (!status) status = device_status(device->mark(stream, &taken));
    if (!status) give_back(state->world, r->letter, taken);
    return status;
}

static banyan_status device_flush(banyan_comm *comm, void *stream)
{
    local_state *state = comm->state;
    const local_device *device = state->device;
    list *l = &state->posted[on_device];
    patience p = {comm->timeout};
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < l->count && !status; i++) {
        void *ready = NULL;
        if (l->request[i].recv) continue;
        status = device_status(device->mark(stream, &ready));
        if (!status) status = send_letter(comm, state->world, on_device, &l->request[i], ready);
    }
    for (int i = 0; i < l->count && !status; i++)
        if (l->request[i].recv) status = take_on_stream(comm, &l->request[i], stream, &p);
    for (int i = 0; i < l->count && !status; i++) {
        letter *one = l->request[i].letter;
        if (l->request[i].recv) continue;
        status = await_taken(comm, state->world, &l->request[i], &p);
        if (status) break;
        status = device_status(device->follow(stream, one->taken));
        device->forget(one->taken);
        device->forget(one->ready);
        free(one);
    }
    l->count = 0;
    return status;
}

/* By way of the host, in ascending rank order. */
static banyan_status device_allreduce(banyan_comm *comm, float *values, int64_t count,
                                      banyan_op op, void *stream)
{
    const local_device *device = ((local_state *)comm->state)->device;
    const size_t bytes = (size_t)count * sizeof(float);
    float *all = malloc((size_t)(comm->size + 1) * bytes + 1);
    if (!all) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %zu bytes", bytes);
    banyan_status status = device_status(device->copy(stream, all, values, bytes));
    if (!status) status = device_status(device->wait(stream));
    if (!status) status = banyan_comm_allgather(comm, all, bytes, all + count);
    for (int64_t i = 0; i < count && !status; i++) {
        const float *from = all + count + i;
        float folded = *from;
        for (int32_t r = 1; r < comm->size; r++) {
            const float x = from[r * count];
            folded = op == BANYAN_SUM ? folded + x : x > folded || x != x ? x : folded;
        }
        all[i] = folded;
    }
    if (!status) status = device_status(device->copy(stream, values, all, bytes));
    if (!status) status = device_status(device->wait(stream));
    free(all);
    return status;
}

static banyan_status device_poll(banyan_comm *comm)
{
    (void)comm;
    return BANYAN_OK;
}

static banyan_status device_wait(banyan_comm *comm, void *stream)
{
    return device_status(((local_state *)comm->state)->device->wait(stream));
}

static const banyan_device_moves local_moves = {
    .start = device_start,
    .flush = device_flush,
    .allreduce = device_allreduce,
    .poll = device_poll,
    .wait = device_wait,
};

/* ---- comms ------------------------------------------------------------------------------- */

static banyan_status no_open(banyan_comm *comm, void *native)
{
    (void)comm, (void)native;
    return banyan_fail(BANYAN_ERR_UNSUPPORTED, "ranks that are threads come from local_create");
}

static banyan_status set_state(banyan_comm *comm, world *w, const local_device *device)
{
    local_state *state = calloc(1, sizeof *state);
    if (!state) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a comm");
    state->world = w;
    state->device = device;
    state->transport = local_transport;
    if (device) state->transport.device = &local_moves;
    comm->state = state;
    comm->transport = &state->transport;
    return BANYAN_OK;
}

static void local_close(banyan_comm *comm)
{
    local_state *state = comm->state;
    world *w = state->world;
    pthread_mutex_lock(&w->lock);
    const int is_last = --w->users == 0;
    pthread_mutex_unlock(&w->lock);
    if (is_last) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        free(w->first);
        free(w);
    }
    for (int i = 0; i < channels; i++) free(state->posted[i].request);
    comm->transport = &local_transport; /* what it was is freed here */
    free(state);
}

/* The lowest rank of each new comm makes its world, and tells the others where it is. */
static banyan_status local_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    typedef struct offer {
        world *made;
        int color;
    } offer;
    (void)key;
    const local_state *parent = comm->state;
    offer mine = {out && out->rank == 0 ? new_world(out->size) : NULL, out ? color : -1};
    offer *all = malloc((size_t)comm->size * sizeof *all);
    if (!all) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a split");
    banyan_status status = banyan_comm_allgather(comm, &mine, sizeof mine, all);
    for (int32_t r = 0; r < comm->size && !status && out; r++)
        if (all[r].made && all[r].color == color)
            status = set_state(out, all[r].made, parent->device);
    free(all);
    return status;
}

const banyan_transport local_transport = {
    .name = "local",
    .open = no_open,
    .close = local_close,
    .start = local_start,
    .wait_all = local_wait_all,
    .split = local_split,
};

banyan_status local_create(int32_t ranks, const int32_t *node, const local_device *device,
                           banyan_comm **comm)
{
    int32_t *all_on_one = calloc((size_t)ranks, sizeof *all_on_one);
    world *w = new_world(ranks);
    banyan_status status = all_on_one && w ? BANYAN_OK : BANYAN_ERR_MEMORY;
    for (int32_t r = 0; r < ranks && !status; r++) {
        comm[r] = calloc(1, sizeof **comm);
        if (!comm[r]) {
            status = BANYAN_ERR_MEMORY;
            break;
        }
        *comm[r] = (banyan_comm){.rank = r, .size = ranks, .timeout = 60, .piece = INT_MAX};
        status = set_state(comm[r], w, device);
        if (!status)
            status = banyan_topology_make(node ? node : all_on_one, ranks, &comm[r]->topology);
    }
    free(all_on_one);
    return status;
}

typedef struct thread {
    pthread_t id;
    banyan_comm *comm;
    void (*body)(banyan_comm *comm, void *arg);
    void *arg;
} thread;

static void *run_body(void *arg)
{
    const thread *t = arg;
    t->body(t->comm, t->arg);
    return NULL;
}

void local_run(banyan_comm **comm, int32_t ranks, void (*body)(banyan_comm *comm, void *arg),
               void *arg)
{
    thread *t = calloc((size_t)ranks, sizeof *t);
    for (int32_t r = 0; r < ranks; r++) {
        t[r] = (thread){.comm = comm[r], .body = body, .arg = arg};
        if (pthread_create(&t[r].id, NULL, run_body, &t[r])) abort();
    }
    for (int32_t r = 0; r < ranks; r++) pthread_join(t[r].id, NULL);
    free(t);
}

void local_with(int32_t ranks, const local_device *device,
                void (*body)(banyan_comm *comm, void *arg), void *arg)
{
    banyan_comm **comm = calloc((size_t)ranks, sizeof *comm);
    if (!comm || local_create(ranks, NULL, device, comm)) abort();
    local_run(comm, ranks, body, arg);
    for (int32_t r = 0; r < ranks; r++) banyan_comm_destroy(comm[r]);
    free(comm);
}
