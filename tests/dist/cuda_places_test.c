/* SPDX-License-Identifier: Apache-2.0 */
/* A captured step of more places than a batch of the device has parts, most of them without
 * rows, with the CUDA kernels on the emulator or a GPU: the bits are those of a call of those
 * that have some. */
#include "emulator.h"
#include "tests/comm/local.h"
#include "tests/dist/device_arrays.h"

enum { HEADS = 2, DIM = 64, BLOCK = 32, PLACES = 60, FIRST = 40, AT = 3 };
enum { USED = PLACES - FIRST, ROWS = BLOCK, NUMBERS = ROWS * HEADS * DIM };

typedef struct arrays {
    uint16_t q[NUMBERS], k[NUMBERS], v[NUMBERS];
    float out[NUMBERS];
} arrays;

typedef struct scene {
    banyan_cache *cache;
    cudaStream_t stream;
    arrays *there;
    banyan_rows batch[PLACES]; /* the last USED have a sequence */
} scene;

static banyan_plan *plan_of(banyan_comm *comm)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = HEADS;
    spec.kv_heads = 1;
    spec.key_dim = DIM;
    spec.block_tokens = BLOCK;
    spec.max_tokens = 2 * BLOCK;
    spec.max_rows = ROWS;
    spec.sequences = PLACES;
    spec.pool_tokens = PLACES * BLOCK;
    spec.cache_dtype = spec.in_dtype = BANYAN_F16;
    spec.threads = 1;
    spec.device = "cuda";
    return sequence_plan(&spec, comm);
}

static void attend(const scene *s, const banyan_rows *batch, int32_t count)
{
    arrays *a = s->there;
    CHECK_MSG(banyan_attend(s->cache, 0, batch, count, a->q, a->k, a->v, a->out, NULL) ==
                  BANYAN_OK,
              "%s", banyan_error_message());
}

/* All places in a step, before any of them has a sequence. */
static cudaGraphExec_t capture(const scene *s)
{
    banyan_rows batch[PLACES];
    for (int p = 0; p < PLACES; p++) batch[p] = (banyan_rows){.rows = p >= FIRST};
    arrays_capture(s->stream);
    CHECK_MSG(banyan_cache_step(s->cache, batch, PLACES) == BANYAN_OK, "%s",
              banyan_error_message());
    attend(s, batch, PLACES);
    return arrays_captured(s->stream);
}

static void prefill(scene *s)
{
    for (int p = FIRST; p < PLACES; p++) {
        banyan_rows *part = &s->batch[p];
        CHECK(banyan_sequence_create(s->cache, (uint64_t)p, &part->sequence) == BANYAN_OK);
        part->rows = AT;
        attend(s, part, 1);
        *part = (banyan_rows){.sequence = part->sequence, .at = AT, .rows = 1};
    }
}

static void play(banyan_plan *plan, const arrays *drawn, int is_captured, arrays *got)
{
    scene s = {0};
    cudaGraphExec_t exec = NULL;
    s.cache = arrays_cache(plan, &s.stream);
    s.there = arrays_up(s.cache, drawn, sizeof *drawn);
    if (is_captured) exec = capture(&s);
    prefill(&s);
    if (exec) {
        CHECK_MSG(banyan_cache_step(s.cache, s.batch, PLACES) == BANYAN_OK, "%s",
                  banyan_error_message());
        CHECK(cudaGraphLaunch(exec, s.stream) == cudaSuccess);
    } else {
        attend(&s, s.batch + FIRST, USED);
    }
    arrays_down(s.cache, got, s.there, sizeof *got);
    if (exec) cudaGraphExecDestroy(exec);
    arrays_release(s.cache, s.there);
    banyan_cache_destroy(s.cache);
    cudaStreamDestroy(s.stream);
}

static void test_rank(banyan_comm *comm, void *arg)
{
    uint64_t seed = 7;
    (void)arg;
    banyan_plan *plan = plan_of(comm);
    arrays *drawn = calloc(3, sizeof *drawn), *called = drawn + 1, *replayed = drawn + 2;
    arrays_draw(drawn->q, NUMBERS, &seed);
    arrays_draw(drawn->k, NUMBERS, &seed);
    arrays_draw(drawn->v, NUMBERS, &seed);
    play(plan, drawn, 0, called);
    play(plan, drawn, 1, replayed);
    CHECK(!memcmp(called->out, replayed->out, USED * HEADS * DIM * sizeof *called->out));
    CHECK(called->out[0] != 0);
    free(drawn);
    banyan_plan_destroy(plan);
}

int main(void)
{
    local_with(1, NULL, test_rank, NULL);
    return test_end();
}
