/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at a snapshot without a cache: its note, what is in it, whether all of it is
 * whole. */
#include "dist/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static banyan_status read_given_manifest(const char *folder, banyan_snapshot *s)
{
    if (!folder || !*folder)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "snapshot: folder is %s",
                           folder ? "empty" : "NULL");
#ifndef BANYAN_HAS_XXHASH
    return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                       "this build has no snapshots: xxhash.h was not there");
#endif
    return banyan_snapshot_read(folder, s);
}

/* ---- the note ---------------------------------------------------------------------------- */

static banyan_status read_note(const char *folder, const banyan_snapshot *s,
                               unsigned char **out)
{
    char path[BANYAN_PATH];
    size_t bytes = 0;
    *out = NULL;
    if (!s->note_bytes) return BANYAN_OK;
    banyan_status status = banyan_snapshot_path(path, folder, "note", s->id, -1);
    if (!status) status = banyan_file_all(path, (size_t)s->note_bytes, out, &bytes);
    if (!status &&
        (bytes != s->note_bytes || banyan_checksum(*out, bytes) != s->note_checksum)) {
        free(*out);
        *out = NULL;
        status =
            banyan_fail(BANYAN_ERR_FILE, "\"%s\" was damaged: its checksum is another", path);
    }
    return status;
}

banyan_status banyan_snapshot_note(const char *folder, void *note, size_t bytes, size_t *length)
{
    banyan_snapshot s = {0};
    unsigned char *all = NULL;
    if (!length || (bytes && !note))
        return banyan_fail(BANYAN_ERR_ARGUMENT, "snapshot_note: %s is NULL",
                           length ? "note" : "length");
    int lock = -1;
    if (folder) (void)banyan_folder_lock(folder, BANYAN_LOCK_OPEN, &lock);
    banyan_status status = read_given_manifest(folder, &s);
    if (!status && bytes) status = read_note(folder, &s, &all);
    banyan_folder_unlock(lock);
    if (!status) {
        *length = (size_t)s.note_bytes;
        if (all) memcpy(note, all, bytes < *length ? bytes : *length);
    }
    free(all);
    banyan_snapshot_free(&s);
    return status;
}

/* ---- what is in it ----------------------------------------------------------------------- */

/* Rules of a kind of layer, heads with the same one together. */
static void print_saved_kind(const banyan_snapshot *s, int32_t k, FILE *out)
{
    const banyan_saved_kind *kind = &s->kind[k];
    int32_t layers = 0, first = -1;
    for (int32_t l = 0; l < s->layers; l++) {
        if (s->kind_of_layer[l] != k) continue;
        if (first < 0) first = l;
        layers++;
    }
    if (!layers) return;
    fprintf(out, "  %d layers as layer %d: %d KV heads, key_dim %d, value_dim %d%s\n", layers,
            first, kind->kv_heads, kind->key_dim, kind->value_dim,
            kind->value_in_key ? ", in the key" : "");
    for (int32_t h = 0, end; h < s->heads; h = end) {
        for (end = h + 1; end < s->heads && !strcmp(kind->use[h], kind->use[end]);) end++;
        if (end - h > 1)
            fprintf(out, "    heads %d-%d: %s\n", h, end - 1, kind->use[h]);
        else
            fprintf(out, "    head %d: %s\n", h, kind->use[h]);
    }
}

static void print_sequence(const banyan_snapshot *s, int32_t i, FILE *out)
{
    int32_t l = 0, turns = 0;
    while (s->cache_layer[l] != l) l++;
    const banyan_layer *layer = &s->sequence[i].layer[l];
    for (int32_t n = 0; n < s->layers; n++)
        if (s->sequence[i].layer[n].turn_count > turns)
            turns = s->sequence[i].layer[n].turn_count;
    fprintf(out, "  sequence %d: %" PRId64 " tokens", i, layer->length);
    if (layer->floor > 0) fprintf(out, ", rows from %" PRId64 " on", layer->floor);
    if (turns > 1) fprintf(out, ", forked (family %" PRIu64 ")", s->sequence[i].family);
    fputc('\n', out);
}

banyan_status banyan_snapshot_print(const char *folder, FILE *out)
{
    banyan_snapshot s = {0};
    if (!out) return banyan_fail(BANYAN_ERR_ARGUMENT, "snapshot_print: out is NULL");
    const banyan_status status = read_given_manifest(folder, &s);
    if (status) return status;
    uint64_t blocks = 0, bytes = 0;
    for (int32_t r = 0; r < s.ranks; r++) {
        blocks += s.rank[r].blocks;
        bytes += s.rank[r].block_bytes;
    }
    fprintf(out,
            "snapshot %016" PRIx64 ", save %" PRIu64 ", of %d ranks: %" PRIu64
            " blocks, %.1f MiB\n",
            s.id, s.number, s.ranks, blocks, (double)bytes / (1 << 20));
    fprintf(out, "  %d layers, %d heads, blocks of %d tokens in %s\n", s.layers, s.heads,
            s.block_tokens, banyan_dtype_name(s.dtype));
    for (int32_t k = 0; k < s.kinds; k++) print_saved_kind(&s, k, out);
    for (int32_t i = 0; i < s.sequences; i++) print_sequence(&s, i, out);
    fprintf(out, "  a note of %" PRIu64 " bytes\n", s.note_bytes);
    banyan_snapshot_free(&s);
    return BANYAN_OK;
}

/* ---- is it whole? ------------------------------------------------------------------------ */

typedef struct verification {
    const char *folder;
    banyan_snapshot s;
    banyan_block_reader reader;
    char *block;
    int64_t bytes;
} verification;

static banyan_status verify_group(verification *x, const banyan_index *index,
                                  const banyan_saved_group *group)
{
    const banyan_saved_kind *kind = &x->s.kind[x->s.kind_of_layer[group->layer]];
    const banyan_block_shape shape = {.block_tokens = x->s.block_tokens,
                                      .key_dim = kind->key_dim,
                                      .value_dim = kind->value_dim,
                                      .dtype = x->s.dtype,
                                      .value_in_key = kind->value_in_key};
    const size_t bytes = banyan_plain_bytes(&shape);
    banyan_saved_block *entry = NULL;
    banyan_saved_sum *sum = NULL;
    banyan_status status = banyan_index_sums(index, &x->s, group, &sum);
    free(sum);
    if (!status) status = banyan_index_entries(index, &x->s, group, &entry);
    for (int64_t i = 0; i < group->count && !status; i++) {
        status = banyan_block_read(&x->reader, index, group, &entry[i], x->block, bytes);
        if (!status) x->bytes += (int64_t)bytes;
    }
    free(entry);
    return status;
}

static banyan_status verify_rank(verification *x, int32_t rank)
{
    banyan_index index = {0};
    banyan_status status = banyan_index_read(x->folder, &x->s, rank, &index);
    for (int32_t g = 0; g < index.groups && !status; g++)
        status = verify_group(x, &index, &index.group[g]);
    banyan_index_free(&index);
    return status;
}

banyan_status banyan_snapshot_verify(const char *folder, int64_t *bytes)
{
    verification x = {.folder = folder, .reader = {.folder = folder, .fd = -1}};
    unsigned char *note = NULL;
    int lock = -1;
    if (folder) (void)banyan_folder_lock(folder, BANYAN_LOCK_OPEN, &lock);
    banyan_status status = read_given_manifest(folder, &x.s);
    if (!status) status = read_note(folder, &x.s, &note);
    free(note);
    /* The largest there can be: 256 tokens, two rows of 576 fp32. */
    if (!status && !(x.block = malloc((size_t)256 * 2 * (BANYAN_MAX_DIM + 1) * sizeof(float))))
        status = banyan_fail(BANYAN_ERR_MEMORY, "verify: no memory for a block");
    for (int32_t r = 0; r < x.s.ranks && !status; r++) status = verify_rank(&x, r);
    if (!status && bytes) *bytes = x.bytes;
    banyan_block_reader_end(&x.reader);
    free(x.block);
    banyan_folder_unlock(lock);
    banyan_snapshot_free(&x.s);
    return status;
}
