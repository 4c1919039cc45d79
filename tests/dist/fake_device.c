/* SPDX-License-Identifier: Apache-2.0 */
/* fake_device.c - the rows "cuda" and "hopper" of the kernels, without CUDA: a queue is a
 * thread that does what was queued some time later (tests/comm/stream.h), and blocks are those
 * of the scalar kernel. What dist/ forgets to keep until the queue got there, meets wrong
 * numbers.
 *
 * Spans are taken at their word: what is not masked is seen by rows whatever their token. */
#include "tests/dist/fake_device.h"
#include "tests/test.h"

extern const banyan_kernel banyan_kernel_scalar, banyan_kernel_cuda, banyan_kernel_hopper;

int64_t fake_memory_free = INT64_C(1) << 40;

enum { SHARED = 12 }; /* vectors in a strip of a part that shares a batch */

/* What a call keeps, for as long as the queue: a graph may come back to it. */
typedef struct kept {
    struct kept *next;
    max_align_t bytes[];
} kept;

struct banyan_queue {
    kept *kept;
    banyan_device_limits limits;
    stream *stream;
    int owns_stream;
};

static const char *missing(void)
{
    return NULL;
}

static const char *memory_free(int64_t *bytes)
{
    *bytes = fake_memory_free;
    return NULL;
}

static const char *open_queue(const banyan_device_limits *limits, void *given,
                              banyan_queue **out)
{
    banyan_queue *q = calloc(1, sizeof *q);
    q->limits = *limits;
    q->stream = given ? given : stream_open(4711);
    q->owns_stream = !given;
    *out = q;
    return NULL;
}

static void close_queue(banyan_queue *q)
{
    stream_wait(q->stream);
    if (q->owns_stream) stream_close(q->stream);
    for (kept *k = q->kept, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    free(q);
}

static void queue_bytes(const banyan_device_limits *limits, size_t *device, size_t *host)
{
    *device = *host = sizeof(banyan_queue) + (size_t)limits->strips;
}

/* ---- memory: the stream's ---------------------------------------------------------------- */

static banyan_memory memory_of(void *own)
{
    return stream_memory(((const banyan_queue *)own)->stream, 0);
}

static const char *allocate(void *own, int on_host, size_t bytes, void **out)
{
    const banyan_memory m = memory_of(own);
    return banyan_memory_allocate(&m, on_host, bytes, out);
}

static void release(void *own, int on_host, void *memory)
{
    const banyan_memory m = memory_of(own);
    banyan_memory_release(&m, on_host, memory);
}

static const char *copy(void *own, void *to, const void *from, size_t bytes)
{
    const banyan_memory m = memory_of(own);
    return banyan_memory_copy(&m, to, from, bytes);
}

static const char *fill(void *own, void *memory, int byte, size_t bytes)
{
    const banyan_memory m = memory_of(own);
    return banyan_memory_fill(&m, memory, byte, bytes);
}

static const char *put(void *own, void *to, const void *from, size_t bytes)
{
    const banyan_memory m = memory_of(own);
    return banyan_memory_put(&m, to, from, bytes);
}

static const char *gather(void *own, const banyan_gathered *move, int32_t count)
{
    const banyan_memory m = memory_of(own);
    return banyan_memory_gather(&m, move, count);
}

int64_t fake_waits;

static const char *wait_queue(void *own)
{
    const banyan_memory m = memory_of(own);
    fake_waits++;
    return banyan_memory_wait(&m);
}

static int is_captured(void *own)
{
    const banyan_memory m = memory_of(own);
    return banyan_memory_is_captured(&m);
}

static void *stream_of(void *own)
{
    return ((const banyan_queue *)own)->stream;
}

static const banyan_memory_row fake_memory = {.name = "fake",
                                              .is_apart = 1,
                                              .allocate = allocate,
                                              .release = release,
                                              .copy = copy,
                                              .fill = fill,
                                              .put = put,
                                              .gather = gather,
                                              .wait = wait_queue,
                                              .is_captured = is_captured,
                                              .stream = stream_of};

/* An argument's host array, as it is now. */
static void *keep(banyan_queue *q, const void *array, int64_t count, size_t bytes)
{
    kept *k = calloc(1, sizeof *k + (size_t)(count + 1) * bytes);
    if (!k) abort();
    k->next = q->kept;
    q->kept = k;
    if (count) memcpy(k->bytes, array, (size_t)count * bytes);
    return k->bytes;
}

/* ---- pack -------------------------------------------------------------------------------- */

typedef struct packing {
    banyan_block_shape shape;
    int32_t kv_heads;
    const char *k, *v;
    banyan_dtype dtype;
    banyan_packing *one;
    int64_t count;
} packing;

static void do_pack(void *arg)
{
    packing *p = arg;
    const size_t bytes = banyan_dtype_bytes(p->dtype);
    const int64_t k_row = (int64_t)p->kv_heads * p->shape.key_dim;
    const int64_t v_row = (int64_t)p->kv_heads * p->shape.value_dim;
    for (int64_t i = 0; i < p->count; i++) {
        const banyan_packing *one = &p->one[i];
        const int64_t k = one->row * k_row + (int64_t)one->kv_head * p->shape.key_dim;
        const int64_t v = one->row * v_row + (int64_t)one->kv_head * p->shape.value_dim;
        banyan_kernel_scalar.pack(&p->shape, one->record, one->fresh, one->first, one->rows,
                                  p->k + (size_t)k * bytes, k_row, p->v + (size_t)v * bytes,
                                  v_row, p->dtype);
    }
}

static const char *pack(banyan_queue *q, const banyan_block_shape *shape, int32_t kv_heads,
                        const void *k, const void *v, banyan_dtype in_dtype,
                        const banyan_packing *one, int64_t count)
{
    if (count > q->limits.packings) return "more packings than planned";
    const packing p = {*shape, kv_heads, k, v, in_dtype, keep(q, one, count, sizeof *one),
                       count};
    stream_push(q->stream, do_pack, &p, sizeof p);
    return NULL;
}

/* ---- attend ------------------------------------------------------------------------------ */

/* Entries of a strip's spans that are masked, or those that are not. */
static int64_t list_of(const banyan_batch *b, const banyan_strip *s, int masked,
                       banyan_entry *out)
{
    const banyan_table_of_blocks *t = &b->table[s->table];
    const size_t record = banyan_kernel_scalar.record_bytes(&b->shape);
    int64_t count = 0;
    for (int32_t i = 0; i < s->spans; i++) {
        const banyan_span *span = &b->span[s->first_span + i];
        if ((span->masked != 0) != masked) continue;
        for (int32_t n = 0; n < span->count; n++) {
            const banyan_slot *slot = &t->slot[span->first + n * span->step];
            out[count++] = (banyan_entry){(const char *)t->records + slot->record * record,
                                          slot->block,
                                          1,
                                          span->masked == 2 ? 0 : -1,
                                          NULL,
                                          NULL};
        }
    }
    return count;
}

static void attend_head(const banyan_batch *b, const banyan_strip *s, int32_t head)
{
    const banyan_block_shape *shape = &b->shape;
    const banyan_batch_part *part = &b->part[s->part];
    const size_t in = banyan_dtype_bytes(b->in_dtype), out = banyan_dtype_bytes(b->out_dtype);
    const size_t floats = banyan_partial_floats(shape->value_dim);
    float *q = calloc((size_t)s->rows * (size_t)shape->key_dim, sizeof *q);
    float *partial = calloc((size_t)s->rows * floats, sizeof *partial);
    banyan_entry *entry = calloc((size_t)s->blocks + 1, sizeof *entry);
    void *work = aligned_alloc(
        64, banyan_kernel_scalar.workspace_bytes(shape, 1, s->rows) / 64 * 64 + 64);
    for (int32_t r = 0; r < s->rows; r++) {
        const int64_t at = (int64_t)(s->first_row + r) * b->heads + head;
        banyan_to_float(q + r * shape->key_dim,
                        (const char *)b->q + (size_t)(at * shape->key_dim) * in, b->in_dtype,
                        shape->key_dim);
    }
    banyan_partial_clear(partial, shape->value_dim, s->rows);
    for (int masked = 0; masked < 2; masked++) {
        banyan_tile tile = {.shape = *shape,
                            .scale = b->scale,
                            .heads = 1,
                            .rows = s->rows,
                            .at = masked ? part->at + s->first_row - part->first_row
                                         : INT64_C(1) << 40,
                            .q = q,
                            .entry = entry,
                            .entries = list_of(b, s, masked, entry),
                            .edge = s->edge < 0 ? NULL : &b->edge[s->edge],
                            .first_token = masked ? part->first_token : 0,
                            .end_token = masked ? part->end_token : INT64_MAX,
                            .partial = partial,
                            .workspace = work};
        if (tile.entries) banyan_kernel_scalar.attend(&tile);
    }
    const int64_t row = (int64_t)s->first_row * b->heads + head;
    if (b->partial[head])
        memcpy(b->partial[head] + (size_t)s->first_row * floats, partial,
               (size_t)s->rows * floats * sizeof *partial);
    else
        banyan_partial_finish(partial, shape->value_dim, s->rows,
                              (char *)b->out + (size_t)(row * shape->value_dim) * out,
                              b->out_dtype, (int64_t)b->heads * shape->value_dim,
                              b->lse ? b->lse + row : NULL, b->heads);
    free(q), free(partial), free(entry), free(work);
}

static void do_attend(void *arg)
{
    const banyan_batch *b = arg;
    for (int32_t i = 0; i < b->strips; i++)
        for (int bit = 0; bit < 64; bit++)
            if (b->strip[i].heads >> bit & 1)
                attend_head(b, &b->strip[i], b->strip[i].first_head + bit);
}

static const char *attend(banyan_queue *q, const banyan_batch *given)
{
    banyan_batch b = *given;
    const banyan_device_limits *most = &q->limits;
    if (b.strips > most->strips || b.spans > most->spans || b.tables > most->tables ||
        b.rows > most->rows || b.parts > most->parts)
        return "more than was planned";
    for (int32_t i = 0; b.parts > 1 && i < b.strips; i++)
        if (b.strip[i].rows * __builtin_popcountll(b.strip[i].heads) > SHARED)
            return "a part that must be alone is not";
    b.part = keep(q, b.part, b.parts, sizeof *b.part);
    b.table = keep(q, b.table, b.tables, sizeof *b.table);
    b.strip = keep(q, b.strip, b.strips, sizeof *b.strip);
    b.span = keep(q, b.span, b.spans, sizeof *b.span);
    b.edge = keep(q, b.edge, b.edges, sizeof *b.edge);
    b.partial = keep(q, b.partial, b.heads, sizeof *b.partial);
    stream_push(q->stream, do_attend, &b, sizeof b);
    return NULL;
}

/* ---- partials ---------------------------------------------------------------------------- */

static void do_fold(void *arg)
{
    const banyan_fold_batch *b = arg;
    const size_t floats = banyan_partial_floats(b->value_dim);
    const size_t bytes = (size_t)b->rows * floats * sizeof(float);
    float *sum = malloc(bytes + 1);
    for (int32_t i = 0; i < b->folds; i++) {
        const banyan_folding *f = &b->fold[i];
        const size_t at =
            (size_t)f->head * (size_t)b->value_dim * banyan_dtype_bytes(b->out_dtype);
        memcpy(sum, f->value[0], bytes);
        for (int32_t v = 1; v < f->values; v++)
            banyan_partial_combine(sum, sum, f->value[v], b->value_dim, b->rows);
        if (f->partial) memcpy(f->partial, sum, bytes);
        if (f->head < 0) continue;
        if (b->sinks) banyan_partial_sink(sum, b->sinks[f->head], b->value_dim, b->rows);
        banyan_partial_finish(sum, b->value_dim, b->rows, (char *)b->out + at, b->out_dtype,
                              (int64_t)b->heads * b->value_dim,
                              b->lse ? b->lse + f->head : NULL, b->heads);
    }
    free(sum);
}

static const char *fold(banyan_queue *q, const banyan_fold_batch *given)
{
    banyan_fold_batch b = *given;
    const banyan_arrivals headers = {.check = b.check, .fault = b.fault, .checks = b.checks};
    banyan_folding *folding = keep(q, b.fold, b.folds, sizeof *b.fold);
    for (int32_t i = 0; i < b.folds; i++)
        folding[i].value =
            keep(q, folding[i].value, folding[i].values, sizeof *folding[i].value);
    b.fold = folding;
    if (b.sinks) b.sinks = keep(q, b.sinks, b.heads, sizeof *b.sinks);
    stream_fold(q->stream, &headers, NULL, 0, NULL);
    stream_push(q->stream, do_fold, &b, sizeof b);
    return NULL;
}

typedef struct sharing {
    float **partial, **probed;
    int32_t heads, value_dim;
    int64_t rows;
    float *mass;
} sharing;

static void do_share(void *arg)
{
    const sharing *f = arg;
    const size_t floats = banyan_partial_floats(f->value_dim);
    for (int32_t h = 0; h < f->heads; h++)
        for (int64_t r = 0; f->partial[h] && r < f->rows; r++) {
            const float *all = f->partial[h] + (size_t)r * floats + f->value_dim;
            const float *part = f->probed[h] + (size_t)r * floats + f->value_dim;
            f->mass[r * f->heads + h] =
                part[1] > 0 ? part[1] / all[1] * expf(part[0] - all[0]) : 0;
        }
}

static const char *share(banyan_queue *q, float *const *partial, float *const *probed,
                         int32_t heads, int32_t value_dim, int64_t rows, float *mass)
{
    const sharing f = {keep(q, partial, heads, sizeof *partial),
                       keep(q, probed, heads, sizeof *probed),
                       heads,
                       value_dim,
                       rows,
                       mass};
    stream_push(q->stream, do_share, &f, sizeof f);
    return NULL;
}

static int enter(const banyan_queue *queue)
{
    (void)queue;
    return 0;
}

static void leave(int current)
{
    (void)current;
}

static int32_t shared_vectors(const banyan_block_shape *shape)
{
    (void)shape;
    return SHARED;
}

static const banyan_device device = {.name = "cuda",
                                     .shared_vectors = shared_vectors,
                                     .missing = missing,
                                     .memory_free = memory_free,
                                     .open = open_queue,
                                     .close = close_queue,
                                     .queue_bytes = queue_bytes,
                                     .enter = enter,
                                     .leave = leave,
                                     .memory = &fake_memory,
                                     .pack = pack,
                                     .attend = attend,
                                     .fold = fold,
                                     .share = share};

/* ---- rows -------------------------------------------------------------------------------- */

static int usable(void)
{
    return 1;
}

static int unusable(void)
{
    return 0;
}

/* So that something is not: formats, and odd pairs of dims. */
static int supports(const banyan_block_shape *shape)
{
    return shape->dtype <= BANYAN_BF16 && shape->block_tokens <= 64 &&
           (shape->key_dim == shape->value_dim ||
            (shape->key_dim == 48 && shape->value_dim == 32)) &&
           shape->key_dim <= 64 && !shape->value_in_key;
}

static size_t record_bytes(const banyan_block_shape *shape)
{
    return banyan_kernel_scalar.record_bytes(shape);
}

static void unpack(const banyan_block_shape *shape, const void *record, int32_t rows,
                   const banyan_plain *out)
{
    banyan_kernel_scalar.unpack(shape, record, rows, out);
}

static void restore(const banyan_block_shape *shape, void *record, int32_t rows,
                    const banyan_plain *in)
{
    banyan_kernel_restore(&banyan_kernel_scalar, shape, record, rows, in);
}

const banyan_kernel banyan_kernel_cuda = {.name = "cuda",
                                          .usable = usable,
                                          .supports = supports,
                                          .record_bytes = record_bytes,
                                          .device = &device,
                                          .unpack = unpack,
                                          .restore = restore};
const banyan_kernel banyan_kernel_hopper = {.name = "hopper",
                                            .usable = unusable,
                                            .supports = supports,
                                            .record_bytes = record_bytes,
                                            .device = &device,
                                            .unpack = unpack,
                                            .restore = restore};
