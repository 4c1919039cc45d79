/* SPDX-License-Identifier: Apache-2.0 */
/* What a decoded token's layer launches where its heads are cut over ranks and merged by NCCL:
 * counted, with the CUDA kernels on the emulator and an NCCL over MPI (emu/nccl), in a graph
 * and call by call, by every merge. The numbers are those of the CPU, and a graph's bits those
 * of the calls.
 *
 *     cuda_launches_test RANKS [MERGE]
 *
 * LAUNCHES_SAY=1 prints the launches of each, by their kernels' names. */
#include "emulator.h"
#include "tests/dist/device_arrays.h"
#include "tests/test.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <mpi.h>

enum { HEADS = 8, KV_HEADS = 4, DIM = 64, PREFILL = 189, STEPS = 4, TOKENS = 320 };
enum { CALLS, GRAPH };
enum { UNTOUCHED = 0x5a, MOST = 64 };
/* Of a layer in a graph: keys and values packed, decode, its parts combined, and then, where
 * the merge is one round, messages put together, sent and received, folded into results; where
 * it is three all-reduces, each given and taken, and results finished. */
enum { ONE_ROUND = 6, REDUCED = 13 };

extern const banyan_transport banyan_transport_nccl;

static int rank, ranks;

typedef struct arrays {
    uint16_t q[PREFILL][HEADS][DIM], k[PREFILL][KV_HEADS][DIM], v[PREFILL][KV_HEADS][DIM];
    float out[PREFILL][HEADS][DIM], lse[PREFILL][HEADS];
} arrays;

typedef struct results {
    float out[STEPS][HEADS][DIM], lse[STEPS][HEADS];
} results;

/* ---- launches ---------------------------------------------------------------------------- */

typedef struct launches {
    int count;
    const void *kernel[MOST]; /* NULL: a copy, or a group of NCCL's */
} launches;

static void see(const void *kernel, void *ctx)
{
    launches *l = ctx;
    if (l->count < MOST) l->kernel[l->count] = kernel;
    l->count++;
}

static void say(const launches *l, const char *what)
{
    char text[MOST * 64] = "", name[256];
    size_t at = 0;
    if (!getenv("LAUNCHES_SAY")) return;
    for (int i = 0; i < l->count && i < MOST; i++) {
        emulator_kernel_name(l->kernel[i], name, sizeof name);
        name[strcspn(name, "<(")] = 0;
        const char *const last = strrchr(name, ' ');
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%.60s", i ? ", " : "",
                               !l->kernel[i] ? "copy"
                               : last        ? last + 1
                                             : name);
    }
    fprintf(stderr, "%s, rank %d of %d: %d launches: %s\n", what, rank, ranks, l->count, text);
}

/* ---- calls ------------------------------------------------------------------------------- */

typedef struct scene {
    banyan_cache *cache;
    banyan_sequence *sequence;
    arrays *here, *there;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
} scene;

static banyan_plan *plan_of(banyan_comm *comm, const char *device, const char *merge,
                            banyan_out out)
{
    banyan_spec spec;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = HEADS;
    spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.max_tokens = TOKENS;
    spec.max_rows = PREFILL;
    spec.cache_dtype = spec.in_dtype = BANYAN_F16;
    spec.placement = "spread";
    spec.merge = merge;
    spec.home = BANYAN_HOME_DEALT;
    spec.out = out;
    spec.threads = 1;
    spec.device = device;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    if (!plan) exit(1);
    return plan;
}

static void draw(uint16_t *to, int count, uint64_t seed)
{
    seed *= 0x9e3779b97f4a7c15u;
    for (int i = 0; i < count; i++) {
        const float x = test_normal(&seed);
        banyan_from_float(to + i, BANYAN_F16, &x, 1);
    }
}

static void send_rows(scene *s, int64_t at, int32_t rows)
{
    for (int32_t r = 0; r < rows; r++) {
        const uint64_t seed = 3 * (uint64_t)(at + r) + 1;
        draw(s->here->q[r][0], HEADS * DIM, seed);
        draw(s->here->k[r][0], KV_HEADS * DIM, seed + 1);
        draw(s->here->v[r][0], KV_HEADS * DIM, seed + 2);
    }
    memset(s->here->out, UNTOUCHED, sizeof s->here->out);
    memset(s->here->lse, UNTOUCHED, sizeof s->here->lse);
    arrays_copy(s->cache, s->there, s->here, sizeof *s->here, 1);
}

static void attend(const scene *s, int64_t at, int32_t rows)
{
    const banyan_rows part = {.sequence = s->sequence, .at = at, .rows = rows};
    arrays *a = s->there;
    CHECK_MSG(banyan_attend(s->cache, 0, &part, 1, a->q, a->k, a->v, a->out, a->lse[0]) ==
                  BANYAN_OK,
              "%s", banyan_error_message());
}

static void capture(scene *s, launches *l)
{
    const banyan_rows part = {.rows = 1};
    CHECK(cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK_MSG(banyan_cache_step(s->cache, &part, 1) == BANYAN_OK, "%s", banyan_error_message());
    emulator_watch(see, l);
    attend(s, 0, 1);
    emulator_watch(NULL, NULL);
    CHECK(cudaStreamEndCapture(s->stream, &s->graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&s->exec, s->graph, 0) == cudaSuccess);
}

static void play(banyan_plan *plan, int how, results *r, launches *l)
{
    scene s = {.here = calloc(1, sizeof *s.here)};
    if (banyan_plan_spec(plan)->device[1] == 'u')
        CHECK(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK_MSG(banyan_cache_create(plan, s.stream, &s.cache) == BANYAN_OK, "%s",
              banyan_error_message());
    if (!s.cache) exit(1);
    CHECK(banyan_sequence_create(s.cache, 0, &s.sequence) == BANYAN_OK);
    s.there = arrays_up(s.cache, s.here, sizeof *s.here);
    l->count = 0;
    send_rows(&s, 0, PREFILL);
    attend(&s, 0, PREFILL);
    if (how == GRAPH) capture(&s, l);
    for (int i = 0; i < STEPS; i++) {
        const banyan_rows part = {.sequence = s.sequence, .at = PREFILL + i, .rows = 1};
        send_rows(&s, part.at, 1);
        if (how == GRAPH) {
            CHECK_MSG(banyan_cache_step(s.cache, &part, 1) == BANYAN_OK, "%s",
                      banyan_error_message());
            CHECK(cudaGraphLaunch(s.exec, s.stream) == cudaSuccess);
        } else {
            if (s.stream && i == STEPS - 1) emulator_watch(see, l);
            attend(&s, part.at, 1);
            emulator_watch(NULL, NULL);
        }
        arrays_down(s.cache, s.here, s.there, sizeof *s.here);
        memcpy(r->out[i], s.here->out[0], sizeof r->out[i]);
        memcpy(r->lse[i], s.here->lse[0], sizeof r->lse[i]);
    }
    if (s.exec) cudaGraphExecDestroy(s.exec);
    if (s.graph) cudaGraphDestroy(s.graph);
    arrays_release(s.cache, s.there);
    banyan_cache_destroy(s.cache);
    if (s.stream) cudaStreamDestroy(s.stream);
    free(s.here);
}

/* ---- merges ------------------------------------------------------------------------------ */

/* Weights are rounded to fp16: 2^-11 of the largest value, below 6. What is not written here is
 * untouched. */
static void compare(const results *got, const results *expect, const char *merge)
{
    const float *a = &got->out[0][0][0], *b = &expect->out[0][0][0];
    double out = 0, lse = 0;
    for (size_t i = 0; i < sizeof got->out / sizeof *a; i++)
        if (memcmp(a + i, b + i, 4)) out = fmax(out, fabs((double)a[i] - b[i]));
    a = &got->lse[0][0], b = &expect->lse[0][0];
    for (size_t i = 0; i < sizeof got->lse / sizeof *a; i++)
        if (memcmp(a + i, b + i, 4)) lse = fmax(lse, fabs((double)a[i] - b[i]));
    CHECK_MSG(out <= 6 * 0x1p-11 && lse <= 1e-5, "%s, rank %d: out differs by %g, lse by %g",
              merge, rank, out, lse);
}

static void test_merge(banyan_comm *comm, const char *merge, banyan_out out)
{
    static results host, calls, graph;
    launches none = {0}, of_calls = {0}, of_graph = {0};
    char what[64];
    banyan_plan *cpu = plan_of(comm, "cpu", merge, out);
    banyan_plan *device = plan_of(comm, "cuda", merge, out);
    play(cpu, CALLS, &host, &none);
    play(device, CALLS, &calls, &of_calls);
    play(device, GRAPH, &graph, &of_graph);
    compare(&calls, &host, merge);
    CHECK_MSG(!memcmp(&calls, &graph, sizeof calls), "%s, rank %d: a graph has other bits",
              merge, rank);
    const int is_reduced = !strcmp(merge, "allreduce");
    const int is_one_round = !strcmp(merge, "direct") || !strcmp(merge, "gather");
    if (is_reduced || (is_one_round && out == BANYAN_OUT_HOME)) {
        const int expected = is_reduced ? REDUCED : ONE_ROUND;
        /* there are fewer blocks than 7 ranks: some have less to do */
        CHECK_MSG(of_graph.count == expected || (ranks > 3 && of_graph.count < expected),
                  "%s, rank %d: %d launches, expected %d", merge, rank, of_graph.count,
                  expected);
    }
    snprintf(what, sizeof what, "%s%s, in a graph", merge,
             out == BANYAN_OUT_ALL ? ", all" : "");
    say(&of_graph, what);
    snprintf(what, sizeof what, "%s%s, a call", merge, out == BANYAN_OUT_ALL ? ", all" : "");
    say(&of_calls, what);
    banyan_plan_destroy(cpu);
    banyan_plan_destroy(device);
}

/* Rank 1 has lost count of its merges: the ranks that it sends to find it in the header, and
 * say so when they wait. */
static void test_header(banyan_comm *comm)
{
    char words[96];
    banyan_plan *plan = plan_of(comm, "cuda", "direct", BANYAN_OUT_HOME);
    scene s = {.here = calloc(1, sizeof *s.here)};
    CHECK(banyan_cache_create(plan, NULL, &s.cache) == BANYAN_OK);
    CHECK(banyan_sequence_create(s.cache, 0, &s.sequence) == BANYAN_OK);
    s.there = arrays_up(s.cache, s.here, sizeof *s.here);
    send_rows(&s, 0, PREFILL);
    attend(&s, 0, PREFILL);
    CHECK_MSG(banyan_cache_wait(s.cache) == BANYAN_OK, "%s", banyan_error_message());
    const long long merges = s.cache->stats.merges;
    if (rank == 1) s.cache->stats.merges++;
    attend(&s, PREFILL, 1);
    const banyan_status status = banyan_cache_wait(s.cache);
    snprintf(words, sizeof words, "rank 1 sends merge %lld, but rank %d expects %lld",
             merges + 1, rank, merges);
    if (rank != 1)
        CHECK_MSG(status == BANYAN_ERR_COMM && strstr(banyan_error_message(), words),
                  "%d, \"%s\" lacks \"%s\"", (int)status, banyan_error_message(), words);
    else
        CHECK(status == BANYAN_ERR_COMM);
    arrays_release(s.cache, s.there);
    banyan_cache_destroy(s.cache);
    free(s.here);
    banyan_plan_destroy(plan);
}

int main(int argc, char **argv)
{
    MPI_Comm world = MPI_COMM_WORLD;
    banyan_comm *comm = NULL;
    int level = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &ranks);
    CHECK(argc > 1 && ranks == atoi(argv[1]));
    emulator_set_multiprocessors(4);
    emulator_set_devices(ranks);
    CHECK(cudaSetDevice(rank) == cudaSuccess);
    const banyan_status status = banyan_comm_open(&banyan_transport_nccl, &world, &comm);
    CHECK_MSG(!status, "%s", banyan_error_message());
    if (status) return test_end();
    banyan_comm_timeout(comm, 60);
    for (int i = 0; banyan_merge_row(i); i++) {
        const char *merge = banyan_merge_row(i)->name;
        if (argc > 2 && strcmp(merge, argv[2])) continue;
        /* Each in a mode of its own, from one run to another; of many ranks one of the two. */
        for (int all = 0; all < 2; all++) {
            if (ranks > 3 && all != i % 2) continue;
            emulator_set_mode((enum emulator_mode)((2 * i + all + ranks) % 3), (uint32_t)i);
            test_merge(comm, merge, all ? BANYAN_OUT_ALL : BANYAN_OUT_HOME);
        }
    }
    if (ranks <= 3) test_header(comm);
    banyan_comm_destroy(comm);
    MPI_Finalize();
    return test_end();
}
