/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring a machine, in about half a second where there is a core for every thread:
 *
 *     links      messages to and fro between two ranks: alpha from the shortest, beta from the
 *                rise up to the longest, half a round trip each; inside a node, and between two
 *                and long messages apart, which move otherwise
 *     reading    a plain loop over memory, and the kernel at the config's shape over contexts
 *                from one block to several times the last cache
 *     computing  the kernel on many rows
 *
 * Reading and computing twice: the first rank of each machine alone, and all ranks at once.
 * Medians. */
#include "launch/machine/machine.h"

#include "launch/data.h"
#include "launch/single.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { most_points = 12, repeats = 5, most_trips = 64 };

/* ---- links ---- */

/* Half the median round trip of `bytes` bytes, on the first of the pair. */
static banyan_status trip(banyan_comm *comm, int peer, bool first, char *data, size_t bytes,
                          double *seconds)
{
    double taken[most_trips];
    const banyan_message message = {peer, data, bytes};
    banyan_status status = BANYAN_OK;
    for (int i = -8; i < most_trips && !status; i++) {
        double start = now_seconds();
        if (first) status = banyan_comm_exchange(comm, &message, 1, NULL, 0);
        if (!status) status = banyan_comm_exchange(comm, NULL, 0, &message, 1);
        if (!status && !first) status = banyan_comm_exchange(comm, &message, 1, NULL, 0);
        if (i >= 0) taken[i] = (now_seconds() - start) / 2;
    }
    if (status) return status;
    numbers_sort(taken, most_trips);
    *seconds = taken[most_trips / 2];
    return BANYAN_OK;
}

/* Seconds for `bytes` bytes, both ways at once or to the other and back, half of it. */
static banyan_status bulk(banyan_comm *comm, int peer, bool first, char *data, size_t bytes,
                          bool both_ways, double *seconds)
{
    enum { trips = 3 };
    double taken[trips];
    const banyan_message out = {peer, data, bytes}, in = {peer, data + bytes, bytes};
    banyan_status status = BANYAN_OK;
    for (int i = -1; i < trips && !status; i++) {
        double start = now_seconds();
        status = banyan_comm_exchange(comm, &out, both_ways || first, &in, both_ways || !first);
        if (!status && !both_ways)
            status = banyan_comm_exchange(comm, &out, !first, &in, first);
        if (i >= 0) taken[i] = (now_seconds() - start) / (both_ways ? 1 : 2);
    }
    if (status) return status;
    numbers_sort(taken, trips);
    *seconds = taken[trips / 2];
    return BANYAN_OK;
}

/* Of ranks a and b; every rank gets it. */
static banyan_status measure_link(const job *j, int a, int b, banyan_link *link,
                                  double *bulk_beta)
{
    enum { shortest = 256, longest = 1 << 16, long_inside = 8 << 20, long_between = 2 << 20 };
    const bool inside = banyan_comm_node(j->comm, a) == banyan_comm_node(j->comm, b);
    const size_t lengthy = inside ? long_inside : long_between;
    double pair[3] = {0};
    banyan_status status = BANYAN_OK;
    bool *waits = calloc((size_t)j->ranks, sizeof *waits);
    char *data = calloc(2, lengthy);
    if (!waits || !data) status = BANYAN_ERR_MEMORY;
    for (int r = 0; r < j->ranks && waits; r++) waits[r] = r != a && r != b;
    status = banyan_comm_agree(j->comm, status);
    if (!status && (j->rank == a || j->rank == b)) {
        const int peer = j->rank == a ? b : a;
        status = trip(j->comm, peer, j->rank == a, data, shortest, &pair[0]);
        if (!status) status = trip(j->comm, peer, j->rank == a, data, longest, &pair[1]);
        if (!status)
            status = bulk(j->comm, peer, j->rank == a, data, lengthy, inside, &pair[2]);
        if (!status && j->rank == a) status = quiet_release(j->comm, waits);
    } else if (!status) {
        status = quiet_wait(j->comm, a);
    }
    if (!status) status = banyan_comm_broadcast(j->comm, pair, sizeof pair, a);
    free(waits);
    free(data);
    if (status) return status;
    link->beta = fmax(0, (pair[1] - pair[0]) / (longest - shortest));
    link->alpha = fmax(0, pair[0] - link->beta * shortest);
    *bulk_beta = pair[2] / (double)lengthy;
    return BANYAN_OK;
}

static banyan_status measure_links(const job *j, Banyan__Machine *m)
{
    banyan_status status = BANYAN_OK;
    banyan_link link;
    int near = 0, far = 0; /* a rank on rank 0's node, or another */
    for (int r = j->ranks - 1; r > 0; r--) {
        if (banyan_comm_node(j->comm, r) == banyan_comm_node(j->comm, 0))
            near = r;
        else
            far = r;
    }
    if (near) {
        status = measure_link(j, 0, near, &link, &m->inside_bulk);
        m->inside_alpha = link.alpha;
        m->inside_beta = link.beta;
        m->has_inside_alpha = m->has_inside_beta = m->has_inside_bulk = !status;
    }
    if (far && !status) {
        status = measure_link(j, 0, far, &link, &m->between_bulk);
        m->between_alpha = link.alpha;
        m->between_beta = link.beta;
        m->has_between_alpha = m->has_between_beta = m->has_between_bulk = !status;
    }
    return status;
}

/* ---- reading and computing ---- */

/* One rank's figures, once alone and once beside others. */
typedef struct figures {
    double read, sustained, seconds[most_points],
        pair; /* read: bytes a second, best; all in all */
} figures;

typedef struct probe {
    banyan_comm *self;
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_sequence *sequence;
    const banyan_spec *spec;
    device *d;
    device_array q, k, v, out;
    int64_t tokens;
    int32_t rows; /* of a call */
    int64_t point[most_points];
    int32_t points;
    double token_bytes, append, appended;
} probe;

static banyan_status make_probe_array(const probe *p, int32_t heads, int32_t dim, int what,
                                      device_array *out)
{
    const size_t bytes = (size_t)p->rows * (size_t)heads * (size_t)dim * sizeof(float);
    banyan_status status = device_array_make(p->d, bytes, DEVICE_NAN, out);
    for (int64_t i = 0; !status && i < p->rows; i++)
        for (int32_t h = 0; h < heads; h++)
            data_row((float *)out->host + (i * heads + h) * dim, 1, what, 0, i, h, dim);
    return status ? status : device_send(p->d, out, bytes);
}

/* Contexts: from a block on, each twice as long, up to `most` bytes. */
static void choose_points(probe *p, double most)
{
    const int64_t block = p->spec->block_tokens;
    int64_t tokens = (int64_t)(most / p->token_bytes) / block * block;
    if (tokens < 2 * block) tokens = 2 * block;
    p->tokens = tokens;
    int32_t n = 0;
    int64_t list[most_points];
    for (; n < most_points - 1 && tokens > block; tokens = tokens / 2 / block * block)
        list[n++] = tokens;
    list[n++] = block;
    for (int32_t i = 0; i < n; i++) p->point[i] = list[n - 1 - i];
    p->points = n;
}

static banyan_status open_probe(probe *p, const banyan_spec *shape, int32_t threads,
                                double most)
{
    banyan_spec s = *shape;
    p->spec = &s;
    p->token_bytes = (s.kv_heads ? s.kv_heads : s.heads) * spec_token_bytes(&s);
    choose_points(p, most);
    s.layers = 1;
    s.rule_count = 0;
    s.threads = threads;
    s.max_tokens = s.planned_tokens = p->tokens;
    s.max_rows = p->rows = p->tokens < 512 ? (int32_t)p->tokens : 512;
    s.rollback_tokens = (int32_t)p->tokens;
    s.placement = "line";
    s.merge = NULL;
    s.bandwidth = NULL;
    s.lost_rank = -1;
    s.memory_limit = INT64_MAX / 4;
    banyan_status status = banyan_comm_create("self", NULL, &p->self);
    if (!status) status = banyan_plan_create(&s, p->self, &p->plan);
    if (status) return status;
    p->spec = banyan_plan_spec(p->plan);
    status = make_probe_array(p, p->spec->heads, p->spec->key_dim, DATA_Q, &p->q);
    if (!status)
        status = make_probe_array(p, p->spec->kv_heads, p->spec->key_dim, DATA_K, &p->k);
    if (!status && !spec_value_in_key(p->spec))
        status = make_probe_array(p, p->spec->kv_heads, p->spec->value_dim, DATA_V, &p->v);
    if (!status)
        status = make_probe_array(p, p->spec->heads, p->spec->value_dim, DATA_Q, &p->out);
    return status ? status
                  : single_create(p->plan, device_stream(p->d), &p->cache, &p->sequence);
}

static void close_probe(probe *p)
{
    banyan_cache_destroy(p->cache);
    banyan_plan_destroy(p->plan);
    banyan_comm_destroy(p->self);
    device_array_free(p->d, &p->q);
    device_array_free(p->d, &p->k);
    device_array_free(p->d, &p->v);
    device_array_free(p->d, &p->out);
}

/* Returns when it is done. */
static banyan_status attend_probe(probe *p, int64_t at, int32_t rows)
{
    banyan_status status = single_attend(p->cache, p->sequence, 0, at, rows, p->q.there, NULL,
                                         NULL, p->out.there, NULL);
    return status ? status : device_wait(p->d);
}

static banyan_status time_probe(probe *p, int64_t at, int32_t rows, double *seconds)
{
    double taken[repeats];
    banyan_status status = attend_probe(p, at, rows);
    for (int i = 0; i < repeats && !status; i++) {
        double start = now_seconds();
        status = attend_probe(p, at, rows);
        taken[i] = now_seconds() - start;
    }
    if (status) return status; /* not all of `taken` is set */
    numbers_sort(taken, repeats);
    *seconds = taken[repeats / 2];
    return BANYAN_OK;
}

/* Many rows at the end of what is there: seconds of a (query row, block) pair. */
static banyan_status time_pairs(probe *p, int64_t tokens, double *pair)
{
    const int32_t rows = tokens < 64 ? (int32_t)tokens : 64;
    banyan_stats before, after;
    double seconds;
    banyan_cache_stats(p->cache, &before);
    banyan_status status = time_probe(p, tokens - rows, rows, &seconds);
    if (status) return status;
    banyan_cache_stats(p->cache, &after);
    *pair = seconds / ((double)(after.pairs - before.pairs) / (repeats + 1));
    return BANYAN_OK;
}

/* The cache is filled anew, and timed at each point on the way: looking for blocks in a longer
 * one would be timed as well. */
static banyan_status probe_once(probe *p, figures *f)
{
    banyan_status status = BANYAN_OK;
    int64_t length = 0;
    for (int32_t i = 0; i < p->points && !status; i++) {
        for (int32_t rows; length < p->point[i] && !status; length += rows) {
            const int64_t left = p->point[i] - length;
            rows = left < p->rows ? (int32_t)left : p->rows;
            status = single_attend(p->cache, p->sequence, 0, length, rows, NULL, p->k.there,
                                   p->v.there, NULL, NULL);
        }
        if (!status) status = time_probe(p, length - 1, 1, &f->seconds[i]);
        if (!status && (length <= 2048 || f->pair <= 0))
            status = time_pairs(p, length, &f->pair);
    }
    if (status) return status;
    banyan_stats stats;
    banyan_cache_stats(p->cache, &stats);
    p->appended += (double)length * p->token_bytes;
    p->append = stats.append_seconds / p->appended;
    const int64_t bytes = (int64_t)((double)p->tokens * p->token_bytes);
    if (p->d->row->memory->is_apart) {
        status = ceilings_copy(p->d, bytes, &f->read);
        f->sustained = f->read;
    } else {
        f->read = ceilings_read(p->spec->threads, bytes, &f->sustained);
    }
    return status;
}

/* The slowest rank of those that took part counts. */
static banyan_status slowest(const job *j, bool took_part, figures *f)
{
    double x[most_points + 3] = {took_part ? -f->read : -INFINITY,
                                 took_part ? -f->sustained : -INFINITY,
                                 took_part ? f->pair : 0};
    for (int i = 0; i < most_points; i++) x[3 + i] = took_part ? f->seconds[i] : 0;
    banyan_status status = banyan_comm_allreduce(j->comm, x, most_points + 3, BANYAN_MAX);
    f->read = -x[0];
    f->sustained = -x[1];
    f->pair = x[2];
    memcpy(f->seconds, x + 3, sizeof f->seconds);
    return status;
}

/* The first rank of each machine measures, the others sleep. */
static banyan_status probe_alone(const job *j, const uint64_t *machine, probe *p, figures *f)
{
    int leader = 0;
    while (machine[leader] != machine[j->rank]) leader++;
    bool *waits = calloc((size_t)j->ranks, sizeof *waits);
    banyan_status status = banyan_comm_agree(j->comm, waits ? BANYAN_OK : BANYAN_ERR_MEMORY);
    for (int r = leader + 1; r < j->ranks && waits; r++)
        waits[r] = machine[r] == machine[leader];
    if (!status && j->rank == leader) {
        status = probe_once(p, f);
        const banyan_status released = quiet_release(j->comm, waits);
        if (!status) status = released;
    } else if (!status) {
        status = quiet_wait(j->comm, leader);
    }
    free(waits);
    status = banyan_comm_agree(j->comm, status);
    return status ? status : slowest(j, j->rank == leader, f);
}

static bool copy_list(double **to, size_t *count, const double *from, int32_t n)
{
    *to = malloc((size_t)n * sizeof **to);
    if (!*to) return false;
    memcpy(*to, from, (size_t)n * sizeof **to);
    *count = (size_t)n;
    return true;
}

static bool set_measured(Banyan__Machine *m, const probe *p, const figures *alone,
                         const figures *crowded)
{
    static const Banyan__Dtype dtype[] = {[BANYAN_F32] = BANYAN__DTYPE__FP32,
                                          [BANYAN_BF16] = BANYAN__DTYPE__BF16,
                                          [BANYAN_F16] = BANYAN__DTYPE__FP16,
                                          [BANYAN_E4M3] = BANYAN__DTYPE__FP8};
    Banyan__Measured *k = m->measured = malloc(sizeof *k);
    if (!k) return false;
    banyan__measured__init(k);
    const banyan_spec *s = p->spec;
    double bytes[most_points];
    for (int32_t i = 0; i < p->points; i++) bytes[i] = (double)p->point[i] * p->token_bytes;
    k->kernel = strdup(s->kernel);
    k->dtype = dtype[s->cache_dtype];
    k->group = s->heads / s->kv_heads;
    k->key_dim = s->key_dim;
    k->value_dim = s->value_dim;
    k->has_value_in_key = k->value_in_key = spec_value_in_key(s);
    k->pair = alone->pair;
    k->pair_together = crowded->pair;
    k->append = p->append;
    k->has_dtype = k->has_group = k->has_key_dim = k->has_value_dim = k->has_pair =
        k->has_pair_together = k->has_append = 1;
    return k->kernel && copy_list(&k->bytes, &k->n_bytes, bytes, p->points) &&
           copy_list(&k->seconds, &k->n_seconds, alone->seconds, p->points) &&
           copy_list(&k->seconds_together, &k->n_seconds_together, crowded->seconds, p->points);
}

static banyan_status measure_kernel(const job *j, const banyan_spec *shape, int32_t threads,
                                    Banyan__Machine *m)
{
    probe p = {.d = j->device};
    figures alone = {0}, crowded = {0};
    uint64_t *machine = NULL;
    int32_t together = 0;
    banyan_status status = hosts_find(j->comm, &machine);
    if (status) return status;
    for (int r = 0; r < j->ranks; r++) {
        int32_t here = 0;
        for (int i = 0; i < j->ranks; i++) here += machine[i] == machine[r];
        together = here > together ? here : together;
    }
    /* Far beyond the caches, and less where ranks share cores; the same on all. */
    const double cores = (double)sysconf(_SC_NPROCESSORS_ONLN);
    double most = (double)((int64_t)192 << 20) / fmax(1, together * threads / cores);
    status = banyan_comm_allreduce(j->comm, &most, 1, BANYAN_MAX);
    if (!status) status = job_agree(j, open_probe(&p, shape, threads, most));
    if (!status) status = job_agree(j, probe_once(&p, &crowded));
    if (!status) status = slowest(j, true, &crowded);
    alone = crowded;
    if (!status && j->ranks > 1) status = probe_alone(j, machine, &p, &alone);
    if (!status) status = banyan_comm_allreduce(j->comm, &p.append, 1, BANYAN_MAX);
    m->threads = threads;
    m->read = alone.read;
    m->read_together = together > 1 ? crowded.sustained : crowded.read;
    m->together = together;
    m->has_threads = m->has_read = m->has_read_together = m->has_together = 1;
    if (!status)
        status =
            job_agree(j, set_measured(m, &p, &alone, &crowded) ? BANYAN_OK : BANYAN_ERR_MEMORY);
    close_probe(&p);
    free(machine);
    return status;
}

/* Of links that this job does not have. */
static void keep_links(const Banyan__Machine *from, Banyan__Machine *to)
{
    to->has_inside_alpha = from->has_inside_alpha;
    to->has_inside_beta = from->has_inside_beta;
    to->has_inside_bulk = from->has_inside_bulk;
    to->has_between_bulk = from->has_between_bulk;
    to->inside_bulk = from->inside_bulk;
    to->between_bulk = from->between_bulk;
    to->inside_alpha = from->inside_alpha;
    to->inside_beta = from->inside_beta;
    to->has_between_alpha = from->has_between_alpha;
    to->has_between_beta = from->has_between_beta;
    to->between_alpha = from->between_alpha;
    to->between_beta = from->between_beta;
}

int machine_measure(const job *j, const banyan_spec *shape, int32_t threads, double *seconds)
{
    const double start = now_seconds();
    Banyan__Machine *m = malloc(sizeof *m);
    banyan_status status = banyan_comm_agree(j->comm, m ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) {
        banyan__machine__init(m);
        Banyan__Machine *old = j->config->machine;
        j->config->machine = m;
        if (old) keep_links(old, m);
        if (old) banyan__machine__free_unpacked(old, NULL);
        status = measure_links(j, m);
    } else {
        free(m);
    }
    if (!status) status = measure_kernel(j, shape, threads, m);
    *seconds = now_seconds() - start;
    return status ? job_failed(j, status, "measuring the machine") : EXIT_OK;
}
