/* SPDX-License-Identifier: Apache-2.0 */
/* save_steps save FOLDER N | check FOLDER: what save_kill.py kills, and judges by. The keys and
 * values of save N are numbers of N, token and head alone, so that a mixture shows. Every third
 * save begins anew, the others go on from what is there, so that blocks of the older one
 * stay. */
#include "banyan.h"
#include "tests/test.h"

#include <time.h>
#include <unistd.h>

enum { LAYERS = 3, KV_HEADS = 4, DIM = 64, TOKENS = 4000, MORE = 300, ROWS = 512, BLOCK = 64 };

static banyan_comm *comm;

static void say(const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", banyan_comm_rank(comm), what, banyan_error_message());
    exit(3);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static banyan_plan *make_plan(void)
{
    banyan_spec spec;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.layers = LAYERS;
    spec.heads = spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.max_tokens = 1 << 15;
    spec.max_rows = ROWS;
    spec.cache_dtype = BANYAN_F32;
    spec.threads = 1;
    spec.kernel = "scalar";
    if (banyan_plan_create(&spec, comm, &plan)) say("plan");
    return plan;
}

static float number(int64_t of, int32_t layer, int64_t token, int i)
{
    return (float)((of * 7 + layer * 3 + token * 13 + i) % 1021);
}

static void append(banyan_cache *cache, banyan_sequence *s, int64_t of, int64_t at, int64_t end)
{
    static float k[ROWS * KV_HEADS * DIM];
    for (banyan_rows part = {.sequence = s, .at = at}; part.at < end; part.at += part.rows) {
        part.rows = end - part.at < ROWS ? (int32_t)(end - part.at) : ROWS;
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            for (int32_t r = 0; r < part.rows; r++)
                for (int i = 0; i < KV_HEADS * DIM; i++)
                    k[r * KV_HEADS * DIM + i] = number(of, layer, part.at + r, i);
            if (banyan_attend(cache, layer, &part, 1, NULL, k, k, NULL, NULL)) say("append");
        }
    }
}

/* What is in a snapshot: whose its tokens are, up to each end. */
enum { MOST = 16 };
typedef struct state {
    int64_t save, count;
    struct {
        int64_t of, end;
    } run[MOST];
} state;

static int64_t tokens_of(const state *is)
{
    return is->count ? is->run[is->count - 1].end : 0;
}

static int64_t save_of(const state *is, int64_t token)
{
    int64_t i = 0;
    while (token >= is->run[i].end) i++;
    return is->run[i].of;
}

static void read_state(const char *folder, state *out)
{
    size_t bytes = 0;
    if (banyan_snapshot_note(folder, out, sizeof *out, &bytes) || bytes != sizeof *out)
        say("the note");
}

static int save(const char *folder, int64_t n)
{
    banyan_plan *plan = make_plan();
    banyan_cache *cache = NULL;
    banyan_sequence *s = NULL;
    state is = {0};
    if (n % 3 != 1) read_state(folder, &is);
    if (is.count == MOST) is.count = 0;
    const int64_t at = tokens_of(&is), end = at + (at ? MORE : TOKENS);
    if (at &&
        (banyan_cache_open(plan, NULL, folder, &cache) || banyan_sequence_open(cache, 0, &s)))
        say("open");
    if (!at &&
        (banyan_cache_create(plan, NULL, &cache) || banyan_sequence_create(cache, 0, &s)))
        say("create");
    is.save = n;
    is.run[is.count].of = n;
    is.run[is.count++].end = end;
    append(cache, s, n, at, end);
    printf("rank %d is process %ld\n", banyan_comm_rank(comm), (long)getpid());
    fflush(stdout);
    if (banyan_comm_agree(comm, BANYAN_OK)) say("agree");
    usleep(50000); /* until their words have come */
    if (banyan_comm_rank(comm) == 0) puts("saves");
    fflush(stdout);
    const double start = seconds();
    if (banyan_cache_save(cache, folder, &is, sizeof is)) say("save");
    if (banyan_comm_rank(comm) == 0) printf("took %.6f\n", seconds() - start);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    return 0;
}

/* ---- what is there ----------------------------------------------------------------------- */

/* A record of the scalar kernel: keys, then values, row by row. */
static void check_record(const state *is, int32_t layer, int32_t head, int64_t block,
                         const float *record)
{
    for (int64_t t = 0; t < BLOCK && block * BLOCK + t < tokens_of(is); t++) {
        const int64_t token = block * BLOCK + t, of = save_of(is, token);
        for (int d = 0; d < DIM; d++) {
            const float x = number(of, layer, token, head * DIM + d);
            if (record[t * DIM + d] == x && record[(BLOCK + t) * DIM + d] == x) continue;
            fprintf(stderr, "save %lld: token %lld of layer %d, head %d is not of save %lld\n",
                    (long long)is->save, (long long)token, (int)layer, (int)head,
                    (long long)of);
            exit(1);
        }
    }
}

static int check(const char *folder)
{
    banyan_plan *plan = make_plan();
    banyan_cache *cache = NULL;
    banyan_sequence *s = NULL;
    state is;
    read_state(folder, &is);
    if (banyan_cache_open(plan, NULL, folder, &cache) || banyan_sequence_open(cache, 0, &s))
        say("open");
    if (banyan_sequence_length(s, -1) != tokens_of(&is)) say("another length");
    int64_t block;
    void *record;
    size_t bytes;
    for (int32_t layer = 0; layer < LAYERS; layer++)
        for (int32_t head = 0; head < KV_HEADS; head++)
            for (int64_t i = 0;
                 banyan_sequence_record(s, layer, head, i, &block, &record, &bytes); i++)
                check_record(&is, layer, head, block, record);
    if (banyan_comm_agree(comm, BANYAN_OK)) say("agree");
    if (banyan_comm_rank(comm) == 0) printf("is save %lld\n", (long long)is.save);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3 || banyan_comm_create(NULL, NULL, &comm)) return 2;
    const int code = argc > 3 ? save(argv[2], atoll(argv[3])) : check(argv[2]);
    banyan_comm_destroy(comm);
    return code;
}
