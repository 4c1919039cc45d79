/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of a batch of 8 (banyan_cache_step): a graph, captured once and replayed over 200
 * steps, beside the same tokens in calls of their own, on the emulator or a GPU, and on the
 * CPU, where steps are made as well. Blocks begin and are evicted between replays; sequences
 * end, leave their places free, begin anew with a prefill, are forked and go back. The bits are
 * those of the calls; and what other tests hold against the oracle, the CPU's numbers, is near.
 * What cannot be captured is refused by its words, and so is a snapshot between a step and its
 * last call, or its replay. */
#include "emulator.h"
#include "tests/comm/local.h"
#include "tests/dist/device_arrays.h"

#include <unistd.h>

enum { LAYERS = 3, HEADS = 6, KV_HEADS = 3, DIM = 64, PLACES = 8, STEPS = 200 };
enum { PREFILL = 120, TOKENS = 340, BACK = 4, ROWS = PREFILL };
enum { CALLS, STEPPED, GRAPH };
enum { UNTOUCHED = 0x5a };

static const float sinks[LAYERS * HEADS] = {[HEADS] = 1, [HEADS + 1] = -INFINITY, [2] = 2};

typedef struct results {
    float out[STEPS][LAYERS][PLACES][HEADS][DIM], lse[STEPS][LAYERS][PLACES][HEADS];
} results;

static char folder[256];

typedef struct place {
    banyan_sequence *sequence; /* NULL: free */
    int64_t at;
    uint64_t id; /* of its tokens */
} place;

/* The arrays of a rank's calls, on the host and where its cache is. */
typedef struct arrays {
    uint16_t q[LAYERS][ROWS][HEADS][DIM], k[LAYERS][ROWS][KV_HEADS][DIM],
        v[LAYERS][ROWS][KV_HEADS][DIM];
    float out[LAYERS][ROWS][HEADS][DIM], lse[LAYERS][ROWS][HEADS];
} arrays;

typedef struct scene {
    banyan_cache *cache;
    int how;
    cudaStream_t stream;
    cudaGraphExec_t exec;
    arrays *here, *there;
    place place[PLACES];
    uint64_t ids;
} scene;

static banyan_plan *plan_of(banyan_comm *comm, const char *device, int64_t pool)
{
    static const int32_t cache_layer[LAYERS] = {0, 1, 0};
    static const banyan_rule rules[3] = {{0, 2, 2, 3, "sink_window sink=3t window=70t"},
                                         {1, 1, 4, 5, "s2 stride=2 local=1 per=kv"},
                                         {1, 1, 0, 1, "sink_window sink=1 window=2"}};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = LAYERS;
    spec.heads = HEADS;
    spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.cache_layer = cache_layer;
    spec.sinks = sinks;
    spec.rules = rules;
    spec.rule_count = 3;
    spec.max_tokens = TOKENS;
    spec.max_rows = ROWS;
    spec.rollback_tokens = BACK;
    spec.sequences = PLACES;
    spec.pool_tokens = pool;
    spec.cache_dtype = spec.in_dtype = BANYAN_F16;
    spec.placement =
        "heads"; /* nothing is merged: messages through the host are not captured */
    spec.threads = 1;
    spec.device = device;
    return sequence_plan(&spec, comm);
}

/* ---- data -------------------------------------------------------------------------------- */

static void draw(uint16_t *to, int count, uint64_t seed)
{
    seed *= 0x9e3779b97f4a7c15u;
    arrays_draw(to, count, &seed);
}

/* Row `row` of all layers: a token of a sequence. */
static void draw_row(arrays *a, int row, uint64_t id, int64_t token)
{
    for (int layer = 0; layer < LAYERS; layer++) {
        const uint64_t seed = ((id * TOKENS + (uint64_t)token) * LAYERS + (uint64_t)layer) * 3;
        draw(a->q[layer][row][0], HEADS * DIM, seed + 1);
        draw(a->k[layer][row][0], KV_HEADS * DIM, seed + 2);
        draw(a->v[layer][row][0], KV_HEADS * DIM, seed + 3);
    }
}

static void send(scene *s)
{
    memset(s->here->out, UNTOUCHED, sizeof s->here->out);
    memset(s->here->lse, UNTOUCHED, sizeof s->here->lse);
    arrays_copy(s->cache, s->there, s->here, sizeof *s->here, 1);
}

/* ---- calls ------------------------------------------------------------------------------- */

static void attend_to(const scene *s, const banyan_rows *batch, int32_t count, int32_t first,
                      int32_t end)
{
    arrays *a = s->there;
    for (int32_t layer = first; layer < end; layer++)
        CHECK_MSG(banyan_attend(s->cache, layer, batch, count, a->q[layer],
                                layer < 2 ? a->k[layer] : NULL, layer < 2 ? a->v[layer] : NULL,
                                a->out[layer], a->lse[layer][0]) == BANYAN_OK,
                  "layer %d: %s", (int)layer, banyan_error_message());
}

static void attend(const scene *s, const banyan_rows *batch, int32_t count)
{
    attend_to(s, batch, count, 0, LAYERS);
}

/* Layer -1: all is there. */
static void save(const scene *s, int layer, int64_t length)
{
    char words[128];
    const banyan_status status = banyan_cache_save(s->cache, folder, NULL, 0);
    snprintf(words, sizeof words,
             "layer %d has %lld tokens, and keys and values of %lld:", layer, (long long)length,
             (long long)length - 1);
    if (layer < 0)
        CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    else
        CHECK_MSG(status == BANYAN_ERR_ARGUMENT && strstr(banyan_error_message(), words),
                  "%d, \"%s\" lacks \"%s\"", (int)status, banyan_error_message(), words);
}

static void prefill(scene *s, int p, int32_t rows)
{
    place *to = &s->place[p];
    *to = (place){.id = ++s->ids};
    CHECK_MSG(banyan_sequence_create(s->cache, to->id, &to->sequence) == BANYAN_OK, "%s",
              banyan_error_message());
    for (int row = 0; row < rows; row++) draw_row(s->here, row, to->id, row);
    send(s);
    const banyan_rows part = {.sequence = to->sequence, .rows = rows};
    attend(s, &part, 1);
    to->at = rows;
}

static void leave(scene *s, int p)
{
    banyan_sequence_destroy(s->place[p].sequence);
    s->place[p] = (place){0};
}

/* What happens before a step. */
static void happen(scene *s, int step)
{
    if (step == 40) leave(s, 3);
    if (step == 55) prefill(s, 3, 30);
    if (step == 80) {
        leave(s, 5);
        s->place[5] = (place){.at = s->place[0].at - 1, .id = ++s->ids};
        CHECK_MSG(banyan_sequence_fork(s->place[0].sequence, s->place[5].at, 77,
                                       &s->place[5].sequence) == BANYAN_OK,
                  "%s", banyan_error_message());
    }
    if (step == 100) s->place[6].at -= BACK;
    if (step == 101) s->place[6].at--;
    if (step == 150) leave(s, 0), leave(s, 7);
}

/* The parts of a step: in a graph each in its place, else one behind the other. */
static int32_t fill(scene *s, banyan_rows *batch, int *row_of)
{
    int32_t count = 0;
    for (int p = 0; p < PLACES; p++) {
        const place *at = &s->place[p];
        row_of[p] = -1;
        if (s->how == GRAPH) {
            batch[p] = (banyan_rows){.sequence = at->sequence, .at = at->at};
            batch[p].rows = at->sequence != NULL;
            if (at->sequence) row_of[p] = p;
        } else if (at->sequence) {
            row_of[p] = count;
            batch[count++] = (banyan_rows){.sequence = at->sequence, .at = at->at, .rows = 1};
        }
        if (at->sequence) draw_row(s->here, row_of[p], at->id, at->at);
    }
    return s->how == GRAPH ? PLACES : count;
}

static void step(scene *s, int number, results *r)
{
    banyan_rows batch[PLACES];
    int row_of[PLACES];
    happen(s, number);
    const int32_t count = fill(s, batch, row_of);
    send(s);
    if (s->how != CALLS)
        CHECK_MSG(banyan_cache_step(s->cache, batch, count) == BANYAN_OK, "step %d: %s", number,
                  banyan_error_message());
    const int saves = s->how != CALLS && (number == 50 || number == 101 || number == 102);
    const int64_t length = batch[0].at + 1;
    if (saves) save(s, 0, length);
    if (s->how == GRAPH) {
        CHECK(cudaGraphLaunch(s->exec, s->stream) == cudaSuccess);
    } else {
        attend_to(s, batch, count, 0, 1);
        if (saves) save(s, 1, length);
        attend_to(s, batch, count, 1, LAYERS);
    }
    if (saves) save(s, -1, 0);
    arrays_down(s->cache, s->here, s->there, sizeof *s->here);
    for (int p = 0; p < PLACES; p++) {
        for (int layer = 0; layer < LAYERS && row_of[p] >= 0; layer++) {
            memcpy(r->out[number][layer][p], s->here->out[layer][row_of[p]],
                   sizeof r->out[0][0][0]);
            memcpy(r->lse[number][layer][p], s->here->lse[layer][row_of[p]],
                   sizeof r->lse[0][0][0]);
        }
        if (row_of[p] >= 0) s->place[p].at++;
    }
}

/* ---- capturing --------------------------------------------------------------------------- */

static void expect(banyan_status got, banyan_status status, const char *words)
{
    CHECK_MSG(got == status && strstr(banyan_error_message(), words), "%d, \"%s\" lacks \"%s\"",
              (int)got, banyan_error_message(), words);
}

/* What may not be in a step's graph. */
static void refuse(const scene *s, const banyan_rows *batch)
{
    arrays *a = s->there;
    banyan_rows other[PLACES + 1];
    int64_t best[HEADS];
    memcpy(other, batch, PLACES * sizeof *other);
    other[PLACES] = batch[0];
    expect(banyan_cache_step(s->cache, other, PLACES + 1), BANYAN_ERR_ARGUMENT,
           "9 parts are captured: expected at most 8 (sequences)");
    CHECK(banyan_cache_step(s->cache, batch, PLACES) == BANYAN_OK);
    other[0].rows = 40;
    expect(banyan_attend(s->cache, 0, other, PLACES, a->q, NULL, NULL, a->out, NULL),
           BANYAN_ERR_ARGUMENT, "40 rows in a captured call, of 1 in its step");
    CHECK(banyan_cache_step(s->cache, other, PLACES) == BANYAN_OK);
    expect(banyan_attend(s->cache, 0, other, PLACES, a->q, NULL, NULL, a->out, NULL),
           BANYAN_ERR_UNSUPPORTED,
           "query vectors of a KV head of layer 0: expected at most 32");
    CHECK(banyan_cache_step(s->cache, batch, PLACES) == BANYAN_OK);
    memcpy(other, batch, PLACES * sizeof *other);
    expect(banyan_attend(s->cache, 0, other, 3, a->q, NULL, NULL, a->out, NULL),
           BANYAN_ERR_ARGUMENT, "a captured call has 3 parts, its step has 8");
    other[2].strongest = best;
    expect(banyan_attend(s->cache, 0, other, PLACES, a->q, NULL, NULL, a->out, NULL),
           BANYAN_ERR_UNSUPPORTED, "part 2");
}

static void capture(scene *s)
{
    banyan_rows batch[PLACES];
    for (int p = 0; p < PLACES; p++) batch[p] = (banyan_rows){.rows = 1};
    arrays_capture(s->stream);
    refuse(s, batch);
    CHECK_MSG(banyan_cache_step(s->cache, batch, PLACES) == BANYAN_OK, "%s",
              banyan_error_message());
    attend(s, batch, PLACES);
    expect(
        banyan_attend(s->cache, 0, batch, PLACES, s->there->q, NULL, NULL, s->there->out, NULL),
        BANYAN_ERR_UNSUPPORTED, "more than 3 captured calls in a step");
    s->exec = arrays_captured(s->stream);
}

/* ---- playing ----------------------------------------------------------------------------- */

static void open_scene(scene *s, banyan_plan *plan, int how)
{
    *s = (scene){.how = how, .here = calloc(1, sizeof *s->here)};
    s->cache = arrays_cache(plan, &s->stream);
    s->there = arrays_up(s->cache, s->here, sizeof *s->here);
}

static void close_scene(scene *s)
{
    if (s->exec) cudaGraphExecDestroy(s->exec);
    arrays_release(s->cache, s->there);
    banyan_cache_destroy(s->cache);
    if (s->stream) cudaStreamDestroy(s->stream);
    free(s->here);
}

static int64_t play(banyan_plan *plan, int how, results *r)
{
    scene s;
    banyan_stats stats;
    memset(r, 0, sizeof *r);
    open_scene(&s, plan, how);
    if (how == GRAPH) capture(&s);
    for (int p = 0; p < PLACES; p++) prefill(&s, p, 20 + 13 * p);
    for (int i = 0; i < STEPS; i++) step(&s, i, r);
    banyan_cache_stats(s.cache, &stats);
    CHECK(stats.evicted_blocks > 0);
    close_scene(&s);
    return stats.blocks;
}

/* Weights are rounded to fp16: 2^-11 of the largest value, below 6. lse comes from sums before
 * that. */
static void compare(const results *got, const results *expect, int rank)
{
    const double out = arrays_differ(got->out[0][0][0][0], expect->out[0][0][0][0],
                                     sizeof got->out / sizeof(float));
    const double lse =
        arrays_differ(got->lse[0][0][0], expect->lse[0][0][0], sizeof got->lse / sizeof(float));
    CHECK_MSG(out <= 6 * 0x1p-11 && lse <= 1e-5, "rank %d: out differs by %g, lse by %g", rank,
              out, lse);
}

/* A pool without room for a block more in all layers: the step is in none of them. */
static void test_full(banyan_comm *comm, const char *device)
{
    scene s;
    banyan_plan *plan = plan_of(comm, device, 128);
    banyan_sequence *of[3] = {NULL};
    banyan_rows batch[3];
    open_scene(&s, plan, CALLS);
    for (int i = 0; i < 3; i++) {
        CHECK(banyan_sequence_create(s.cache, 0, &of[i]) == BANYAN_OK);
        batch[i] = (banyan_rows){.sequence = of[i], .rows = 1};
    }
    const banyan_rows whole = {.sequence = of[0], .rows = 64};
    send(&s);
    attend(&s, &whole, 1);
    batch[0].at = 64;
    expect(banyan_cache_step(s.cache, batch, 3), BANYAN_ERR_MEMORY, "blocks more are needed");
    for (int layer = 0; layer < LAYERS; layer++)
        CHECK(banyan_sequence_length(of[0], layer) == 64 &&
              banyan_sequence_length(of[1], layer) == 0);
    CHECK_MSG(banyan_cache_step(s.cache, batch, 1) == BANYAN_OK, "%s", banyan_error_message());
    CHECK(banyan_sequence_length(of[0], 1) == 65);
    attend(&s, batch, 1);
    batch[1] = batch[0];
    batch[0].at = batch[1].at = 65;
    expect(banyan_cache_step(s.cache, batch, 2), BANYAN_ERR_ARGUMENT, "two parts of a step");
    batch[0].at = 70;
    expect(banyan_cache_step(s.cache, batch, 1), BANYAN_ERR_ARGUMENT, "leaves a gap");
    batch[0].at = 65;
    CHECK(banyan_attend(s.cache, 0, batch, 1, NULL, s.there->k, s.there->v, NULL, NULL) ==
          BANYAN_OK);
    batch[0].at = 66;
    expect(banyan_cache_step(s.cache, batch, 1), BANYAN_ERR_ARGUMENT,
           "layer 1 has 65 tokens, layer 0 has 66");
    expect(banyan_cache_step(s.cache, batch, 0), BANYAN_ERR_ARGUMENT, "a batch of 0 parts");
    close_scene(&s);
    banyan_plan_destroy(plan);
}

static void test_rank(banyan_comm *comm, void *arg)
{
    (void)arg;
    results *r[4];
    const int rank = banyan_comm_rank(comm);
    for (int i = 0; i < 4; i++) r[i] = malloc(sizeof *r[i]);
    banyan_plan *host = plan_of(comm, "cpu", PLACES * TOKENS);
    banyan_plan *device = plan_of(comm, "cuda", PLACES * TOKENS);
    const int64_t blocks = play(host, CALLS, r[0]);
    CHECK(play(host, STEPPED, r[1]) == blocks);
    CHECK_MSG(!memcmp(r[0], r[1], sizeof *r[0]), "steps on the CPU have other bits");
    CHECK(play(device, STEPPED, r[2]) == blocks);
    compare(r[2], r[0], rank);
    CHECK(play(device, GRAPH, r[3]) == blocks);
    CHECK_MSG(!memcmp(r[2], r[3], sizeof *r[2]), "rank %d: a graph's steps have other bits",
              rank);
    compare(r[3], r[0], rank);
    banyan_plan_destroy(host);
    banyan_plan_destroy(device);
    test_full(comm, "cpu");
    test_full(comm, "cuda");
    for (int i = 0; i < 4; i++) free(r[i]);
}

int main(void)
{
    char command[512];
    const char *fast = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(folder, sizeof folder, "%s/cuda_step_test.%ld", fast, (long)getpid());
    emulator_set_multiprocessors(4);
    /* Three ranks are the same work once more: in one of the modes. */
    const int32_t most = emulator_get_mode() == EMULATOR_LAZY ? 3 : 1;
    for (int32_t ranks = 1; ranks <= most; ranks += 2) local_with(ranks, NULL, test_rank, NULL);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
    return test_end();
}
