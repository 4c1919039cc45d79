/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a snapshot. Lengths, floors and turns make the sequences what they were; from these follows
 * what this plan keeps on this rank, which is then looked up in the indexes of the ranks that saved,
 * KV head by KV head, and read file by file, front to back. */
#include "dist/device_cache.h"
#include "dist/plan.h"
#include "dist/snapshot.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct opening {
    const banyan_plan *plan;
    const char *folder;
    banyan_snapshot s;
    banyan_cache *c;
    banyan_index *index; /* [s.ranks] */
    banyan_saved_block *saved;
    banyan_move *move;
    int64_t moves, room;
    banyan_held *held; /* of one table */
} opening;

/* ---- does it fit? -------------------------------------------------------------------------- */

static banyan_status differs(const opening *o, const char *field, int64_t mine, int64_t theirs)
{
    return banyan_fail(BANYAN_ERR_CONFIG, "%s is %lld: the snapshot in \"%s\" has %lld", field,
                       (long long)mine, o->folder, (long long)theirs);
}

static banyan_status layer_differs(const opening *o, int32_t layer, const char *field,
                                   int64_t mine, int64_t theirs)
{
    const banyan_mark mark = {"layer", layer};
    return banyan_fail_at(differs(o, field, mine, theirs), &mark, 1);
}

static banyan_status fit_layer(const opening *o, int32_t layer)
{
    const banyan_saved_kind *kind = &o->s.kind[o->s.kind_of_layer[layer]];
    const banyan_shape *shape = &banyan_plan_kind(o->plan, layer)->shape;
    const int32_t reads = o->plan->spec.cache_layer[layer];
    if (shape->kv_heads != kind->kv_heads)
        return layer_differs(o, layer, "kv_heads", shape->kv_heads, kind->kv_heads);
    if (shape->key_dim != kind->key_dim)
        return layer_differs(o, layer, "key_dim", shape->key_dim, kind->key_dim);
    if (shape->value_dim != kind->value_dim)
        return layer_differs(o, layer, "value_dim", shape->value_dim, kind->value_dim);
    if (shape->block.value_in_key != kind->value_in_key)
        return layer_differs(o, layer, "value_in_key", shape->block.value_in_key,
                             kind->value_in_key);
    if (reads != o->s.cache_layer[layer])
        return layer_differs(o, layer, "cache_layer", reads, o->s.cache_layer[layer]);
    return BANYAN_OK;
}

static banyan_status fit(const opening *o)
{
    const banyan_spec *spec = &o->plan->spec;
    const banyan_snapshot *s = &o->s;
    if (spec->layers != s->layers) return differs(o, "layers", spec->layers, s->layers);
    if (spec->heads != s->heads) return differs(o, "heads", spec->heads, s->heads);
    if (spec->block_tokens != s->block_tokens)
        return differs(o, "block_tokens", spec->block_tokens, s->block_tokens);
    if (spec->cache_dtype != s->dtype)
        return banyan_fail(
            BANYAN_ERR_CONFIG, "cache_dtype is %s: the snapshot in \"%s\" has %s",
            banyan_dtype_name(spec->cache_dtype), o->folder, banyan_dtype_name(s->dtype));
    for (int32_t l = 0; l < s->layers; l++) {
        const banyan_status status = fit_layer(o, l);
        if (status) return status;
        for (int32_t i = 0; i < s->sequences; i++)
            if (s->sequence[i].layer[l].length > spec->max_tokens)
                return banyan_fail(BANYAN_ERR_CONFIG,
                                   "max_tokens is %lld: sequence %d of the snapshot in \"%s\" "
                                   "has %lld tokens",
                                   (long long)spec->max_tokens, (int)i, o->folder,
                                   (long long)s->sequence[i].layer[l].length);
    }
    if (spec->sequences < s->sequences)
        return differs(o, "sequences", spec->sequences, s->sequences);
    return BANYAN_OK;
}

/* ---- sequences ----------------------------------------------------------------------------- */

static banyan_status make_sequence(opening *o, const banyan_saved_sequence *from)
{
    banyan_cache *c = o->c;
    const banyan_spec *spec = &o->plan->spec;
    const int is_ours = o->s.plan_hash == o->plan->hash && o->s.ranks == o->plan->ranks;
    int32_t turns = 1;
    for (int32_t l = 0; l < o->s.layers; l++)
        if (from->layer[l].turn_count > turns) turns = from->layer[l].turn_count;
    banyan_sequence *s;
    const banyan_status status = banyan_sequence_take(c, turns, &s);
    if (status) return status;
    s->turn = from->turn;
    s->family = from->family;
    for (int32_t l = 0; l < o->s.layers; l++) {
        const banyan_layer *saved = &from->layer[l];
        banyan_layer *layer = &s->layer[l];
        layer->turns[0] = (banyan_turn){0, s->turn, s->family};
        layer->turn_count = 1;
        if (!banyan_keeps_own(o->plan, l)) continue;
        layer->length = layer->written = saved->length;
        layer->longest = saved->longest;
        /* What the plan has room for: as after a call of max_rows rows. */
        layer->floor = saved->length - spec->max_rows - spec->rollback_tokens;
        if (layer->floor < saved->floor) layer->floor = saved->floor;
        layer->clean = is_ours ? banyan_clean_blocks(o->plan, layer->length) : 0;
        layer->turn_count = saved->turn_count;
        memcpy(layer->turns, saved->turns, (size_t)saved->turn_count * sizeof *saved->turns);
    }
    s->is_live = 1;
    c->live++;
    for (int32_t l = 0; l < o->s.layers; l++)
        if (banyan_keeps_own(o->plan, l)) banyan_count_kept(s, l);
    return BANYAN_OK;
}

static banyan_status make_sequences(opening *o)
{
    banyan_cache *c = o->c;
    banyan_status status = BANYAN_OK;
    banyan_count_begin(c);
    for (int32_t i = 0; i < o->s.sequences && !status; i++)
        status = make_sequence(o, &o->s.sequence[i]);
    if (!status) status = banyan_count_check(c);
    if (status) return status;
    banyan_count_end(c);
    for (int32_t i = 0; i < o->plan->pools; i++) o->room += c->pool[i].used[o->plan->rank];
    c->next_id = o->s.next_id;
    if (o->s.plan_hash == o->plan->hash && o->s.ranks == o->plan->ranks) c->saved_id = o->s.id;
    return BANYAN_OK;
}

/* ---- tables, and what is to be read -------------------------------------------------------- */

/* A KV head's entries in all indexes. */
typedef struct entries {
    banyan_saved_block *entry;
    int64_t count;
    int32_t rank;
} entries;

static banyan_status find_entries(const opening *o, int32_t layer, int32_t kv_head, entries *of,
                                  int32_t *count)
{
    for (int32_t r = 0; r < o->s.ranks; r++) {
        const banyan_saved_group *group = banyan_index_find(&o->index[r], layer, kv_head);
        if (!group) continue;
        entries *e = &of[*count];
        const banyan_status status =
            banyan_index_entries(&o->index[r], &o->s, group, &e->entry);
        if (status) return status;
        e->count = group->count;
        e->rank = r;
        ++*count;
    }
    return BANYAN_OK;
}

static banyan_status not_there(const opening *o, const banyan_sequence *s, int32_t layer,
                               int32_t kv_head, int64_t block)
{
    const int32_t head = kv_head * banyan_plan_kind(o->plan, layer)->shape.group;
    return banyan_fail(
        BANYAN_ERR_CONFIG,
        "rules: block %lld of sequence %d, layer %d, KV head %d is not in the snapshot in "
        "\"%s\": it was let go there (rule \"%s\"), and \"%s\" keeps it%s",
        (long long)block, (int)(s - o->c->sequence), (int)layer, (int)kv_head, o->folder,
        o->s.kind[o->s.kind_of_layer[layer]].use[head],
        banyan_plan_kind(o->plan, layer)->use[head],
        o->plan->spec.evict ? "" : " (evict is false)");
}

/* A record for the block, and where its rows come from. */
static banyan_status add_move(opening *o, const banyan_sequence *s, int32_t layer, int32_t j,
                              int64_t block, const entries *of, int32_t count, void **record)
{
    const int32_t kv_head = banyan_cache_part(o->c, layer)->mine[j].kv_head;
    const uint64_t id = banyan_turn_of(&s->layer[layer], block)->id;
    const int64_t left = s->layer[layer].length - block * o->s.block_tokens;
    const banyan_saved_block *found = NULL;
    int32_t i = 0;
    for (; i < count && !found; i++)
        found = banyan_entry_find(of[i].entry, of[i].count, block, id);
    if (!found) return not_there(o, s, layer, kv_head, block);
    const banyan_index *index = &o->index[of[i - 1].rank];
    if (found->rows != (left < o->s.block_tokens ? left : o->s.block_tokens))
        return banyan_fail(BANYAN_ERR_FILE,
                           "\"%s\": block %lld of layer %d, KV head %d has %d rows: expected "
                           "those of its sequence",
                           index->path, (long long)block, (int)layer, (int)kv_head,
                           (int)found->rows);
    *record = banyan_record_take(o->c, layer, j);
    if (!*record || o->moves == o->room)
        return banyan_fail(BANYAN_ERR_MEMORY, "open: a record is missing that was counted");
    o->saved[o->moves] = *found;
    o->move[o->moves] = (banyan_move){.shape = &banyan_plan_kind(o->plan, layer)->shape.block,
                                      .record = *record,
                                      .saved = &o->saved[o->moves],
                                      .layer = layer,
                                      .kv_head = kv_head,
                                      .rank = index->rank};
    o->moves++;
    return BANYAN_OK;
}

/* Chunks are shared with the sequence before it that has most blocks in common from the first on. */
static banyan_status fill_table(opening *o, banyan_sequence *s, int32_t layer, int32_t j,
                                int64_t count)
{
    banyan_cache *c = o->c;
    banyan_kept *to = &s->layer[layer].kept[j];
    const banyan_kept *best = NULL;
    int64_t most = 0;
    for (const banyan_sequence *other = c->sequence; other < s; other++) {
        if (!other->is_live || other->family != s->family) continue;
        const banyan_kept *kept = &other->layer[layer].kept[j];
        int64_t n = 0;
        while (n < count && n < kept->count &&
               banyan_kept_at(kept, n).record == o->held[n].record)
            n++;
        if (n <= most) continue;
        most = n;
        best = kept;
    }
    if (best) banyan_kept_share(to, best, most);
    banyan_status status = BANYAN_OK;
    for (int64_t i = most; i < count && !status; i++)
        status = banyan_kept_add(c, to, o->held[i]);
    if (c->device) banyan_device_note(c, s, layer, j, 0);
    return status;
}

static banyan_status make_table(opening *o, banyan_sequence *s, int32_t layer, int32_t j,
                                const entries *of, int32_t of_count)
{
    const banyan_mine *mine = &banyan_cache_part(o->c, layer)->mine[j];
    const banyan_kind *kind = banyan_plan_kind(o->plan, layer);
    const banyan_layer *l = &s->layer[layer];
    const int64_t blocks = banyan_blocks(l->length, o->s.block_tokens);
    const int64_t room = banyan_plan_capacity(o->plan, kind, mine->kv_head, o->plan->rank);
    int64_t count = 0;
    for (int64_t b = 0; b < blocks; b++) {
        const banyan_turn *turn = banyan_turn_of(l, b);
        if (!banyan_holds(s, layer, mine->kv_head, b) ||
            banyan_head_owner(&kind->head[mine->kv_head], turn->turn, b) != mine->index)
            continue;
        if (count == room)
            return banyan_fail(BANYAN_ERR_MEMORY,
                               "open: layer %d, KV head %d: a sequence has more blocks here "
                               "than the %lld that were planned (sequences is %d)",
                               (int)layer, (int)mine->kv_head, (long long)room,
                               (int)o->plan->spec.sequences);
        void *record = NULL;
        const banyan_sequence *other = banyan_is_shared_before(s, layer, mine->kv_head, b);
        if (other) {
            const banyan_kept *kept = &other->layer[layer].kept[j];
            const int64_t place = banyan_kept_find(kept, b);
            if (place == kept->count || banyan_kept_at(kept, place).block != b)
                return banyan_fail(BANYAN_ERR_FILE,
                                   "\"%s\": sequences share block %lld of layer %d, and deal "
                                   "it differently",
                                   o->folder, (long long)b, (int)layer);
            record = banyan_kept_at(kept, place).record;
        } else {
            const banyan_status status = add_move(o, s, layer, j, b, of, of_count, &record);
            if (status) return status;
        }
        o->held[count++] = (banyan_held){b, record};
    }
    return fill_table(o, s, layer, j, count);
}

/* Of one KV head, of all sequences. */
static banyan_status make_tables(opening *o, int32_t layer, int32_t j, entries *of)
{
    int32_t count = 0;
    banyan_status status =
        find_entries(o, layer, banyan_cache_part(o->c, layer)->mine[j].kv_head, of, &count);
    for (int32_t i = 0; i < o->s.sequences && !status; i++)
        status = make_table(o, &o->c->sequence[i], layer, j, of, count);
    for (int32_t i = 0; i < count; i++) free(of[i].entry);
    return status;
}

static banyan_status read_indexes(opening *o)
{
    banyan_status status = BANYAN_OK;
    o->index = calloc((size_t)o->s.ranks, sizeof *o->index);
    if (!o->index) return banyan_fail(BANYAN_ERR_MEMORY, "open: no memory for indexes");
    for (int32_t r = 0; r < o->s.ranks && !status; r++)
        status = banyan_index_read(o->folder, &o->s, r, &o->index[r]);
    return status;
}

static banyan_status list_all(opening *o)
{
    const banyan_plan *plan = o->plan;
    int64_t most = 0;
    for (int32_t k = 0; k < plan->kinds; k++)
        for (int32_t g = 0; g < plan->kind[k].shape.kv_heads; g++) {
            const int64_t room = banyan_plan_capacity(plan, &plan->kind[k], g, plan->rank);
            if (room > most) most = room;
        }
    entries *of = calloc((size_t)o->s.ranks, sizeof *of);
    o->held = calloc((size_t)most + 1, sizeof *o->held);
    o->saved = calloc((size_t)o->room + 1, sizeof *o->saved);
    o->move = calloc((size_t)o->room + 1, sizeof *o->move);
    banyan_status status =
        of && o->held && o->saved && o->move
            ? BANYAN_OK
            : banyan_fail(BANYAN_ERR_MEMORY, "open: no memory to list %lld blocks",
                          (long long)o->room);
    for (int32_t layer = 0; layer < plan->spec.layers; layer++)
        for (int32_t j = 0; j < banyan_kept_count(o->c, layer) && !status; j++)
            status = make_tables(o, layer, j, of);
    free(of);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const banyan_move *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    if (x->saved->file != y->saved->file) return x->saved->file < y->saved->file ? -1 : 1;
    return x->saved->offset < y->saved->offset ? -1 : x->saved->offset > y->saved->offset;
}

static banyan_status load_file(opening *o, int64_t first, int64_t end)
{
    char path[BANYAN_PATH];
    const banyan_move *one = &o->move[first];
    const banyan_saved_file *file = &o->index[one->rank].file[one->saved->file];
    banyan_status status = banyan_snapshot_path(path, o->folder, "blocks", file->id, one->rank);
    if (status) return status;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return banyan_file_failed(path, "cannot be opened");
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    for (int64_t i = first; i < end; i++) {
        o->move[i].fd = fd;
        o->move[i].path = path;
    }
    status = banyan_blocks_load(o->c, &o->move[first], end - first);
    close(fd);
    return status;
}

static banyan_status load_all(opening *o)
{
    banyan_status status = BANYAN_OK;
    qsort(o->move, (size_t)o->moves, sizeof *o->move, by_place);
    for (int64_t first = 0, end = 0; first < o->moves && !status; first = end) {
        const banyan_move *one = &o->move[first];
        while (end < o->moves && o->move[end].rank == one->rank &&
               o->move[end].saved->file == one->saved->file)
            end++;
        status = load_file(o, first, end);
    }
    return status;
}

/* ---- the whole way ------------------------------------------------------------------------- */

/* Every rank reads the manifest for itself, and finds what rank 0 finds. Collective. */
static banyan_status read_manifest(opening *o)
{
    banyan_comm *comm = o->plan->comm;
    banyan_status status = banyan_snapshot_possible(o->plan);
    if (!status && (!o->folder || !*o->folder))
        status = banyan_fail(BANYAN_ERR_ARGUMENT, "open: folder is %s",
                             o->folder ? "empty" : "NULL");
    if (!status) status = banyan_snapshot_read(o->folder, &o->s);
    status = banyan_comm_agree(comm, status);
    if (status) return status;
    uint64_t first = o->s.checksum;
    status = banyan_comm_broadcast(comm, &first, sizeof first, 0);
    if (status) return status;
    if (first != o->s.checksum)
        status = banyan_fail(BANYAN_ERR_FILE,
                             "\"%s\" has another snapshot here than on rank 0: expected a "
                             "folder that all ranks share",
                             o->folder);
    if (!status) status = fit(o);
    if (!status) status = read_indexes(o);
    return banyan_comm_agree(comm, status);
}

static banyan_status fill(opening *o)
{
    const int device = banyan_device_enter(o->c);
    banyan_status status = make_sequences(o);
    if (!status) status = list_all(o);
    if (!status) status = load_all(o);
    banyan_device_leave(o->c, device);
    return banyan_comm_agree(o->plan->comm, status);
}

banyan_status banyan_cache_open(const banyan_plan *plan, void *stream, const char *folder,
                                banyan_cache **out)
{
    if (!plan || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "open: %s is NULL", plan ? "out" : "plan");
    opening o = {.plan = plan, .folder = folder};
    int lock = -1;
    if (folder) (void)banyan_folder_lock(folder, BANYAN_LOCK_OPEN, &lock);
    banyan_status status = read_manifest(&o);
    if (!status) status = banyan_cache_create(plan, stream, &o.c);
    if (!status) status = fill(&o);
    banyan_folder_unlock(lock);
    for (int32_t r = 0; o.index && r < o.s.ranks; r++) banyan_index_free(&o.index[r]);
    free(o.index);
    banyan_snapshot_free(&o.s);
    free(o.saved);
    free(o.move);
    free(o.held);
    if (status)
        banyan_cache_destroy(o.c);
    else
        *out = o.c;
    return status;
}
