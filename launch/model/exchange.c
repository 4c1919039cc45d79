/* SPDX-License-Identifier: Apache-2.0 */
/* What moves between a cut matrix and its reader.
 *
 * q, k and v: rank `src` has computed some columns of all rows; rank `dst` wants q columns
 * of the heads that it holds, and of k and v only the rows whose block it keeps. Both walk
 * the same list of rectangles (columns of one head x rows of one block or of the chunk), one
 * to pack a message and the other to unpack it, so that a message carries no description of
 * itself:
 *
 *     for each query head of src's columns that dst holds:     [wanted rows][columns]
 *     for each KV head, k then v, and block that dst keeps:    [rows of the block][columns]
 *
 * Everything else is gathered by all from all.
 *
 * Where activations lie on a device, messages are packed and unpacked there, and pass through
 * the host's memory: for each exchange one copy out, and one in. One rank copies none. */
#include "launch/model/runner.h"

typedef enum direction { MEASURE, PACK, UNPACK, LOCAL } direction;

/* Goes over the rectangles of (src, dst). */
typedef struct rectangle_walk {
    model *m;
    int32_t layer;
    const chunk *c;
    int src, dst;
    direction direction;
    float *buffer; /* moves on */
    int64_t floats;
    moves *list;
} rectangle_walk;

/* One rectangle: `mine` where src has computed it, `home` where attend will read it. */
static void move_rectangle(rectangle_walk *w, float *mine, int64_t mine_stride, float *home,
                           int64_t home_stride, int64_t rows, int64_t width)
{
    const int32_t n = (int32_t)rows, numbers = (int32_t)width;
    w->floats += rows * width;
    if (w->direction == PACK)
        moves_put(w->list, (step_move){mine, w->buffer, mine_stride, width, n, numbers, 1});
    if (w->direction == UNPACK)
        moves_put(w->list, (step_move){w->buffer, home, width, home_stride, n, numbers, 1});
    if (w->direction == LOCAL)
        moves_put(w->list, (step_move){mine, home, mine_stride, home_stride, n, numbers, 1});
    if (w->direction == PACK || w->direction == UNPACK) w->buffer += rows * width;
}

static int holds_head(const model *m, int32_t layer, int64_t head, int rank)
{
    int32_t kv_head = (int32_t)(head / (m->shape.heads / m->shape.kv_heads));
    return banyan_plan_holds(m->plan, layer, kv_head, rank);
}

static void walk_q(rectangle_walk *w)
{
    const model *m = w->m;
    int64_t dim = m->shape.head_dim, all = m->layer[layer_of(m, w->layer)].q.columns;
    int64_t first = cut_first(all, w->src, m->ranks),
            end = cut_first(all, w->src + 1, m->ranks);
    for (int64_t at = first; at < end;) {
        int64_t next = smaller64((at / dim + 1) * dim, end);
        int held = holds_head(m, w->layer, at / dim, w->dst);
        while (next < end && holds_head(m, w->layer, next / dim, w->dst) == held)
            next = smaller64(next + dim, end);
        if (held)
            move_rectangle(w, m->work.cut + (at - first), end - first, m->work.q + at, all,
                           w->c->wanted, next - at);
        at = next;
    }
}

/* The rows of one KV head's k or v that dst keeps, one rectangle per run of blocks. */
static void walk_blocks(rectangle_walk *w, int64_t kv_head, float *mine, int64_t mine_stride,
                        float *home, int64_t width)
{
    const model *m = w->m;
    int64_t size = m->block_tokens, first = w->c->at / size;
    int64_t home_stride = (int64_t)m->shape.kv_heads * m->shape.head_dim;
    const int32_t *owner = m->work.owner + kv_head * (m->max_rows / size + 2);
    for (int64_t row = 0; row < w->c->rows;) {
        int64_t begin = row;
        int rank = owner[(w->c->at + row) / size - first];
        while (row < w->c->rows && owner[(w->c->at + row) / size - first] == rank)
            row = smaller64(((w->c->at + row) / size + 1) * size - w->c->at, w->c->rows);
        if (rank == w->dst)
            move_rectangle(w, mine + begin * mine_stride, mine_stride,
                           home + begin * home_stride, home_stride, row - begin, width);
    }
}

static void walk_kv(rectangle_walk *w)
{
    const model *m = w->m;
    int64_t dim = m->shape.head_dim, all = m->layer[layer_of(m, w->layer)].kv.columns;
    int64_t first = cut_first(all, w->src, m->ranks),
            end = cut_first(all, w->src + 1, m->ranks);
    for (int64_t part = first / dim; part * dim < end; part++) { /* k_0, v_0, k_1, v_1, .. */
        int64_t at = larger64(part * dim, first), next = smaller64((part + 1) * dim, end);
        float *home = (part % 2 ? m->work.v : m->work.k) + part / 2 * dim + at % dim;
        if (at < next && banyan_plan_holds(m->plan, w->layer, (int32_t)(part / 2), w->dst))
            walk_blocks(w, part / 2, m->work.cut_kv + (at - first), end - first, home,
                        next - at);
    }
}

static int64_t walk_run(model *m, int32_t layer, const chunk *c, int src, int dst,
                        direction direction, float *buffer)
{
    moves list = moves_of(m, false);
    rectangle_walk w = {m, layer, c, src, dst, direction, buffer, 0, &list};
    if (c->wanted > 0) walk_q(&w);
    walk_kv(&w);
    moves_end(&list);
    return w.floats;
}

static void find_owners(model *m, int32_t layer, const chunk *c)
{
    int64_t size = m->block_tokens, room = m->max_rows / size + 2;
    for (int32_t g = 0; g < m->shape.kv_heads; g++)
        for (int64_t b = c->at / size; b * size < c->at + c->rows; b++)
            m->work.owner[g * room + b - c->at / size] =
                banyan_sequence_owner(m->sequence, layer, g, b);
}

static float *there(const model *m, int which)
{
    return m->work.on[which].there;
}

/* Where on the device is what came to `received` of the host's side? */
static float *received_there(const model *m, const void *received)
{
    return there(m, ON_RECV) + ((const float *)received - m->work.recv);
}

static size_t float_bytes(int64_t count)
{
    return (size_t)count * sizeof(float);
}

/* What was packed on the device, to the host; it waits, so that what the last exchange received
 * may be written over as well. */
static banyan_status stage_sent(model *m, int64_t floats)
{
    if (m->ranks == 1) return BANYAN_OK;
    return device_result(
        m, floats > 0 ? device_fetch(m->device, &m->work.on[ON_SEND], float_bytes(floats))
                      : device_wait(m->device));
}

static banyan_status stage_received(model *m, int64_t floats)
{
    if (floats == 0) return BANYAN_OK;
    return device_result(m, device_send(m->device, &m->work.on[ON_RECV], float_bytes(floats)));
}

banyan_status exchange_heads(model *m, int32_t layer, const chunk *c)
{
    workspace *w = &m->work;
    int64_t sent = 0, received = 0;
    int sends = 0, recvs = 0;
    find_owners(m, layer, c);
    for (int peer = 0; peer < m->ranks; peer++) {
        if (peer == m->rank) continue;
        int64_t floats = walk_run(m, layer, c, m->rank, peer, PACK, there(m, ON_SEND) + sent);
        if (floats > 0)
            w->sends[sends++] = (banyan_message){peer, w->send + sent, float_bytes(floats)};
        sent += floats;
        floats = walk_run(m, layer, c, peer, m->rank, MEASURE, NULL);
        if (floats > 0)
            w->recvs[recvs++] = (banyan_message){peer, w->recv + received, float_bytes(floats)};
        received += floats;
    }
    walk_run(m, layer, c, m->rank, m->rank, LOCAL, NULL);
    banyan_status status = stage_sent(m, sent);
    if (!status) status = banyan_comm_exchange(m->comm, w->sends, sends, w->recvs, recvs);
    if (!status) status = stage_received(m, received);
    for (int i = 0; !status && i < recvs; i++)
        walk_run(m, layer, c, w->recvs[i].peer, m->rank, UNPACK,
                 received_there(m, w->recvs[i].data));
    return status;
}

/* Columns [head][width] of `rows` rows, from each head's home to all ranks. A home's message
 * holds its runs of consecutive heads one after the other, each [rows][columns]. */
static int64_t home_run(const model *m, int32_t layer, int32_t head, int32_t *end)
{
    int home = banyan_plan_home(m->plan, layer, head);
    *end = head + 1;
    while (*end < m->shape.heads && banyan_plan_home(m->plan, layer, *end) == home) ++*end;
    return home;
}

/* `rows` rows of what is at heads' homes, on the device or on the host. */
typedef struct homes {
    model *m;
    int32_t layer, rows, width;
    const float *mine; /* [rows][heads][width] */
    float *all;        /* likewise */
    bool is_host;
} homes;

/* Of the heads whose home is `home`: PACK from h->mine, UNPACK to h->all, LOCAL from one to the
 * other. */
static int64_t copy_homes(const homes *h, int home, float *packed, direction direction)
{
    const int32_t heads = h->m->shape.heads, rows = h->rows;
    int64_t floats = 0, stride = (int64_t)heads * h->width;
    moves list = h->is_host ? moves_on_host() : moves_of(h->m, false);
    for (int32_t head = 0, end; head < heads; head = end) {
        if (home_run(h->m, h->layer, head, &end) != home) continue;
        const int64_t columns = (int64_t)(end - head) * h->width;
        const int64_t at = (int64_t)head * h->width;
        const int32_t numbers = (int32_t)columns;
        if (direction == PACK)
            moves_put(&list, (step_move){h->mine + at, packed + floats, stride, columns, rows,
                                         numbers, 1});
        if (direction == UNPACK)
            moves_put(&list, (step_move){packed + floats, h->all + at, columns, stride, rows,
                                         numbers, 1});
        if (direction == LOCAL)
            moves_put(&list,
                      (step_move){h->mine + at, h->all + at, stride, stride, rows, numbers, 1});
        floats += rows * columns;
    }
    moves_end(&list);
    return floats;
}

static banyan_status gather_homes(const homes *h)
{
    model *m = h->m;
    workspace *w = &m->work;
    int64_t received = 0, sent = 0;
    int sends = 0, recvs = 0;
    if (m->ranks > 1)
        sent = copy_homes(h, m->rank, h->is_host ? w->send : there(m, ON_SEND), PACK);
    for (int peer = 0; peer < m->ranks; peer++) {
        if (peer == m->rank) continue;
        if (sent > 0) w->sends[sends++] = (banyan_message){peer, w->send, float_bytes(sent)};
        const int64_t floats = copy_homes(h, peer, NULL, MEASURE);
        if (floats > 0)
            w->recvs[recvs++] = (banyan_message){peer, w->recv + received, float_bytes(floats)};
        received += floats;
    }
    banyan_status status = h->is_host ? BANYAN_OK : stage_sent(m, sent);
    if (!status) status = banyan_comm_exchange(m->comm, w->sends, sends, w->recvs, recvs);
    if (!status && !h->is_host) status = stage_received(m, received);
    if (status) return status;
    copy_homes(h, m->rank, NULL, LOCAL);
    for (int i = 0; i < recvs; i++) {
        float *data = w->recvs[i].data;
        copy_homes(h, w->recvs[i].peer, h->is_host ? data : received_there(m, data), UNPACK);
    }
    return BANYAN_OK;
}

banyan_status exchange_out(model *m, int32_t layer, int32_t rows, const float **all)
{
    const homes h = {m, layer, rows, m->shape.head_dim, m->work.out, m->work.wide, false};
    *all = m->ranks == 1 ? h.mine : h.all;
    return m->ranks == 1 ? BANYAN_OK : gather_homes(&h);
}

banyan_status exchange_values(model *m, int32_t layer, int32_t rows, const float *mine,
                              float *all)
{
    const homes h = {m, layer, rows, 1, mine, all, true};
    return gather_homes(&h);
}

/* All get `sent`, this rank's columns on the host; columns_of points to `mine` and into
 * `received`, where the others' will be. */
static banyan_status exchange_columns(model *m, int64_t columns, int32_t rows,
                                      const float *mine, const float *sent,
                                      const float *received, int64_t *floats)
{
    workspace *w = &m->work;
    int sends = 0, recvs = 0;
    *floats = 0;
    for (int peer = 0; peer < m->ranks; peer++) {
        int64_t first = cut_first(columns, peer, m->ranks);
        int64_t count = cut_first(columns, peer + 1, m->ranks) - first;
        w->columns_of[peer] = (activation_columns){peer == m->rank ? mine : received + *floats,
                                                   first, count, count};
        if (peer == m->rank || count == 0) continue;
        w->recvs[recvs++] =
            (banyan_message){peer, w->recv + *floats, float_bytes(rows * count)};
        *floats += rows * count;
    }
    const int64_t count = w->columns_of[m->rank].count;
    for (int peer = 0; peer < m->ranks; peer++)
        if (peer != m->rank && count > 0)
            w->sends[sends++] =
                (banyan_message){peer, (void *)(uintptr_t)sent, float_bytes(rows * count)};
    return banyan_comm_exchange(m->comm, w->sends, sends, w->recvs, recvs);
}

banyan_status exchange_cut(model *m, int64_t columns, int32_t rows, const float *mine)
{
    const int64_t count =
        cut_first(columns, m->rank + 1, m->ranks) - cut_first(columns, m->rank, m->ranks);
    const float *sent = mine;
    int64_t floats;
    banyan_status status = BANYAN_OK;
    if (on_device(m) && m->ranks > 1) {
        sent = m->work.send;
        status = device_result(
            m, device_read(m->device, m->work.send, mine, float_bytes(rows * count)));
    }
    if (!status)
        status = exchange_columns(m, columns, rows, mine, sent, there(m, ON_RECV), &floats);
    return status ? status : stage_received(m, floats);
}

banyan_status exchange_host_cut(model *m, int64_t columns, int32_t rows, const float *mine)
{
    int64_t floats;
    return exchange_columns(m, columns, rows, mine, mine, m->work.recv, &floats);
}

banyan_status exchange_whole(model *m, int64_t columns, int32_t rows, const float *mine,
                             float *room, const float **all)
{
    *all = mine;
    if (m->ranks == 1) return BANYAN_OK;
    banyan_status status = exchange_cut(m, columns, rows, mine);
    if (status) return status;
    moves list = moves_of(m, false);
    moves_columns(&list, m, room, columns, rows, 1);
    moves_end(&list);
    *all = room;
    return BANYAN_OK;
}

/* Room for the largest message set of any exchange, in floats, for max_rows rows. */
int64_t exchange_floats(const model *m, int sending)
{
    const model_shape *s = &m->shape;
    int64_t rows = m->max_rows, q = (int64_t)s->heads * s->head_dim;
    int64_t kv = 2 * (int64_t)s->kv_heads * s->head_dim;
    int64_t cut =
        larger64(larger64(s->hidden, description_inner(&m->is)), larger64(q, m->is.experts));
    /* the head's logits, or every rank's choices of an id (head.c) */
    int64_t head = HEAD_ROWS * larger64(s->vocab, 2 * (int64_t)m->ranks);
    if (!sending) return larger64(rows * larger64(cut, q + kv), head);
    /* q goes to every holder of a head, k and v to one owner each; outputs to all from one
     * copy */
    int64_t most = 0;
    for (int32_t layer = 0; layer < s->layers + m->readings; layer++) {
        const struct layer *of = &m->layer[layer_of(m, layer)];
        int64_t floats = 0, end = of->q.first + of->q.count;
        for (int64_t at = of->q.first; at < end;) {
            int64_t next = smaller64((at / s->head_dim + 1) * s->head_dim, end);
            for (int peer = 0; peer < m->ranks; peer++)
                if (holds_head(m, layer, at / s->head_dim, peer)) floats += next - at;
            at = next;
        }
        most = larger64(most, floats + of->kv.count);
    }
    /* a rank's own columns of any matrix, on their way from a device */
    const int64_t own = on_device(m) ? (cut + m->ranks - 1) / m->ranks : 0;
    return rows * larger64(larger64(most, q), own);
}
