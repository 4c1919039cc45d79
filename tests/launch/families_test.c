/* SPDX-License-Identifier: Apache-2.0 */
/* What is read of a checkpoint's folder before any weight: configurations that are accepted
 * and what they mean, those that must be refused, and with which words; folders that hold
 * something else; digests; and the angles of every rotary kind, against the papers' formulas
 * written out again. */
#include "launch/model/family.h"
#include "launch/model/safetensors.h"
#include "tests/test.h"

#include <limits.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/banyan-families-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void drop(const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(remove(path) == 0);
}

/* ---- configurations ---------------------------------------------------------------------- */

#define LLAMA "\"architectures\":[\"LlamaForCausalLM\"],"
#define SHAPE                                                                                  \
    "\"hidden_size\":64,\"num_attention_heads\":4,\"intermediate_size\":96,"                   \
    "\"num_hidden_layers\":2,\"vocab_size\":100"
#define SCALED(words)                                                                          \
    "{" LLAMA SHAPE ",\"max_position_embeddings\":512,\"rope_scaling\":{" words "}}"

static const struct {
    const char *config, *words; /* words NULL: accepted */
} configs[] = {
    {"{" LLAMA SHAPE "}", NULL},
    {"{" LLAMA SHAPE ",\"rope_scaling\":null,\"max_position_embeddings\":1234}", NULL},
    {"{\"architectures\":null,\"model_type\":\"llama\"," SHAPE "}", NULL},
    {"{" LLAMA SHAPE ",\"a\":[NaN,-Infinity,\"NaN \\\" NaN\"],\"b\":Infinity}", NULL},
    {"{" LLAMA SHAPE ",\"vocab_size\":3}", NULL}, /* the last counts, as in Python */
    {"{" LLAMA SHAPE ",\"attention_bias\":true,\"mlp_bias\":true}", NULL},
    {"{" LLAMA SHAPE ",\"hidden_act\":\"gelu_pytorch_tanh\"}", NULL},
    {SCALED("\"type\":\"linear\",\"factor\":8"), NULL},
    {SCALED("\"rope_type\":\"yarn\",\"factor\":null,\"truncate\":false"), NULL},
    {"{\"architectures\":[\"BertModel\"]," SHAPE "}", "[\"BertModel\"]; expected"},
    {"{" LLAMA "\"model_type\":\"bert\"," SHAPE "}", "model_type is \"bert\"; expected llama"},
    {"{\"architectures\":[\"LlamaForTokenClassification\"],\"model_type\":\"llama\"," SHAPE "}",
     "expected LlamaForCausalLM"},
    {"{" SHAPE "}", "architectures is missing"},
    {SCALED("\"factor\":8"), "rope_type is missing"},
    {SCALED("\"rope_type\":\"llama3\",\"factor\":8.0"), "low_freq_factor is missing"},
    {SCALED("\"type\":\"linear\""), "factor is missing"},
    {SCALED("\"type\":\"mrope\",\"mrope_section\":[1]"),
     "rope_type is \"mrope\"; expected one of"},
    {SCALED("\"type\":\"su\",\"short_factor\":[1,1,1],\"long_factor\":[1,1,1,1,1,1,1,1]"),
     "short_factor is [1,1,1]; expected a list of 8 positive numbers"},
    {SCALED("\"rope_theta\":5e5},\"rope_theta\":{"), "rope_theta is {}"},
    {SCALED("\"rope_theta\":5e5},\"rope_theta\":2,\"x\":{"),
     "expected 2, which stands at the top"},
    {SCALED("},\"rope_parameters\":{\"rope_theta\":1"),
     "rope_scaling is {}; expected the same"},
    {"{" LLAMA SHAPE ",\"rope_theta\":Infinity}", "rope_theta is \"Infinity\"; expected a"},
    {"{" LLAMA SHAPE ",\"partial_rotary_factor\":0.2}", "partial_rotary_factor is 0.2"},
    {"{" LLAMA SHAPE ",\"hidden_act\":\"relu\"}",
     "hidden_act is \"relu\"; expected one of silu"},
    {"{" LLAMA SHAPE ",\"num_key_value_heads\":3}", "4 with 3 num_key_value_heads"},
    {"{" LLAMA SHAPE ",\"head_dim\":15}", "head_dim is 15; expected an even number"},
    {"{" LLAMA SHAPE ",\"head_dim\":\"x\"}", "head_dim is \"x\"; expected a positive integer"},
    {"{" LLAMA "\"hidden_size\":64}", "num_attention_heads is missing"},
    {"{" LLAMA SHAPE ",\"quantization_config\":{\"bits\":4}}", "quantization_config"},
    {"[]", "no JSON object"},
    {"{", "line 1"},
    {"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"},
};

static void test_configs(void)
{
    char why[1024];
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        description d;
        put("config.json", configs[i].config);
        why[0] = 0;
        banyan_status status = description_read(dir, &d, why, sizeof why);
        const char *words = configs[i].words;
        CHECK_MSG(words ? status && strstr(why, words) : !status,
                  "%s: got \"%s\", expected \"%s\"", configs[i].config, why,
                  words ? words : "no error");
        if (i == 0) CHECK(d.shape.kv_heads == 4 && d.shape.head_dim == 16 && !d.shape.tied);
        if (i == 0) CHECK(d.shape.rope_theta == 10000 && d.shape.norm_eps == 1e-6);
        if (i == 4) CHECK(d.shape.vocab == 3);
        if (i == 5) CHECK(d.qkv_bias && d.o_bias && d.mlp_bias);
        description_free(&d);
    }
    drop("config.json");
}

/* ---- folders that hold something else ---------------------------------------------------- */

static void test_folders(void)
{
    static const struct {
        const char *name, *words;
    } others[] = {{"pytorch_model.bin", "pytorch_model.bin: weights of PyTorch's own form"},
                  {"pytorch_model.bin.index.json", "save_pretrained()"},
                  {"consolidated.safetensors", "as their makers publish them"},
                  {"consolidated.00.pth", "consolidated.00.pth: weights as their makers"},
                  {"some-Q4_K_M.gguf", "some-Q4_K_M.gguf: a GGUF file"},
                  {"adapter_config.json", "an adapter, which is nothing without"},
                  {"snapshots", "snapshots/REVISION"},
                  {"other.safetensors", "safetensors under another name"}};
    char why[1024], path[PATH_MAX];
    model_shape shape;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        put(others[i].name, "x");
        CHECK(!safetensors_open(dir, why, sizeof why));
        CHECK_MSG(strstr(why, others[i].words), "%s: %s", others[i].name, why);
        CHECK(model_shape_read(dir, &shape, why, sizeof why) == BANYAN_ERR_CONFIG);
        CHECK_MSG(strstr(why, others[i].words), "%s: %s", others[i].name, why);
        drop(others[i].name);
    }
    put("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    CHECK(!safetensors_open(dir, why, sizeof why));
    CHECK_MSG(strstr(why, "model.safetensors: is a pointer of git-lfs"), "%s", why);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK(model_shape_read(path, &shape, why, sizeof why) &&
          strstr(why, "is a file; expected"));
    drop("model.safetensors");
    CHECK(model_shape_read(dir, &shape, why, sizeof why) &&
          strstr(why, "config.json: No such"));
    CHECK(!safetensors_open(dir, why, sizeof why) && strstr(why, "holds neither"));
}

/* ---- rotary kinds ------------------------------------------------------------------------ */

/* Heads of 16 entries, theta 5e5. What a pair turns a token, when all of a head does, or `dims`
 * of it. */
static double turns_of(int pair, int dims)
{
    return exp(-2 * pair * log(5e5) / dims);
}

static double plain(int i)
{
    return turns_of(i, 16);
}

static double want_plain(int i, double *factor)
{
    (void)factor;
    return plain(i);
}

static double want_half(int i, double *factor)
{
    (void)factor;
    return turns_of(i, 8);
}

static double want_llama3(int i, double *factor)
{
    double w = plain(i), turns = 64 * w / (2 * M_PI); /* within 64 tokens */
    (void)factor;
    if (turns > 4) return w;
    if (turns < 1) return w / 8;
    double s = (turns - 1) / 3;
    return w * (s + (1 - s) / 8);
}

static double want_linear(int i, double *factor)
{
    (void)factor;
    return plain(i) / 4;
}

static double want_dynamic(int i, double *factor)
{
    double theta = 5e5 * pow(4.0 * 700 / 512 - 3, 16.0 / 14);
    (void)factor;
    return pow(theta, -i / 8.0);
}

static double want_yarn(int i, double *factor)
{
    /* pairs that turn 32 times and once within 64 tokens: 8 ln(64 / (2 pi n)) / ln(5e5) =
     * -0.70, 1.41 */
    static const double ramp[8] = {0, 0.5, 1, 1, 1, 1, 1, 1};
    *factor = 0.1 * log(8) + 1;
    return plain(i) * (1 - ramp[i] + ramp[i] / 8);
}

/* DeepSeek's: sharper by what mscale is, less what mscale_all_dim is. */
static double want_yarn_mscale(int i, double *factor)
{
    const double w = want_yarn(i, factor);
    *factor = (0.1 * 0.7 * log(8) + 1) / (0.1 * 1.2 * log(8) + 1);
    return w;
}

/* A pair's number is linear in the logarithm of how often it turns: so is the ramp, from 16
 * times within 2048 tokens to twice. Pairs 2 and 3 turn 12.3 and 2.4 times. */
static double want_yarn_fraction(int i, double *factor)
{
    const double w = plain(i), turns = 2048 * w / (2 * M_PI);
    const double ramp = fmin(fmax(log(16 / turns) / log(16.0 / 2), 0), 1);
    *factor = 1.25;
    return w * (1 - ramp) + w / 4 * ramp;
}

static double want_short(int i, double *factor)
{
    *factor = sqrt(1 + log(8) / log(64));
    return plain(i) / (1 + i);
}

static double want_long(int i, double *factor)
{
    *factor = sqrt(1 + log(8) / log(64));
    return plain(i) / (10 + i);
}

static double want_long_said(int i, double *factor)
{
    *factor = 1.5;
    return plain(i) / (10 + i);
}

#define SAID(words)                                                                            \
    "{" LLAMA SHAPE ",\"max_position_embeddings\":512,\"rope_theta\":5e5" words "}"
#define ROPE(words) SAID(",\"rope_scaling\":{" words "}")
#define ORIGINAL "\"original_max_position_embeddings\":64"
#define LISTS                                                                                  \
    ORIGINAL ",\"short_factor\":[1,2,3,4,5,6,7,8],\"long_factor\":[10,11,12,13,14,15,16,17]"

/* Angles per token and the factor on cos and sin, by the formulas of each kind; for how many
 * tokens in all; and how many it is made for. */
static const struct {
    const char *kind, *config;
    double tokens;
    double (*want)(int pair, double *factor);
    int64_t reach;
} ropes[] = {
    {"default", SAID(""), 9, want_plain, 512},
    {"default", ROPE("\"rope_type\":\"default\""), 9, want_plain, 512},
    {"default", SAID(",\"partial_rotary_factor\":0.5"), 9, want_half, 512},
    {"linear", ROPE("\"type\":\"linear\",\"factor\":4"), 9, want_linear, 512},
    {"dynamic", ROPE("\"type\":\"dynamic\",\"factor\":4"), 700, want_dynamic, 2048},
    {"dynamic", ROPE("\"type\":\"dynamic\",\"factor\":4"), 300, want_plain, 2048},
    {"llama3",
     ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":"
          "4," ORIGINAL),
     9, want_llama3, 512},
    {"yarn", ROPE("\"rope_type\":\"yarn\",\"factor\":8," ORIGINAL), 9, want_yarn, 512},
    {"yarn", ROPE("\"rope_type\":\"yarn\",\"factor\":null," ORIGINAL), 9, want_yarn, 512},
    {"yarn",
     ROPE("\"type\":\"yarn\",\"factor\":8,\"mscale\":0.7,\"mscale_all_dim\":1.2," ORIGINAL), 9,
     want_yarn_mscale, 512},
    {"yarn",
     ROPE("\"type\":\"yarn\",\"factor\":8,\"mscale\":0.7,\"mscale_all_dim\":0," ORIGINAL), 9,
     want_yarn, 512},
    {"yarn",
     ROPE("\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":16,\"beta_slow\":2,\"truncate\":"
          "false,"
          "\"attention_factor\":1.25,\"original_max_position_embeddings\":2048"),
     9, want_yarn_fraction, 8192},
    {"longrope", ROPE("\"rope_type\":\"longrope\"," LISTS), 64, want_short, 512},
    {"longrope", ROPE("\"rope_type\":\"longrope\"," LISTS), 65, want_long, 512},
    {"longrope", ROPE("\"type\":\"su\",\"attention_factor\":1.5," LISTS), 65, want_long_said,
     512},
};
enum { ROPE_CASES = (int)(sizeof ropes / sizeof *ropes) };

static void test_rope(int number)
{
    char why[1024];
    description d;
    double frequency[ROPE_PAIRS], factor = 1;
    const char *config = ropes[number].config;
    put("config.json", config);
    CHECK_MSG(!description_read(dir, &d, why, sizeof why), "%s: %s", config, why);
    CHECK_MSG(!strcmp(d.rope[0].row->name, ropes[number].kind), "%s: is %s", config,
              d.rope[0].row->name);
    CHECK_MSG(d.shape.max_positions == ropes[number].reach, "%s: made for %lld tokens", config,
              (long long)d.shape.max_positions);
    const double got = d.rope[0].row->make(&d.rope[0], ropes[number].tokens, frequency);
    for (int i = 0; i < d.rope[0].dims / 2; i++) {
        const double w = ropes[number].want(i, &factor);
        CHECK_MSG(fabs(frequency[i] - w) <= 1e-13 * w, "%s, pair %d: %.17g, expected %.17g",
                  config, i, frequency[i], w);
    }
    CHECK_MSG(fabs(got - factor) <= 1e-14, "%s: factor %.17g, expected %.17g", config, got,
              factor);
    description_free(&d);
    drop("config.json");
}

/* Every row of ropes.def has a case. */
static void test_ropes(void)
{
    for (int i = 0; i < ROPE_CASES; i++) test_rope(i);
    for (int kind = 0; rope_kind(kind); kind++) {
        int cases = 0;
        for (int i = 0; i < ROPE_CASES; i++)
            cases += !strcmp(ropes[i].kind, rope_kind(kind)->name);
        CHECK_MSG(cases > 0, "no case of rotary kind %s", rope_kind(kind)->name);
    }
}

/* ---- digests ----------------------------------------------------------------------------- */

static void fill(const void *arg, int64_t row, float *out)
{
    for (int i = 0; i < 256; i++) out[i] = (float)(row * 256 + i) * *(const float *)arg;
}

static uint64_t digest_of(float scale, int shards, const char *config)
{
    const tensor_source list[] = {{"a", 400, 256, fill, &scale}, {"b", 3, 256, fill, &scale}};
    char why[1024] = "";
    uint64_t digest = 0;
    put("config.json", config);
    CHECK_MSG(safetensors_write(dir, list, 2, BANYAN_F32, shards, why, sizeof why), "%s", why);
    CHECK_MSG(!model_digest(dir, &digest, why, sizeof why), "%s", why);
    safetensors_remove(dir, shards);
    drop("config.json");
    return digest;
}

static void test_digest(void)
{
    const uint64_t first = digest_of(1, 1, "{}");
    CHECK(first != 0 && digest_of(1, 1, "{}") == first);
    CHECK(digest_of(1, 1, "{ }") != first);
    CHECK(digest_of(1.0001f, 1, "{}") != first);
    CHECK(digest_of(1, 2, "{}") != first);
}

int main(void)
{
    if (!mkdtemp(dir)) return 99;
    test_configs();
    test_folders();
    test_ropes();
    test_digest();
    rmdir(dir);
    return test_end();
}
