/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a snapshot. Lengths, floors and turns make the sequences what they were; from these
 * follows what this plan keeps on this rank, which is then looked up in the indexes of the
 * ranks that saved, KV head by KV head, and read file by file, front to back. */
#include "dist/snapshot_open.h"

#include "dist/device_cache.h"
#include "dist/plan.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- does it fit? ------------------------------------------------------------------------ */

static banyan_status differs(const banyan_opening *o, const char *field, int64_t mine,
                             int64_t theirs)
{
    return banyan_fail(BANYAN_ERR_CONFIG, "%s is %lld: the snapshot in \"%s\" has %lld", field,
                       (long long)mine, o->folder, (long long)theirs);
}

static banyan_status layer_differs(const banyan_opening *o, int32_t layer, const char *field,
                                   int64_t mine, int64_t theirs)
{
    const banyan_mark mark = {"layer", layer};
    return banyan_fail_at(differs(o, field, mine, theirs), &mark, 1);
}

static banyan_status fit_layer(const banyan_opening *o, int32_t layer)
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

static banyan_status fit(const banyan_opening *o)
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

/* ---- sequences --------------------------------------------------------------------------- */

static banyan_status make_sequence(banyan_opening *o, const banyan_saved_sequence *from)
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
        /* One that had gone back goes on where it ended, though this plan lets it go back less
         * far. */
        layer->longest = saved->length + spec->rollback_tokens;
        if (layer->longest > saved->longest) layer->longest = saved->longest;
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

static banyan_status make_sequences(banyan_opening *o)
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

/* ---- reading ----------------------------------------------------------------------------- */

static int by_file_offset(const void *a, const void *b)
{
    const banyan_move *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    if (x->saved->file != y->saved->file) return x->saved->file < y->saved->file ? -1 : 1;
    return x->saved->offset < y->saved->offset ? -1 : x->saved->offset > y->saved->offset;
}

static banyan_status load_file(banyan_opening *o, int64_t first, int64_t end)
{
    char path[BANYAN_PATH];
    const banyan_move *one = &o->move[first];
    const banyan_saved_file *file = &o->index[one->rank].file[one->saved->file];
    banyan_status status = banyan_snapshot_path(path, o->folder, "blocks", file->id, one->rank);
    if (status) return status;
    int fd;
    status = banyan_file_open(path, &fd);
    if (status) return status;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    for (int64_t i = first; i < end; i++) {
        o->move[i].fd = fd;
        o->move[i].path = path;
    }
    status = banyan_blocks_load(o->c, &o->move[first], end - first);
    close(fd);
    return status;
}

static banyan_status load_all(banyan_opening *o)
{
    banyan_status status = BANYAN_OK;
    qsort(o->move, (size_t)o->moves, sizeof *o->move, by_file_offset);
    for (int64_t first = 0, end = 0; first < o->moves && !status; first = end) {
        const banyan_move *one = &o->move[first];
        while (end < o->moves && o->move[end].rank == one->rank &&
               o->move[end].saved->file == one->saved->file)
            end++;
        status = load_file(o, first, end);
    }
    return status;
}

/* ---- the whole way ----------------------------------------------------------------------- */

static banyan_status read_indexes(banyan_opening *o)
{
    banyan_status status = BANYAN_OK;
    o->index = calloc((size_t)o->s.ranks, sizeof *o->index);
    if (!o->index) return banyan_fail(BANYAN_ERR_MEMORY, "open: no memory for indexes");
    for (int32_t r = 0; r < o->s.ranks && !status; r++)
        status = banyan_index_read(o->folder, &o->s, r, &o->index[r]);
    return status;
}

/* Every rank reads the manifest for itself, and finds what rank 0 finds. Collective. */
static banyan_status read_own_manifest(banyan_opening *o)
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

static banyan_status load_cache(banyan_opening *o)
{
    const int device = banyan_device_enter(o->c);
    banyan_status status = make_sequences(o);
    if (!status) status = banyan_open_tables(o);
    if (!status) status = load_all(o);
    banyan_device_leave(o->c, device);
    return banyan_comm_agree(o->plan->comm, status);
}

banyan_status banyan_cache_open(const banyan_plan *plan, void *stream, const char *folder,
                                banyan_cache **out)
{
    if (!plan || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "open: %s is NULL", plan ? "out" : "plan");
    banyan_opening o = {.plan = plan, .folder = folder};
    int lock = -1;
    if (folder) (void)banyan_folder_lock(folder, BANYAN_LOCK_OPEN, &lock);
    banyan_status status = read_own_manifest(&o);
    if (!status) status = banyan_cache_create(plan, stream, &o.c);
    if (!status) status = load_cache(&o);
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
