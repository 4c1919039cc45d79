/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, closing and running a model: what model.h promises. */
#include "launch/launch.h"
#include "launch/model/runner.h"

#include <cblas.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All ranks end with the words of the first one that failed. */
static banyan_status agree(model *m, banyan_status mine)
{
    return agree_words(m->comm, mine, m->why, WHY);
}

/* The model's own rules, where none are asked for: what its layers read, but for windows
 * that no sequence of this length fills. `rules` [layers]. */
static void fill_own_rules(const model *m, banyan_spec *s, banyan_rule *rules)
{
    int32_t count = 0;
    for (int32_t l = 0; l < m->shape.layers; l++) {
        const layer_kind *kind = &m->is.layer[l];
        int64_t window = 0;
        sscanf(kind->use, "sink_window sink=0 window=%" SCNd64, &window);
        if (!kind->use[0] || (window > 0 && window >= s->max_tokens)) continue;
        rules[count++] = (banyan_rule){l, l, 0, -1, kind->use};
    }
    s->rules = rules;
    s->rule_count = count;
}

/* Sinks of all layers and of the further readings of the last, for free(); NULL: none. */
static banyan_status spread_sinks(const model *m, float **out)
{
    const size_t heads = (size_t)m->shape.heads, layers = (size_t)m->shape.layers;
    const size_t readings = (size_t)m->readings;
    *out = NULL;
    if (!m->sinks) return BANYAN_OK;
    *out = malloc((layers + readings) * heads * sizeof **out);
    if (!*out) return BANYAN_ERR_MEMORY;
    memcpy(*out, m->sinks, layers * heads * sizeof **out);
    for (size_t i = 0; i < readings; i++)
        memcpy(*out + (layers + i) * heads, m->sinks + (layers - 1) * heads,
               heads * sizeof **out);
    return BANYAN_OK;
}

/* `rules`: room for the model's own, which are read where none are asked for. */
static banyan_status create_model_plan(model *m, const banyan_spec *spec, banyan_rule *rules,
                                       const float *sinks)
{
    banyan_spec s = *spec;
    s.sinks = sinks;
    s.layers = m->shape.layers + m->readings;
    s.heads = m->shape.heads;
    s.kv_heads = m->shape.kv_heads;
    s.key_dim = s.value_dim = m->shape.head_dim;
    s.shape_count = 0; /* of a config that speaks of other values than the checkpoint's */
    s.scale = (float)m->is.attention_scale;
    const double sharper = dual_sharpness(&m->is, (double)spec->max_tokens);
    if (sharper != 1)
        s.scale = (float)(sharper * (m->is.attention_scale > 0 ? m->is.attention_scale
                                                               : 1 / sqrt(s.key_dim)));
    s.in_dtype = s.out_dtype = BANYAN_F32;
    s.out = BANYAN_OUT_HOME;
    if (s.rule_count == 0) fill_own_rules(m, &s, rules);
    banyan_status status = banyan_plan_create(&s, m->comm, &m->plan);
    if (status) snprintf(m->why, WHY, "%s", banyan_error_message());
    return status;
}

/* All ranks have the memory, or none goes on to the plan, where others would wait for it. */
static banyan_status make_model_plan(model *m, const banyan_spec *spec)
{
    banyan_rule *rules = calloc((size_t)m->shape.layers, sizeof *rules);
    float *sinks = NULL;
    banyan_status status = rules ? spread_sinks(m, &sinks) : BANYAN_ERR_MEMORY;
    if (status)
        snprintf(m->why, WHY, "out of memory for the rules of %d layers", m->shape.layers);
    status = agree(m, status);
    if (!status) status = create_model_plan(m, spec, rules, sinks);
    free(rules);
    free(sinks);
    return status;
}

static void free_rope(model *m, int32_t index)
{
    rope_free(&m->rope[index]);
    device_memory_free(m->device, m->turns[index]);
    m->turns[index] = NULL;
}

/* A device is given frequencies as whole turns a token. */
static banyan_status make_rope(model *m, int32_t index, int64_t tokens)
{
    rope *r = &m->rope[index];
    free_rope(m, index);
    banyan_status status = rope_make(r, &m->is.rope[index], (double)tokens);
    if (status || !on_device(m)) return status;
    const size_t bytes = (size_t)r->pairs * sizeof(double);
    m->turns[index] = malloc(bytes + 1);
    if (!m->turns[index]) return BANYAN_ERR_MEMORY;
    for (int32_t i = 0; i < r->pairs; i++)
        m->turns[index][i] = r->frequency[i] / 6.283185307179586;
    return device_keep(m->device, (void **)&m->turns[index], bytes);
}

/* Those of rotary embeddings that depend on the length are made for the whole sequence's. */
static banyan_status make_ropes(model *m, int64_t tokens)
{
    for (int32_t i = 0; i < m->is.ropes; i++) {
        banyan_status status = make_rope(m, i, tokens);
        if (!status) continue;
        snprintf(m->why, WHY, "rotary embeddings: %s",
                 status == BANYAN_ERR_MEMORY ? "out of memory" : m->device->why);
        return status;
    }
    return BANYAN_OK;
}

/* What the description cannot do at this length, or with these blocks. */
static banyan_status check_length(model *m, const banyan_spec *spec)
{
    const description *d = &m->is;
    if (spec->max_tokens > dual_reach(d) && m->device->row->memory->is_apart) {
        snprintf(m->why, WHY,
                 "%" PRId64 " tokens: beyond %" PRId64 " this model has dual chunk attention, "
                 "which device \"%s\" cannot join; expected execution.device cpu",
                 spec->max_tokens, dual_reach(d), spec->device ? spec->device : "cpu");
        return BANYAN_ERR_UNSUPPORTED;
    }
    if (d->block_tokens > 0 && spec->rule_count == 0 && spec->block_tokens != d->block_tokens) {
        snprintf(m->why, WHY,
                 "cache.block_tokens is %d; this model's own pattern is in blocks of %d tokens",
                 (int)spec->block_tokens, (int)d->block_tokens);
        return BANYAN_ERR_CONFIG;
    }
    return BANYAN_OK;
}

static banyan_status make_cache(model *m, const banyan_spec *spec)
{
    banyan_status status = check_length(m, spec);
    if (!status) status = agree(m, make_ropes(m, spec->max_tokens));
    if (!status) status = make_model_plan(m, spec);
    if (status) return status;
    status =
        single_create_on(m->comm, m->plan, device_stream(m->device), &m->cache, &m->sequence);
    if (status) {
        snprintf(m->why, WHY, "%s", banyan_error_message());
        return status;
    }
    m->max_rows = banyan_plan_spec(m->plan)->max_rows;
    m->block_tokens = banyan_plan_spec(m->plan)->block_tokens;
    return workspace_make(m);
}

static void drop_cache(model *m)
{
    graph_drop(m);
    workspace_free(m);
    banyan_cache_destroy(m->cache);
    banyan_plan_destroy(m->plan);
    m->cache = NULL;
    m->sequence = m->parent = NULL;
    m->plan = NULL;
}

/* The checkpoint's shape and files; *bytes: what this rank's share of the weights takes. */
static banyan_status open_files(model *m, const char *dir, int64_t *bytes)
{
    banyan_status status = description_read(dir, &m->is, m->why, WHY);
    if (status) return status;
    m->shape = m->is.shape;
    m->files = safetensors_open(dir, m->why, WHY);
    if (!m->files) return BANYAN_ERR_CONFIG;
    status = digest_make(dir, m->files, &m->digest, m->why, WHY);
    return status ? status : weights_find(m, bytes);
}

/* Each rank reads its own disk. */
static banyan_status compare_digests(model *m)
{
    uint64_t first = m->digest;
    banyan_status status = banyan_comm_broadcast(m->comm, &first, sizeof first, 0);
    if (status) {
        snprintf(m->why, WHY, "%s", banyan_error_message());
    } else if (m->digest != first) {
        snprintf(m->why, WHY,
                 "rank %d reads another model than rank 0: digest %016" PRIx64
                 ", not %016" PRIx64,
                 m->rank, m->digest, first);
        status = BANYAN_ERR_CONFIG;
    }
    return agree(m, status);
}

banyan_status model_open(const char *dir, const banyan_spec *spec, banyan_comm *comm,
                         device *device, const model_loading *loading, model **out, char *why,
                         size_t why_bytes)
{
    model *m = calloc(1, sizeof *m);
    banyan_status status = m ? BANYAN_OK : BANYAN_ERR_MEMORY;
    snprintf(why, why_bytes, "out of memory");
    status = agree_words(comm, status, why, why_bytes);
    if (status) {
        free(m);
        return status;
    }
    m->comm = comm;
    m->device = device;
    m->step = device->row->steps ? device->row->steps : &step_row_cpu;
    m->rank = banyan_comm_rank(comm);
    m->ranks = banyan_comm_size(comm);
    openblas_set_num_threads(1);
    int64_t bytes = 0;
    status = agree(m, open_files(m, dir, &bytes));
    if (!status) status = compare_digests(m);
    if (!status) status = agree_room(comm, bytes, "the model's weights", m->why, WHY);
    if (!status) status = agree(m, weights_load(m, loading));
    if (!status) status = make_cache(m, spec);
    if (!status) {
        *out = m;
        return BANYAN_OK;
    }
    snprintf(why, why_bytes, "%s", m->why);
    model_close(m);
    return status;
}

banyan_status model_reset(model *m, const banyan_spec *spec, char *why, size_t why_bytes)
{
    drop_cache(m);
    banyan_status status = make_cache(m, spec);
    if (status) snprintf(why, why_bytes, "%s", m->why);
    return status;
}

void model_close(model *m)
{
    if (!m) return;
    drop_cache(m);
    for (int32_t i = 0; i < ROPES; i++) free_rope(m, i);
    if (!m->is_twin) {
        weights_free(m);
        description_free(&m->is);
        safetensors_close(m->files);
    }
    free(m);
}

banyan_status model_twin(const model *m, model **out)
{
    model *twin = malloc(sizeof *twin);
    if (!twin) return BANYAN_ERR_MEMORY;
    *twin = *m;
    twin->is_twin = true;
    twin->plan = NULL;
    twin->cache = NULL;
    twin->sequence = twin->parent = NULL;
    twin->readings = twin->reading = 0;
    twin->matrix_work = 0;
    memset(&twin->work, 0, sizeof twin->work);
    twin->graph = (step_graph){0};
    memset(twin->rope, 0, sizeof twin->rope);
    memset(twin->turns, 0, sizeof twin->turns);
    *out = twin;
    return BANYAN_OK;
}

banyan_status model_unchanged(model *m)
{
    const bool good = safetensors_unchanged(m->files, m->why, WHY);
    return agree(m, good ? BANYAN_OK : BANYAN_ERR_CONFIG);
}

void model_add_readings(model *m, int32_t count)
{
    m->readings = count;
    m->reading = 0;
}

void model_choose_reading(model *m, int32_t reading)
{
    m->reading = reading;
}

const model_shape *model_get_shape(const model *m)
{
    return &m->shape;
}

uint64_t model_get_digest(const model *m)
{
    return m->digest;
}

int64_t model_workspace(const model *m)
{
    return m->work.bytes;
}

const banyan_plan *model_plan(const model *m)
{
    return m->plan;
}

banyan_cache *model_cache(model *m)
{
    return m->cache;
}

banyan_status model_fork(model *m, int64_t tokens, banyan_status mine)
{
    banyan_sequence *fork = NULL;
    banyan_status status = mine ? mine : banyan_sequence_fork(m->sequence, tokens, 0, &fork);
    snprintf(m->why, WHY, "%s", mine == BANYAN_ERR_MEMORY ? "out of memory" : "");
    if (status && !mine) snprintf(m->why, WHY, "%s", banyan_error_message());
    status = agree_words(m->comm, status, m->why, WHY);
    if (status) {
        banyan_sequence_destroy(fork);
        return status;
    }
    m->why[0] = 0;
    m->parent = m->sequence;
    m->sequence = fork;
    return BANYAN_OK;
}

void model_back(model *m)
{
    if (!m->parent) return;
    banyan_sequence_destroy(m->sequence);
    m->sequence = m->parent;
    m->parent = NULL;
}

int64_t model_matrix_work(const model *m)
{
    return m->matrix_work;
}

const char *model_message(const model *m)
{
    return m->why[0] ? m->why : banyan_error_message();
}

static banyan_status check_call(model *m, int64_t at, const uint32_t *ids, int64_t count,
                                int32_t rows, const model_probe *probe)
{
    m->why[0] = 0;
    if (count < 1 || rows < 0 || rows > m->max_rows || rows > count)
        snprintf(m->why, WHY,
                 "%d rows of %" PRId64 " tokens are asked for; expected 0 .. %d, and no more "
                 "than the tokens",
                 (int)rows, count, (int)m->max_rows);
    if (probe && (probe->layer < 0 || probe->layer >= m->shape.layers || rows == 0))
        snprintf(m->why, WHY, "the probe asks for layer %d in %d rows; there are %d layers",
                 (int)probe->layer, (int)rows, (int)m->shape.layers);
    for (int64_t i = 0; i < count && !m->why[0]; i++)
        if (ids[i] >= (uint32_t)m->shape.vocab)
            snprintf(m->why, WHY,
                     "id %" PRIu32 " at token %" PRId64 " is beyond the vocabulary of %d ids",
                     ids[i], at + i, (int)m->shape.vocab);
    if (!m->why[0] && probe && probe->watch)
        return watch_check(m, at + count, rows, probe->watch);
    return m->why[0] ? BANYAN_ERR_ARGUMENT : BANYAN_OK;
}

/* How many tokens to take next: whole blocks where possible, and never so many that the rows
 * asked for would not fit into the last chunk. */
static int32_t next_rows(const model *m, int64_t at, int64_t left, int32_t rows)
{
    int64_t take = left < m->max_rows ? left : m->max_rows;
    if (take < left) {
        int64_t over = (at + take) % m->block_tokens;
        if (over < take) take -= over;
    }
    if (take < left && left - take < rows) take = left - rows;
    return (int32_t)take;
}

banyan_status model_forward(model *m, int64_t at, const uint32_t *ids, int64_t count,
                            int32_t rows, float *logits, uint32_t *greedy,
                            const model_probe *probe, void (*progress)(void *arg, int64_t done),
                            void *arg)
{
    banyan_status status = check_call(m, at, ids, count, rows, probe);
    bool is_replayed = false;
    if (!status && count == 1 && rows == 1 && !probe)
        status = graph_run(m, &(chunk){at, 1, 1}, ids, &is_replayed);
    if (is_replayed) {
        if (progress) progress(arg, 1);
        return head_answer(m, at, 1, logits, greedy);
    }
    for (int64_t done = 0; !status && done < count;) {
        chunk c = {at + done, next_rows(m, at + done, count - done, rows), 0};
        bool last = done + c.rows == count;
        status = layers_input(m, &c, ids + done);
        if (!status) status = layers_compute(m, &c, last ? rows : 0, last ? probe : NULL);
        done += c.rows;
        if (!status && progress) progress(arg, done);
    }
    if (!status && rows > 0)
        status = head_run(m, at + count - rows, m->work.h, rows, logits, greedy);
    return status;
}
