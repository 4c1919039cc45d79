/* SPDX-License-Identifier: Apache-2.0 */
/* The model runner on any number of ranks, on constructed checkpoints:
 *
 *   needle   prompts of 4096 tokens find what is in them, and say <none> for what is not; the
 *            probe sees the needle's whole mass, and what layer 0 copied
 *   work     matrix work is cut evenly, also with mixed heads, more ranks than divide anything
 *   calls    the same tokens in other chunks, or decoded one by one, give the same ids; wrong
 *            calls are refused in words
 *            a snapshot that is another by now is not gone on with
 *   nan      a NaN in a weight is found by the rank that has it, and told by all
 *   range    keys that are too large for the cache's format make an error, not an answer */
#include "launch/device.h"
#include "launch/model/model.h"
#include "tests/test.h"

#include <limits.h>
#include <math.h>
#include <unistd.h>

enum { TOKENS = 4096 };

static banyan_comm *comm;
static int rank, ranks;
static char dir[64] = "/tmp/banyan-model-XXXXXX";

static void make_checkpoint(const constructed_spec *spec)
{
    char why[1024] = "";
    static int is_made; /* a name may well end in X */
    if (rank == 0 && !is_made) CHECK(mkdtemp(dir) != NULL);
    is_made = 1;
    CHECK(!banyan_comm_broadcast(comm, dir, sizeof dir, 0));
    if (rank == 0) CHECK_MSG(!constructed_write(dir, spec, why, sizeof why), "%s", why);
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
}

/* Layer 0 copies its neighbours: a short window. Layer 1 as given. */
static void fill_spec(banyan_spec *spec, banyan_rule rules[2], const char *use,
                      banyan_dtype cache, int32_t max_rows)
{
    rules[0] = (banyan_rule){0, 0, 0, -1, "sink_window sink=1 window=2"};
    rules[1] = (banyan_rule){1, 1, 0, -1, use};
    banyan_spec_init(spec);
    spec->rules = rules;
    spec->rule_count = 2;
    spec->max_tokens = TOKENS + 64;
    spec->max_rows = max_rows;
    spec->rollback_tokens = 64;
    spec->cache_dtype = cache;
    spec->threads = 1;
}

static model *open_model(const char *use, banyan_dtype cache, int32_t max_rows)
{
    banyan_rule rules[2];
    banyan_spec spec;
    char why[1024] = "";
    model *m = NULL;
    fill_spec(&spec, rules, use, cache, max_rows);
    banyan_status status = model_open(dir, &spec, comm, &device_cpu, NULL, &m, why, sizeof why);
    CHECK_MSG(!status, "%s", why);
    if (status) exit(50);
    return m;
}

typedef struct prompt {
    uint32_t ids[TOKENS + 16], key[3], value[4];
    int32_t count, needle; /* needle: where its <K> is */
} prompt;

static uint32_t word(uint64_t *seed)
{
    return CONSTRUCTED_WORDS +
           (uint32_t)test_below(seed, CONSTRUCTED_VOCAB - CONSTRUCTED_WORDS);
}

/* BOS x 4, words with the needle at `depth`, and the question (about another key when
 * `absent`). */
static void make_prompt(prompt *p, uint64_t seed, double depth, int absent)
{
    const int32_t tail = 5;
    p->count = TOKENS;
    for (int i = 0; i < 3; i++) p->key[i] = word(&seed);
    for (int i = 0; i < 4; i++) p->value[i] = word(&seed);
    for (int i = 0; i < TOKENS; i++) p->ids[i] = i < 4 ? CONSTRUCTED_BOS : word(&seed);
    p->needle = 4 + (int32_t)(depth * (TOKENS - tail - 4 - 10));
    uint32_t *n = p->ids + p->needle, *q = p->ids + TOKENS - tail;
    *n++ = CONSTRUCTED_KEY;
    for (int i = 0; i < 3; i++) *n++ = p->key[i];
    *n++ = CONSTRUCTED_VALUE;
    for (int i = 0; i < 4; i++) *n++ = p->value[i];
    *n = CONSTRUCTED_DOT;
    *q++ = CONSTRUCTED_QUESTION;
    for (int i = 0; i < 3; i++) *q++ = absent ? word(&seed) : p->key[i];
    *q = CONSTRUCTED_VALUE;
}

static void check_status(const model *m, banyan_status status)
{
    CHECK_MSG(!status, "%s", model_message(m));
    if (status) exit(51);
}

/* Every head of layer 1 puts its mass on the first token of the value, and hands on its
 * code. */
static void check_probe(model *m, const prompt *p)
{
    enum { HEADS = 12, DIM = 128 };
    float out[HEADS * DIM], lse[HEADS], mass[HEADS];
    int8_t code[CONSTRUCTED_CODE];
    model_probe probe = {1, p->needle + 5, 1, out, lse, mass, NULL};
    int32_t heads = model_get_shape(m)->heads;
    check_status(m, model_forward(m, TOKENS - 2, p->ids + TOKENS - 2, 2, 1, NULL, NULL, &probe,
                                  NULL, NULL));
    constructed_code(p->value[0], code);
    for (int32_t h = 0; h < heads; h++) {
        CHECK_MSG(mass[h] > 0.999f && mass[h] < 1.001f, "head %d: mass %g", h, mass[h]);
        CHECK_MSG(lse[h] > 150 && lse[h] < 250, "head %d: lse %g", h,
                  lse[h]);            /* 3 beta = 183 */
        for (int i = 0; i < DIM; i++) /* leak 1e-3, values in bf16 exact */
            CHECK_MSG(fabsf(out[h * DIM + i] - code[i]) < 2e-3f, "head %d, %d: %g", h, i,
                      out[h * DIM + i]);
    }
    /* layer 0, where all rows are attended: head h has copied the token 1 + h mod 3 back */
    for (int32_t rows = 1; rows <= 2; rows++) {
        float two[2 * HEADS * DIM];
        probe = (model_probe){.layer = 0, .out = two};
        check_status(m, model_forward(m, TOKENS - 2, p->ids + TOKENS - 2, 2, rows, NULL, NULL,
                                      &probe, NULL, NULL));
        for (int i = 0; i < rows * heads; i++) {
            int32_t token = TOKENS - rows + i / heads;
            constructed_code(p->ids[token - constructed_offset(i % heads)], code);
            for (int e = 0; e < DIM; e += 17)
                CHECK_MSG(fabsf(two[i * DIM + e] - code[e]) < 1e-2f, "layer 0, row %d head %d",
                          i / heads, i % heads);
        }
    }
}

static void ask(model *m, const prompt *p, const uint32_t *expected, int count)
{
    uint32_t next;
    int64_t at = 0, rows = p->count;
    uint32_t ids[TOKENS + 16];
    memcpy(ids, p->ids, sizeof ids);
    for (int i = 0; i < count; i++) {
        check_status(m, model_forward(m, at, ids + at, rows, 1, NULL, &next, NULL, NULL, NULL));
        CHECK_MSG(next == expected[i], "answer %d is %u, expected %u", i, next, expected[i]);
        at += rows;
        rows = 1;
        ids[at] = next;
    }
}

static void test_needle(int32_t heads, int32_t kv_heads, const char *use)
{
    static const double depths[] = {0, 0.37, 0.98};
    constructed_spec asked = {TOKENS, heads, kv_heads, BANYAN_BF16, 1, 0, 0};
    prompt p;
    char why[1024];
    make_checkpoint(&asked);
    model *m = open_model(use, BANYAN_BF16, 1024);
    for (int d = 0; d < 3; d++) {
        make_prompt(&p, 11 + (uint64_t)d, depths[d], 0);
        uint32_t expected[5] = {p.value[0], p.value[1], p.value[2], p.value[3],
                                CONSTRUCTED_DOT};
        ask(m, &p, expected, 5);
        if (strcmp(use, "dense") == 0) check_probe(m, &p);
        banyan_rule rules[2];
        banyan_spec spec;
        fill_spec(&spec, rules, use, BANYAN_BF16, 1024);
        CHECK_MSG(!model_reset(m, &spec, why, sizeof why), "%s", why);
    }
    const uint32_t none = CONSTRUCTED_NONE;
    make_prompt(&p, 3, 0.5, 1);
    ask(m, &p, &none, 1);
    model_close(m);
}

static void test_work(int32_t heads, int32_t kv_heads, const char *use)
{
    constructed_spec spec = {TOKENS, heads, kv_heads, BANYAN_BF16, 1, 0, 0};
    prompt p;
    make_checkpoint(&spec);
    make_prompt(&p, 1, 0.5, 0);
    /* what one rank would do: all matrices of layer 0, k and v of layer 1 for all tokens; the
     * rest of layer 1 and the head for one */
    const double hidden = 768, dim = 128, mlp = 3 * 16;
    double q = heads * dim * hidden, kv = 2 * kv_heads * dim * hidden;
    double one = 1000 * (2 * q + kv + mlp * hidden + kv) + 2 * q + mlp * hidden +
                 CONSTRUCTED_VOCAB * hidden;
    banyan_rule rules[2] = {{0, 0, 0, -1, "sink_window sink=1 window=2"}, {1, 1, 2, -1, use}};
    banyan_spec s;
    char why[1024];
    model *m = NULL;
    uint32_t next;
    banyan_spec_init(&s);
    s.rules = rules, s.rule_count = 2;
    s.max_tokens = TOKENS, s.max_rows = 512, s.threads = 1;
    CHECK_MSG(!model_open(dir, &s, comm, &device_cpu, NULL, &m, why, sizeof why), "%s", why);
    if (!m) return;
    check_status(m, model_forward(m, 0, p.ids, 1000, 1, NULL, &next, NULL, NULL, NULL));
    double mine = (double)model_matrix_work(m), sum = mine, most = mine;
    CHECK(!banyan_comm_allreduce(comm, &sum, 1, BANYAN_SUM));
    CHECK(!banyan_comm_allreduce(comm, &most, 1, BANYAN_MAX));
    CHECK_MSG(sum >= one * 0.999 && sum <= 1.15 * one, "%g of %g", sum, one);
    CHECK_MSG(most <= 1.3 * sum / ranks, "busiest %g, mean %g", most, sum / ranks);
    model_close(m);
}

/* 600 tokens in chunks of 128 and of 512, by prefill and one by one: the same greedy ids. */
static void test_calls(void)
{
    constructed_spec spec = {TOKENS, 8, 2, BANYAN_F32, 3, 0, 0};
    prompt p;
    uint32_t wide[40], narrow[40], single;
    static float logits[40 * CONSTRUCTED_VOCAB];
    make_checkpoint(&spec);
    make_prompt(&p, 21, 0.01, 0);
    model *m = open_model("dense", BANYAN_F32, 512);
    check_status(m, model_forward(m, 0, p.ids, 600, 40, logits, wide, NULL, NULL, NULL));
    for (int row = 0; row < 40; row++) {
        const float *l = logits + row * CONSTRUCTED_VOCAB;
        uint32_t best = 0;
        for (uint32_t id = 1; id < CONSTRUCTED_VOCAB; id++)
            if (l[id] > l[best]) best = id;
        CHECK_MSG(best == wide[row], "row %d: %u, by its logits %u", row, wide[row], best);
    }
    for (int i = 0; i < 40; i++) { /* goes back 40 tokens, within rollback_tokens */
        check_status(m, model_forward(m, 560 + i, p.ids + 560 + i, 1, 1, NULL, &single, NULL,
                                      NULL, NULL));
        CHECK_MSG(single == wide[i], "token %d alone: %u, %u", 560 + i, single, wide[i]);
    }
    CHECK(model_forward(m, 600, p.ids, 10, 11, NULL, narrow, NULL, NULL, NULL) &&
          strstr(model_message(m), "11 rows of 10 tokens"));
    uint32_t strange[2] = {5, CONSTRUCTED_VOCAB};
    CHECK(model_forward(m, 600, strange, 2, 1, NULL, narrow, NULL, NULL, NULL) &&
          strstr(model_message(m), "id 32768 at token 601 is beyond the vocabulary of 32768"));
    model_probe probe = {.layer = 2};
    CHECK(model_forward(m, 600, p.ids, 2, 1, NULL, narrow, &probe, NULL, NULL) &&
          strstr(model_message(m), "layer 2"));
    CHECK(model_forward(m, 700, p.ids, 2, 1, NULL, narrow, NULL, NULL, NULL)); /* a gap */
    model_close(m);
    m = open_model("dense", BANYAN_F32, 128);
    check_status(m, model_forward(m, 0, p.ids, 600, 40, NULL, narrow, NULL, NULL, NULL));
    CHECK(memcmp(wide, narrow, sizeof wide) == 0);
    model_close(m);
}

/* A snapshot that is another than the one whose ids were read is not gone on with. */
static void test_snapshot(void)
{
    constructed_spec spec = {TOKENS, 8, 2, BANYAN_F32, 3, 0, 0};
    prompt p, other;
    uint32_t next, again;
    char folder[96];
    make_checkpoint(&spec);
    make_prompt(&p, 21, 0.01, 0);
    make_prompt(&other, 22, 0.01, 0);
    snprintf(folder, sizeof folder, "%s/s", dir);
    model *m = open_model("dense", BANYAN_F32, 512);
    check_status(m, model_forward(m, 0, p.ids, 600, 0, NULL, NULL, NULL, NULL, NULL));
    check_status(m, model_save(m, folder, p.ids, 600));
    check_status(m, model_forward(m, 600, p.ids + 600, 9, 1, NULL, &next, NULL, NULL, NULL));
    CHECK(model_load(m, folder, other.ids, 600) && model_length(m) == 609);
    CHECK_MSG(strstr(model_message(m), "another snapshot took the place"), "%s",
              model_message(m));
    CHECK(model_load(m, folder, p.ids, 599) && model_length(m) == 609);
    check_status(m, model_load(m, folder, p.ids, 610));
    CHECK(model_length(m) == 600);
    check_status(m, model_forward(m, 600, p.ids + 600, 9, 1, NULL, &again, NULL, NULL, NULL));
    CHECK(next == again);
    model_close(m);
}

/* The fp32 tensor `name` times `factor`, in the file. */
static void scale_tensor(const char *path, const char *name, float factor)
{
    static char header[1 << 16];
    uint64_t bytes = 0;
    long long from = 0, to = 0;
    FILE *f = fopen(path, "r+b");
    CHECK(f && fread(&bytes, sizeof bytes, 1, f) == 1 && bytes < sizeof header);
    CHECK(f && fread(header, bytes, 1, f) == 1);
    const char *at = strstr(header, name);
    at = at ? strstr(at, "data_offsets") : NULL;
    CHECK(at && sscanf(at, "data_offsets\":[%lld,%lld", &from, &to) == 2);
    for (long long i = from; f && i < to; i += (long long)sizeof(float)) {
        float x;
        CHECK(!fseek(f, (long)(8 + bytes) + (long)i, SEEK_SET) &&
              fread(&x, sizeof x, 1, f) == 1);
        x *= factor;
        if (x == 0) continue;
        CHECK(!fseek(f, -(long)sizeof x, SEEK_CUR) && fwrite(&x, sizeof x, 1, f) == 1);
    }
    CHECK(f && !fclose(f));
}

static void test_range(void)
{
    constructed_spec spec = {TOKENS, 8, 2, BANYAN_F32, 1, 0, 0};
    char path[PATH_MAX];
    prompt p;
    uint32_t next;
    float lse[16], mass[16];
    static float logits[CONSTRUCTED_VOCAB];
    model_probe probe = {1, 4, 1, NULL, lse, NULL, NULL},
                masses = {1, 4, 1, NULL, NULL, mass, NULL};
    make_checkpoint(&spec);
    make_prompt(&p, 5, 0.01, 0);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (rank == 0) scale_tensor(path, "model.layers.1.self_attn.k_proj.weight", 1e6f);
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
    model *m = open_model("dense", BANYAN_F32, 512);
    check_status(m, model_forward(m, 0, p.ids, 600, 1, NULL, &next, &probe, NULL, NULL));
    model_close(m);
    m = open_model("dense", BANYAN_F16, 512);
    CHECK(model_forward(m, 0, p.ids, 600, 1, NULL, &next, NULL, NULL, NULL) ==
          BANYAN_ERR_ARGUMENT);
    CHECK_MSG(strstr(model_message(m), "the logits of token 599 are not finite: the cache's "
                                       "format is fp16"),
              "%s", model_message(m));
    CHECK_MSG(strstr(model_message(m), "cache.dtype=BF16"), "%s", model_message(m));
    CHECK(model_forward(m, 600, p.ids, 2, 1, logits, NULL, NULL, NULL, NULL) &&
          strstr(model_message(m), "the logits of token 601"));
    CHECK(model_forward(m, 602, p.ids, 2, 2, NULL, NULL, &probe, NULL, NULL) &&
          strstr(model_message(m), "lse of token 602"));
    CHECK(model_forward(m, 604, p.ids, 2, 1, NULL, NULL, &masses, NULL, NULL) &&
          strstr(model_message(m), "masses of token 605"));
    model_close(m);
}

/* One weight becomes NaN, in the middle of the last matrix: the rank that has it finds it. */
static void test_nan(void)
{
    constructed_spec spec = {TOKENS, 8, 2, BANYAN_F32, 1, 0, 0};
    banyan_spec s;
    char why[1024] = "", path[PATH_MAX];
    model *m = NULL;
    make_checkpoint(&spec);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (rank == 0) {
        const float nan = NAN;
        FILE *f = fopen(path, "r+b");
        CHECK(f && fseek(f, -(long)sizeof nan * (768L * 12345 + 3), SEEK_END) == 0);
        CHECK(f && fwrite(&nan, sizeof nan, 1, f) == 1 && fclose(f) == 0);
    }
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
    banyan_spec_init(&s);
    s.max_tokens = 64;
    CHECK(model_open(dir, &s, comm, &device_cpu, NULL, &m, why, sizeof why) ==
          BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(why, "tensor 'lm_head.weight' holds a NaN or an infinity at [20422, 765]"),
              "%s", why);
    if (rank == 0) CHECK(truncate(path, 1000) == 0);
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
    CHECK(model_open(dir, &s, comm, &device_cpu, NULL, &m, why, sizeof why) ==
          BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(why, "truncated"), "%s", why);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    CHECK(!banyan_comm_create(NULL, NULL, &comm));
    rank = banyan_comm_rank(comm);
    ranks = banyan_comm_size(comm);
    if (strcmp(what, "needle") == 0) {
        test_needle(8, 2, "dense");
        test_needle(12, 4, "s2 stride=4 local=4 per=query");
    } else if (strcmp(what, "work") == 0) {
        test_work(8, 2, "s2 stride=8 local=4 per=query");
        test_work(6, 3, "sink_window sink=1 window=4");
    } else {
        test_calls();
        test_snapshot();
        test_range();
        test_nan();
    }
    char command[PATH_MAX];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    CHECK(!banyan_comm_agree(comm, BANYAN_OK));
    if (rank == 0) CHECK(system(command) == 0);
    banyan_comm_destroy(comm);
    return test_end();
}
