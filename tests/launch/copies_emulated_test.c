/* SPDX-License-Identifier: Apache-2.0 */
/* How often a decoded token is copied between the host and the (emulated) GPU: the test fails
 * when activations go to and fro.
 *
 *     one rank            in: where the token is, and its id. out: the next id, or it and the
 *                         logits. From the second token on they are a graph, and the cache
 *                         step's lists come in as well
 *     P ranks over MPI    and for each exchange, of which a layer has five at most (q, k and v;
 *                         outputs; o; gate and up; down), one copy out and one in; where
 *                         banyan_attend merges heads that lie on several ranks, a copy more for
 *                         each other rank and layer */
#include "launch/device.h"
#include "launch/model/model.h"
#include "launch/model/safetensors.h"
#include "emulator.h"
#include "tests/test.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { LAYERS = 2, PROMPT = 57, STEPS = 10, EXCHANGES = 5 };

static banyan_comm *comm;
static int rank, ranks;
static char dir[64] = "/tmp/banyan-copies-XXXXXX";
static int heads = 4, kv_heads = 2;

/* A Llama that is small, since the emulator opens and closes all of the device's memory around
 * every kernel; its weights are drawn. */
static void fill_row(const void *arg, int64_t row, float *out)
{
    const tensor_source *t = arg;
    const int64_t width = t->cols ? t->cols : t->rows;
    uint64_t seed = (uint64_t)(row * 131 + t->name[13] * 17 + (int64_t)strlen(t->name));
    for (int64_t i = 0; i < width; i++) {
        const float x = test_normal(&seed);
        out[i] = t->cols ? x * (float)(1.5 / sqrt((double)width)) : 1 + 0.1f * x;
    }
}

static void write_checkpoint(void)
{
    const int64_t q = heads * 64, kv = kv_heads * 64;
    const struct {
        const char *name;
        int64_t rows, cols;
    } parts[] = {{"input_layernorm", 96, 0},   {"post_attention_layernorm", 96, 0},
                 {"self_attn.q_proj", q, 96},  {"self_attn.k_proj", kv, 96},
                 {"self_attn.v_proj", kv, 96}, {"self_attn.o_proj", 96, q},
                 {"mlp.gate_proj", 160, 96},   {"mlp.up_proj", 160, 96},
                 {"mlp.down_proj", 96, 160}};
    enum { PARTS = sizeof parts / sizeof parts[0], ALL = LAYERS * PARTS + 3 };
    static tensor_source all[ALL] = {{"model.embed_tokens.weight", 211, 96, fill_row, NULL},
                                     {"model.norm.weight", 96, 0, fill_row, NULL},
                                     {"lm_head.weight", 211, 96, fill_row, NULL}};
    char why[1024] = "", config[512];
    snprintf(config, sizeof config,
             "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 96, "
             "\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": 64, "
             "\"intermediate_size\": 160, \"vocab_size\": 211, \"rms_norm_eps\": 1e-5}",
             heads, kv_heads);
    for (int i = 3; i < ALL; i++) {
        const int part = (i - 3) % PARTS;
        all[i] = (tensor_source){"", parts[part].rows, parts[part].cols, fill_row, NULL};
        snprintf(all[i].name, sizeof all[i].name, "model.layers.%d.%s.weight", (i - 3) / PARTS,
                 parts[part].name);
    }
    for (int i = 0; i < ALL; i++) all[i].arg = &all[i];
    CHECK_MSG(safetensors_write(dir, all, ALL, BANYAN_F32, 1, why, sizeof why) &&
                  text_write(dir, "config.json", config, why, sizeof why),
              "%s", why);
}

static void make_checkpoint(void)
{
    static bool is_made; /* a name may well end in X */
    if (rank == 0 && !is_made) CHECK(mkdtemp(dir) != NULL);
    is_made = true;
    CHECK(!banyan_comm_broadcast(comm, dir, sizeof dir, 0));
    if (rank == 0) write_checkpoint();
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
}

static model *open_model(device *d, const char *placement)
{
    banyan_spec spec;
    char why[1024] = "";
    model *m = NULL;
    banyan_spec_init(&spec);
    spec.max_tokens = 256;
    spec.max_rows = 64;
    spec.cache_dtype = BANYAN_BF16;
    spec.threads = 1;
    spec.rollback_tokens = 4;
    spec.placement = placement;
    spec.device = d->row->name;
    if (model_open(dir, &spec, comm, d, NULL, &m, why, sizeof why)) {
        CHECK_MSG(0, "%s", why);
        exit(50);
    }
    return m;
}

/* What the tokens after a prompt are, and what each copies. */
typedef struct told {
    uint32_t id[STEPS];
    struct emulator_counts before, after; /* of the last */
} told;

/* What a snapshot has read is gone on with in a cache of its own, in which no graph of the
 * cache before it reads. */
static void reopen(model *m, const uint32_t *ids, int64_t at)
{
    uint32_t next[2] = {0, 1};
    char folder[80];
    snprintf(folder, sizeof folder, "%s/snapshot", dir);
    CHECK_MSG(!model_save(m, folder, ids, at), "%s", model_message(m));
    for (int i = 0; i < 2; i++) {
        if (i) CHECK_MSG(!model_load(m, folder, ids, at), "%s", model_message(m));
        CHECK_MSG(!model_forward(m, at, ids + at, 1, 1, NULL, &next[i], NULL, NULL, NULL), "%s",
                  model_message(m));
    }
    CHECK(next[0] == next[1]);
}

/* A prompt, tokens one by one, two at once, and tokens again, across the end of a block of
 * 64. */
static told go_on(model *m, float *logits)
{
    uint32_t ids[PROMPT + STEPS + 2] = {0};
    uint64_t seed = 5;
    told t = {0};
    int64_t at = 0, rows = PROMPT;
    for (int i = 0; i < PROMPT; i++) ids[i] = (uint32_t)test_below(&seed, 211);
    for (int i = 0; i < STEPS; i++) {
        t.before = emulator_count();
        CHECK_MSG(!model_forward(m, at, ids + at, rows, 1, logits, &t.id[i], NULL, NULL, NULL),
                  "%s", model_message(m));
        t.after = emulator_count();
        at += rows;
        rows = i == 4 ? 2 : 1;
        ids[at] = t.id[i];
        ids[at + rows - 1] = t.id[i];
    }
    /* back by one token, which is forgotten and read again */
    uint32_t again = UINT32_MAX;
    CHECK_MSG(!model_forward(m, at - 1, ids + at - 1, 1, 1, NULL, &again, NULL, NULL, NULL),
              "%s", model_message(m));
    CHECK(again == t.id[STEPS - 1]);
    reopen(m, ids, at);
    return t;
}

static void check_copies(const told *t, const char *what, bool merges)
{
    const int64_t in = t->after.to_device - t->before.to_device;
    const int64_t out = t->after.to_host - t->before.to_host;
    const int64_t exchanged = ranks > 1 ? EXCHANGES * LAYERS : 0;
    /* a step's lists, or without a graph each layer's, where they are no kernel's parameters */
    const bool is_graph = ranks == 1 && heads / kv_heads <= 32;
    const int64_t lists = is_graph ? 1 : ranks == 1 ? LAYERS : 0;
    const int64_t most = 1 + lists + exchanged + (merges ? (ranks - 1) * LAYERS : 0);
    if (getenv("COPIES_SAY"))
        fprintf(stderr, "%s, rank %d of %d: %d in, %d out, %d kernels\n", what, rank, ranks,
                (int)in, (int)out, (int)(t->after.kernels - t->before.kernels));
    CHECK_MSG(in >= 1 && in <= most, "%s, rank %d: %d copies in", what, rank, (int)in);
    CHECK_MSG(out >= 1 && out <= most, "%s, rank %d: %d copies out", what, rank, (int)out);
    if (is_graph)
        CHECK_MSG(t->after.kernels - t->before.kernels <= 2, "%s: %d kernels beside the graph",
                  what, (int)(t->after.kernels - t->before.kernels));
}

static void check_placement(device *d, const char *placement)
{
    const bool merges = strcmp(placement, "heads") != 0;
    model *m = open_model(d, placement), *cpu = open_model(&device_cpu, placement);
    const int32_t vocab = model_get_shape(m)->vocab;
    float *logits = malloc((size_t)vocab * sizeof *logits);
    float *expected = malloc((size_t)vocab * sizeof *expected);
    CHECK(logits && expected);
    const told ids = go_on(m, NULL), same = go_on(cpu, expected);
    model_close(m);
    m = open_model(d, placement);
    const told with = go_on(m, logits);
    check_copies(&ids, placement, merges);
    check_copies(&with, "with logits", merges);
    CHECK(!memcmp(ids.id, same.id, sizeof ids.id) && !memcmp(ids.id, with.id, sizeof ids.id));
    double error = 0, size = 0;
    for (int32_t i = 0; i < vocab; i++) {
        error += pow((double)logits[i] - expected[i], 2);
        size += pow((double)expected[i], 2);
    }
    /* attention rounds weights to bf16 on a device, and not on the CPU */
    CHECK_MSG(error <= 0x1p-14 * size, "logits: %g of %g", error, size);
    model_close(m);
    model_close(cpu);
    free(logits);
    free(expected);
}

int main(void)
{
    char why[256] = "", command[128];
    device *d = NULL;
    CHECK(!banyan_comm_create(NULL, NULL, &comm));
    rank = banyan_comm_rank(comm);
    ranks = banyan_comm_size(comm);
    make_checkpoint();
    const device_row *row = device_find("cuda", why, sizeof why);
    CHECK_MSG(row && !device_open(row, 0, &d, why, sizeof why), "%s", why);
    if (!d) return test_end();
    check_placement(d, "heads");
    if (ranks > 1) {
        check_placement(d, "line");
    } else { /* more query heads than the library captures: token by token */
        heads = 40, kv_heads = 1;
        make_checkpoint();
        check_placement(d, "heads");
    }
    device_close(d);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
    if (rank == 0) CHECK(system(command) == 0);
    banyan_comm_destroy(comm);
    return test_end();
}
