/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks between records and files.
 *
 * A thread of its own reads files, or writes them, and the others make records of what was
 * read, or unpack those that are to be written:
 *
 *     open   files --reader--> buffers in a ring --threads--> records
 *     save   records --threads--> buffers in a ring --writer--> files
 *
 * so that the disk never waits for one batch of blocks to be converted. Blocks that lie one
 * behind the other in a file are one read or write. A device's records come and go by way of
 * page-locked memory. */
#include "dist/device_cache.h"
#include "dist/plan.h"
#include "dist/snapshot.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RING = 4 };

size_t banyan_batch_bytes = 8 << 20;

static size_t row_bytes(const banyan_block_shape *shape, int32_t dim)
{
    return (size_t)dim * banyan_dtype_bytes(shape->dtype);
}

size_t banyan_plain_bytes(const banyan_block_shape *shape)
{
    const size_t tokens = (size_t)shape->block_tokens;
    const size_t factor = shape->dtype == BANYAN_E4M3 ? sizeof(float) : 0;
    const size_t values = shape->value_in_key ? 0 : row_bytes(shape, shape->value_dim) + factor;
    return tokens * (row_bytes(shape, shape->key_dim) + factor + values);
}

banyan_plain banyan_plain_at(const banyan_block_shape *shape, void *bytes)
{
    const size_t tokens = (size_t)shape->block_tokens;
    char *k = bytes, *v = k + tokens * row_bytes(shape, shape->key_dim);
    char *end = shape->value_in_key ? v : v + tokens * row_bytes(shape, shape->value_dim);
    void *k_factor = end, *v_factor = end + tokens * sizeof(float);
    return shape->dtype == BANYAN_E4M3
               ? (banyan_plain){.k = k, .v = v, .k_factor = k_factor, .v_factor = v_factor}
               : (banyan_plain){.k = k, .v = v};
}

static banyan_status damaged_block(const char *path, const banyan_saved_block *b, int32_t layer,
                                   int32_t kv_head)
{
    return banyan_fail(BANYAN_ERR_FILE,
                       "\"%s\" was damaged: block %" PRId64
                       " of layer %d, KV head %d, at byte %" PRIu64 ", has another checksum",
                       path, b->block, (int)layer, (int)kv_head, b->offset);
}

/* ---- one after another ------------------------------------------------------------------- */

void banyan_block_reader_end(banyan_block_reader *r)
{
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
}

static banyan_status open_blocks(banyan_block_reader *r, int32_t rank, uint64_t id)
{
    if (r->fd >= 0 && r->rank == rank && r->id == id) return BANYAN_OK;
    banyan_block_reader_end(r);
    const banyan_status status = banyan_snapshot_path(r->path, r->folder, "blocks", id, rank);
    if (status) return status;
    r->rank = rank;
    r->id = id;
    return banyan_file_open(r->path, &r->fd);
}

banyan_status banyan_block_read(banyan_block_reader *r, const banyan_index *index,
                                const banyan_saved_group *group,
                                const banyan_saved_block *saved, void *to, size_t bytes)
{
    banyan_status status = open_blocks(r, index->rank, index->file[saved->file].id);
    if (!status) status = banyan_file_read(r->fd, r->path, to, bytes, (int64_t)saved->offset);
    if (!status && banyan_checksum(to, bytes) != saved->checksum)
        status = damaged_block(r->path, saved, group->layer, group->kv_head);
    return status;
}

/* ---- batches ----------------------------------------------------------------------------- */

/* Room for one batch's blocks. */
typedef struct buffer {
    char *bytes;   /* plain rows, one block behind the other */
    char *records; /* likewise; of a device, else NULL */
} buffer;

/* Where a block begins in its buffer. */
typedef struct buffer_place {
    size_t bytes, records;
} buffer_place;

typedef struct mover {
    banyan_cache *c;
    const banyan_move *move;
    int64_t count;
    size_t room; /* of a buffer */
    int is_save;
    int64_t *begin; /* [batches + 1]: batch n has blocks begin[n] .. begin[n+1]-1 of the list */
    int64_t batches;
    /* Batch n lies in n % RING: who fills it has it first, then who empties. */
    buffer ring[RING];
    /* What the threads convert just now. */
    int64_t work;
    buffer_place *at;      /* [blocks of the batch] */
    banyan_status *status; /* [blocks of the batch] */
    pthread_mutex_t lock;  /* of what follows; `moved` says that it has changed */
    pthread_cond_t moved;
    int64_t filled, emptied; /* batches */
    banyan_status failed;    /* what the thread of the files met first, and .. */
    char why[512];           /* .. its words: messages belong to threads */
    int is_given_up;         /* the threads of the records have failed */
} mover;

static size_t plain_of(const mover *m, int64_t i)
{
    return banyan_plain_bytes(m->move[i].shape);
}

static size_t record_of(const mover *m, int64_t i)
{
    return banyan_cache_pool(m->c, m->move[i].layer)->record_bytes;
}

static size_t larger_of(const mover *m, int64_t i)
{
    return record_of(m, i) > plain_of(m, i) ? record_of(m, i) : plain_of(m, i);
}

/* Cuts the list into batches; returns the blocks of the largest. */
static int64_t cut_batches(mover *m)
{
    int64_t most = 1;
    size_t bytes = 0;
    for (int64_t i = 0; i < m->count; i++) {
        bytes += larger_of(m, i);
        if (i && bytes <= m->room) continue;
        m->begin[m->batches++] = i;
        bytes = larger_of(m, i);
    }
    m->begin[m->batches] = m->count;
    for (int64_t n = 0; n < m->batches; n++)
        if (m->begin[n + 1] - m->begin[n] > most) most = m->begin[n + 1] - m->begin[n];
    return most;
}

/* Reads or writes a batch, neighbours in one file together. */
static banyan_status transfer(mover *m, int64_t n)
{
    char *at = m->ring[n % RING].bytes;
    banyan_status status = BANYAN_OK;
    for (int64_t i = m->begin[n], end = m->begin[n + 1]; i < end && !status;) {
        const banyan_move *first = &m->move[i];
        size_t bytes = plain_of(m, i);
        for (i++; i < end && m->move[i].fd == first->fd &&
                  m->move[i].saved->offset == first->saved->offset + bytes;
             i++)
            bytes += plain_of(m, i);
        const int64_t offset = (int64_t)first->saved->offset;
        status = m->is_save ? banyan_file_write(first->fd, first->path, at, bytes, offset)
                            : banyan_file_read(first->fd, first->path, at, bytes, offset);
        at += bytes;
    }
    return status;
}

/* Block n of the batch at work: to its record, or from it. */
static banyan_status convert_block(const mover *m, int64_t n, int32_t worker)
{
    const buffer *work = &m->ring[m->work % RING];
    const int64_t i = m->begin[m->work] + n;
    const banyan_move *move = &m->move[i];
    const banyan_kernel *kernel = m->c->plan->kernel;
    const size_t bytes = plain_of(m, i);
    char *at = work->bytes + m->at[n].bytes;
    void *record = work->records ? work->records + m->at[n].records : move->record;
    const banyan_plain plain = banyan_plain_at(move->shape, at);
    if (m->is_save) {
        memset(at, 0, bytes);
        kernel->unpack(move->shape, record, move->saved->rows, &plain);
        move->saved->checksum = banyan_checksum(at, bytes);
        return BANYAN_OK;
    }
    if (banyan_checksum(at, bytes) != move->saved->checksum)
        return damaged_block(move->path, move->saved, move->layer, move->kv_head);
    banyan_kernel_restore(kernel, move->shape, record, move->saved->rows, &plain);
    if (move->saved->rows == move->shape->block_tokens)
        banyan_summarise(m->c, banyan_plan_kind(m->c->plan, move->layer), record,
                         &m->c->worker[worker]);
    return BANYAN_OK;
}

static void convert_body(void *arg, int64_t n, int32_t worker)
{
    mover *m = arg;
    m->status[n] = convert_block(m, n, worker);
}

static banyan_status device_records(const mover *m, int64_t n)
{
    const banyan_device_cache *d = m->c->device;
    banyan_status status = BANYAN_OK;
    if (!d) return BANYAN_OK;
    char *at = m->ring[n % RING].records;
    for (int64_t i = m->begin[n]; i < m->begin[n + 1] && !status; i++) {
        void *record = m->move[i].record;
        const size_t bytes = record_of(m, i);
        status = banyan_device_said(banyan_memory_copy(&d->memory, m->is_save ? at : record,
                                                       m->is_save ? record : at, bytes));
        at += bytes;
    }
    return status ? status : banyan_device_said(banyan_memory_wait(&d->memory));
}

/* A batch's bytes become records, or its records bytes. */
static banyan_status convert(mover *m, int64_t n)
{
    const int64_t count = m->begin[n + 1] - m->begin[n];
    banyan_status status = m->is_save ? device_records(m, n) : BANYAN_OK;
    if (status) return status;
    m->work = n;
    m->at[0] = (buffer_place){0, 0};
    for (int64_t i = 1; i < count; i++)
        m->at[i] = (buffer_place){m->at[i - 1].bytes + plain_of(m, m->begin[n] + i - 1),
                                  m->at[i - 1].records + record_of(m, m->begin[n] + i - 1)};
    /* One of the cache's threads is that of the files: another in its place would take its core
     * from it. */
    const int32_t threads = m->c->plan->spec.threads > 1 ? m->c->plan->spec.threads - 1 : 1;
    banyan_each(threads, count, convert_body, m);
    for (int64_t i = 0; i < count && !status; i++)
        if (m->status[i])
            status = convert_block(m, i, 0); /* once more: its words are to be ours */
    return !status && !m->is_save ? device_records(m, n) : status;
}

/* ---- the ring ---------------------------------------------------------------------------- */

/* Waits until batch n's buffer is to be filled, or is filled; 0: the other side has failed. */
static int await_buffer(mover *m, int64_t n, int fills)
{
    pthread_mutex_lock(&m->lock);
    while (!m->failed && !m->is_given_up && (fills ? n - m->emptied == RING : n == m->filled))
        pthread_cond_wait(&m->moved, &m->lock);
    const int goes_on = !m->failed && !m->is_given_up;
    pthread_mutex_unlock(&m->lock);
    return goes_on;
}

static void pass_on(mover *m, int64_t n, int fills)
{
    pthread_mutex_lock(&m->lock);
    *(fills ? &m->filled : &m->emptied) = n + 1;
    pthread_cond_broadcast(&m->moved);
    pthread_mutex_unlock(&m->lock);
}

/* One side of the ring: all batches in their order, filled or emptied by `step`. */
static banyan_status go_round(mover *m, int fills, banyan_status (*step)(mover *m, int64_t n))
{
    for (int64_t n = 0; n < m->batches && await_buffer(m, n, fills); n++) {
        const banyan_status status = step(m, n);
        if (status) return status;
        pass_on(m, n, fills);
    }
    return BANYAN_OK;
}

/* The thread of the files. */
static void *move_files(void *arg)
{
    mover *m = arg;
    const banyan_status status = go_round(m, !m->is_save, transfer);
    if (!status) return NULL;
    pthread_mutex_lock(&m->lock);
    m->failed = status;
    snprintf(m->why, sizeof m->why, "%s", banyan_error_message());
    pthread_cond_broadcast(&m->moved);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

static banyan_status move_batches(mover *m)
{
    pthread_t files;
    const int error = pthread_create(&files, NULL, move_files, m);
    if (error)
        return banyan_fail(BANYAN_ERR_MEMORY, "snapshot: no thread for its files: %s",
                           strerror(error));
    const banyan_status status = go_round(m, m->is_save, convert);
    if (status) {
        pthread_mutex_lock(&m->lock);
        m->is_given_up = 1;
        pthread_cond_broadcast(&m->moved);
        pthread_mutex_unlock(&m->lock);
    }
    pthread_join(files, NULL);
    return !status && m->failed ? banyan_fail(m->failed, "%s", m->why) : status;
}

/* ---- all of them ------------------------------------------------------------------------- */

static banyan_status take_buffer(const mover *m, buffer *b)
{
    const banyan_device_cache *d = m->c->device;
    void *records = NULL;
    b->bytes = malloc(m->room);
    if (!b->bytes)
        return banyan_fail(BANYAN_ERR_MEMORY, "snapshot: no memory for %d buffers of %zu",
                           (int)RING, m->room);
    if (!d) return BANYAN_OK;
    const banyan_status status =
        banyan_device_said(banyan_memory_allocate(&d->memory, 1, m->room, &records));
    b->records = records;
    return status;
}

static void give_buffer(const mover *m, buffer *b)
{
    if (b->records) banyan_memory_release(&m->c->device->memory, 1, b->records);
    free(b->bytes);
}

static banyan_status take_lists(mover *m)
{
    m->begin = calloc((size_t)m->count + 1, sizeof *m->begin);
    const int64_t most = m->begin ? cut_batches(m) : 1;
    m->at = calloc((size_t)most, sizeof *m->at);
    m->status = calloc((size_t)most, sizeof *m->status);
    return m->begin && m->at && m->status
               ? BANYAN_OK
               : banyan_fail(BANYAN_ERR_MEMORY, "snapshot: no memory");
}

static banyan_status move_all(banyan_cache *c, const banyan_move *move, int64_t count,
                              int is_save)
{
    mover m = {.c = c,
               .move = move,
               .count = count,
               .is_save = is_save,
               .room = banyan_batch_bytes,
               .lock = PTHREAD_MUTEX_INITIALIZER,
               .moved = PTHREAD_COND_INITIALIZER};
    if (count < 1) return BANYAN_OK;
    for (int64_t i = 0; i < count; i++)
        if (larger_of(&m, i) > m.room) m.room = larger_of(&m, i);
    banyan_status status = take_lists(&m);
    for (int i = 0; i < RING && !status; i++) status = take_buffer(&m, &m.ring[i]);
    if (!status) status = move_batches(&m);
    for (int i = 0; i < RING; i++) give_buffer(&m, &m.ring[i]);
    free(m.begin);
    free(m.at);
    free(m.status);
    return status;
}

banyan_status banyan_blocks_save(banyan_cache *c, const banyan_move *move, int64_t count)
{
    return move_all(c, move, count, 1);
}

banyan_status banyan_blocks_load(banyan_cache *c, const banyan_move *move, int64_t count)
{
    return move_all(c, move, count, 0);
}
