/* SPDX-License-Identifier: Apache-2.0 */
/* Pattern files in the shapes in which they are published, written here: the rules that they
 * become, and the words that wrong ones get. */
#include "launch/pattern/pattern.h"
#include "tests/test.h"

#include <math.h>
#include <unistd.h>

static char folder[] = "/tmp/banyan_pattern_XXXXXX";

static const char *put(const char *name, const char *text)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (!f) abort();
    fputs(text, f);
    fclose(f);
    return path;
}

static void take_away(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

/* What a file becomes, or the words of its refusal. */
static void expect(pattern_wish wish, const char *name, const char *text, const char *rules)
{
    char note[256], why[1024] = "";
    wish.path = put(name, text);
    char *got = pattern_read(&wish, note, sizeof note, why, sizeof why);
    CHECK_MSG(got && !strcmp(got, rules), "%s: %s%s\n    expected\n%s", name, got ? got : "",
              why, rules);
    free(got);
}

static void refuse(pattern_wish wish, const char *name, const char *text, const char *words)
{
    char note[256], why[1024] = "";
    wish.path = put(name, text);
    char *got = pattern_read(&wish, note, sizeof note, why, sizeof why);
    CHECK_MSG(!got && strstr(why, words), "\"%s\" gives \"%s\", which lacks \"%s\"", text,
              got ? got : why, words);
    free(got);
}

/* ---- DuoAttention ------------------------------------------------------------------------ */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* numpy.quantile's default. */
static double quantile(const double *value, int count, double share)
{
    double *sorted = malloc((size_t)count * sizeof *sorted);
    if (!sorted) abort();
    memcpy(sorted, value, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    const double at = share * (count - 1);
    const int low = (int)floor(at), high = low + 1 < count ? low + 1 : low;
    const double out = sorted[low] + (sorted[high] - sorted[low]) * (at - low);
    free(sorted);
    return out;
}

/* Which rule of a text is for a head of a layer: the last that matches. */
static int is_dense(const char *rules, int layer, int head)
{
    int dense = -1;
    for (const char *line = rules; *line; line = strchr(line, '\n') + 1) {
        int l[2], h[2];
        const char *at = strstr(line, "layers: \"") + 9;
        if (sscanf(at, "%d-%d", &l[0], &l[1]) < 2) l[1] = l[0];
        at = strstr(line, "heads: \"") + 8;
        if (sscanf(at, "%d-%d", &h[0], &h[1]) < 2) h[1] = h[0];
        if (layer < l[0] || layer > l[1] || head < h[0] || head > h[1]) continue;
        dense = !strncmp(strstr(line, "use: \"") + 6, "dense\"", 6);
    }
    return dense;
}

enum { LAYERS = 12, KV_HEADS = 8, GROUP = 4, COUNT = LAYERS * KV_HEADS };

static void check_classes(const double *value, const char *name, const char *sparsity,
                          const char *threshold, double least)
{
    char note[256], why[1024] = "", path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    pattern_wish wish = {
        .path = path, .sparsity = sparsity, .threshold = threshold, .heads = KV_HEADS * GROUP};
    char *rules = pattern_read(&wish, note, sizeof note, why, sizeof why);
    CHECK_MSG(rules, "%s", why);
    for (int i = 0; rules && i < COUNT; i++)
        for (int q = 0; q < GROUP; q++)
            CHECK_MSG(
                is_dense(rules, i / KV_HEADS, i % KV_HEADS * GROUP + q) == (value[i] >= least),
                "%s %s: layer %d, KV head %d of %.3f, quantile %.3f", sparsity ? sparsity : "",
                threshold ? threshold : "", i / KV_HEADS, i % KV_HEADS, value[i], least);
    CHECK(wish.layers == LAYERS && wish.kv_heads == KV_HEADS);
    free(rules);
}

/* Scores as numpy.savetxt writes them, some a little below 0 and above 1. */
static void test_duo_classes(void)
{
    uint64_t seed = 9;
    double value[COUNT];
    char text[COUNT * 32] = "", *at = text;
    for (int i = 0; i < COUNT; i++) {
        const double raw = test_uniform(&seed) * 1.02 - 0.01;
        at += sprintf(at, "%.18e%c", raw, i % KV_HEADS == KV_HEADS - 1 ? '\n' : '\t');
        value[i] = raw < 0 ? 0 : raw > 1 ? 1 : raw;
    }
    put("full_attention_heads.tsv", text);
    static const double shares[] = {0.1, 0.25, 0.5, 0.75, 0.9};
    for (int i = 0; i < 5; i++) {
        char share[16];
        snprintf(share, sizeof share, "%g", shares[i]);
        check_classes(value, "full_attention_heads.tsv", share, NULL,
                      quantile(value, COUNT, shares[i]));
    }
    check_classes(value, "full_attention_heads.tsv", "0", NULL, -1);
    check_classes(value, "full_attention_heads.tsv", "1", NULL, 2);
    check_classes(value, "full_attention_heads.tsv", NULL, "0.3", 0.3);
    check_classes(value, "full_attention_heads.tsv", NULL, NULL, 0.5);
    check_classes(value, "", "0.5", NULL, quantile(value, COUNT, 0.5)); /* its folder */
}

static void test_duo(void)
{
    const pattern_wish two = {.heads = 4, .threshold = "0.5"};
    static const char file[] = "8.6e-01\t-1.0e-04\r\n1.0\t1.0\n\n";
    put("config.json", "{\"sink_size\": 128, \"recent_size\": 256, \"deploy_sink_size\": null, "
                       "\"deploy_recent_size\": 320, \"threshold\": 0.5, \"sparsity\": null}");
    expect(two, "full.tsv", file,
           "rule { layers: \"0\" heads: \"0-1\" use: \"dense\" }\n"
           "rule { layers: \"0\" heads: \"2-3\" use: \"sink_window sink=128t window=320t\" }\n"
           "rule { layers: \"1\" heads: \"0-3\" use: \"dense\" }\n");
    refuse(two, "full.tsv", "1\t2\n1\t2\t3\n", "full.tsv:2: 3 values; the lines before have 2");
    refuse(two, "full.tsv", "1\t2\n1\tx\n", "full.tsv:2: value 2 is \"x\"; expected a number");
    refuse(two, "full.tsv", "1\tnan\n", "full.tsv:1: value 2 is \"nan\"; expected a number");
    refuse(two, "full.tsv", "1\t\n", "full.tsv:1: value 2 is \"\"; expected a number");
    refuse(two, "full.tsv", "1\t2\t3\n",
           "lists 3 KV heads a layer; expected a divisor of the "
           "4 query heads");
    refuse(two, "full.tsv", "  \n", "full.tsv: empty; expected a pattern file");
    pattern_wish wrong = {.heads = 4, .kv_heads = 4};
    refuse(wrong, "full.tsv", file, "2 layers of 2 KV heads; the model has 2 of 4");
    wrong = (pattern_wish){.heads = 4, .layers = 3};
    refuse(wrong, "full.tsv", file, "2 layers of 2 KV heads; the model has 3 of 2");
    wrong = (pattern_wish){.heads = 0};
    refuse(wrong, "full.tsv", file, "expected how many there are, --heads");
    wrong = (pattern_wish){.heads = 4, .sparsity = "x"};
    refuse(wrong, "full.tsv", file, "--sparsity \"x\": expected a number");
    wrong = (pattern_wish){.heads = 4, .sparsity = "0.5", .threshold = "0.5"};
    refuse(wrong, "full.tsv", file, "--sparsity and --threshold: give one or the other");
    put("config.json", "{\"sink_size\": 1.5}");
    refuse(two, "full.tsv", file, "config.json: sink_size is 1.5; expected a whole number");
    put("config.json", "{\"recent_size\": 0}");
    refuse(two, "full.tsv", file, "config.json: recent_size is 0; expected 1..1073741824");
    put("config.json", "[1]");
    refuse(two, "full.tsv", file, "config.json: expected an object");
    put("config.json", "{\n \"sink_size\" 3}");
    refuse(two, "full.tsv", file, "config.json:2:");
    take_away("config.json");
    const pattern_wish rest = {.heads = 2, .rest = "span \"x\""};
    expect(rest, "full.tsv", "0\t1\n",
           "rule { layers: \"0\" heads: \"0\" use: \"span \\\"x\\\"\" }\n"
           "rule { layers: \"0\" heads: \"1\" use: \"dense\" }\n");
    expect(two, "full.tsv", "0\t1\n", /* what it is without a config.json */
           "rule { layers: \"0\" heads: \"0-1\" use: \"sink_window sink=64t window=256t\" }\n"
           "rule { layers: \"0\" heads: \"2-3\" use: \"dense\" }\n");
}

/* ---- the others -------------------------------------------------------------------------- */

static void test_moa(void)
{
    const pattern_wish none = {0};
    expect(none, "moa.json",
           "{\"alphas\": [[0, 0], [1024, -1024]], \"betas\": [[0.5, 0.625], [0.1, 0.875]]}",
           "rule { layers: \"0\" heads: \"0\" use: \"span alpha=0 beta=0.5\" }\n"
           "rule { layers: \"0\" heads: \"1\" use: \"span alpha=0 beta=0.625\" }\n"
           "rule { layers: \"1\" heads: \"0\" use: \"span alpha=1024 beta=0.1\" }\n"
           "rule { layers: \"1\" heads: \"1\" use: \"span alpha=-1024 beta=0.875\" }\n");
    refuse(none, "moa.json", "{\"alphas\": [[0]]}", "betas is not there; expected a list");
    refuse(none, "moa.json", "{\"alphas\": [[0]], \"betas\": [[0.5],[0.5]]}",
           "alphas has 1 layers, betas 2; expected as many");
    refuse(none, "moa.json", "{\"alphas\": [[0],[1,2]], \"betas\": [[0.5],[0.5]]}",
           "alphas[1] has 2 heads; expected 1, as alphas[0]");
    refuse(none, "moa.json", "{\"alphas\": [[0]], \"betas\": [[1.5]]}",
           "betas[0][0] is 1.5; expected a number, 0..1");
    refuse(none, "moa.json", "{\"alphas\": [[0.5]], \"betas\": [[1]]}",
           "alphas[0][0] is 0.5; expected a whole number");
    refuse(none, "moa.json", "{\"alphas\": [[]], \"betas\": [[]]}",
           "1 layers of 0 query heads");
    refuse(none, "moa.json", "{\"alphas\": [7], \"betas\": [7]}", "1 layers of 0 query heads");
    refuse(none, "moa.json", "{\"alphas\": [[1]],\n \"betas\": [[1]", "moa.json:2:14: ");
    const pattern_wish model = {.layers = 4, .heads = 2};
    refuse(model, "moa.json", "{\"alphas\": [[1]], \"betas\": [[1]]}",
           "1 layers of 1 query heads; the model has 4 of 2");
}

static void test_razor(void)
{
    const pattern_wish model = {.layers = 2, .heads = 8, .kv_heads = 4};
    expect(model, "razor.json",
           "{\"prefix_matching\": {\"0\": [0, 3]}, \"copying\": {\"1\": [2]}}",
           "rule { layers: \"0\" heads: \"0-1\" use: \"dense\" }\n"
           "rule { layers: \"0\" heads: \"2-5\" use: \"razor\" }\n"
           "rule { layers: \"0\" heads: \"6-7\" use: \"dense\" }\n"
           "rule { layers: \"1\" heads: \"0-3\" use: \"razor\" }\n"
           "rule { layers: \"1\" heads: \"4-5\" use: \"dense\" }\n"
           "rule { layers: \"1\" heads: \"6-7\" use: \"razor\" }\n");
    refuse(model, "razor.json", "{\"copying\": {\"2\": [2]}}",
           "copying: key \"2\"; expected a layer, 0..1");
    refuse(model, "razor.json", "{\"copying\": {\"0x1\": [2]}}", "copying: key \"0x1\"");
    refuse(model, "razor.json", "{\"copying\": {\"1\": 2}}",
           "copying, layer 1 is 2; expected a list of KV heads");
    refuse(model, "razor.json", "{\"copying\": {\"1\": [0, 4]}}",
           "copying, layer 1, value 2 is 4; expected 0..3");
    refuse(model, "razor.json", "{\"copying\": [1]}", "copying is [1]; expected layers");
    const pattern_wish none = {.heads = 8};
    refuse(none, "razor.json", "{\"copying\": {}}", "expected --layers and --kv-heads");
}

static void test_minference(void)
{
    const pattern_wish model = {.layers = 2, .heads = 3};
    char note[256], why[1024] = "";
    static const char file[] = "[{\"0\": [\"vertical_and_slash\", 1000, 6096, 336], \"1\": "
                               "[\"stream_llm\", 100, 800, 0.96]}, {\"0\": [\"block_sparse\", "
                               "100, 800, 1]}]";
    expect(model, "m_best_pattern.json", file,
           "rule { layers: \"0\" heads: \"0\" use: \"vertical_slash columns=1000 "
           "diagonals=6096\" }\n"
           "rule { layers: \"0\" heads: \"1\" use: \"a_shape sink=100t window=800t\" }\n"
           "rule { layers: \"0\" heads: \"2\" use: \"vertical_slash\" }\n"
           "rule { layers: \"1\" heads: \"0\" use: \"dense\" }\n"
           "rule { layers: \"1\" heads: \"1-2\" use: \"vertical_slash\" }\n");
    expect(
        model, "m_best_pattern.json",
        "[{\"0\": [\"vertical_and_slash\", 3, 4, 1], \"1\": [\"block_sparse\", 1, 2, 1], "
        "\"2\": [\"vertical_and_slash\", 30, 800, 1]}, {}]",
        "rule { layers: \"0\" heads: \"0\" use: \"vertical_slash columns=30 diagonals=50\" }\n"
        "rule { layers: \"0\" heads: \"1\" use: \"dense\" }\n"
        "rule { layers: \"0\" heads: \"2\" use: \"vertical_slash columns=30 diagonals=800\" "
        "}\n"
        "rule { layers: \"1\" heads: \"0-2\" use: \"vertical_slash\" }\n");
    pattern_wish wish = {.path = put("m.json", file)};
    free(pattern_read(&wish, note, sizeof note, why, sizeof why));
    CHECK_MSG(wish.layers == 2 && wish.heads == 2 &&
                  strstr(note, "1 of 4 heads are block_sparse"),
              "%s", note);
    refuse(model, "m.json", "[{\"3\": [\"stream_llm\", 1, 2, 3]}, {}]",
           "layer 0 has head 3; the model has 3");
    refuse(model, "m.json", "[{\"0\": [\"streaming\", 1, 2, 3]}, {}]",
           "layer 0, head 0 is [\"streaming\",1,2,3]; expected [type, vertical, slash, score]");
    refuse(model, "m.json", "[{}, {\"0\": [\"stream_llm\", 1, 0, 3]}]",
           "layer 1, head 0: slash is 0; expected 1..");
    refuse(model, "m.json", "[{}, {\"0\": [\"stream_llm\", -1, 1]}]",
           "layer 1, head 0: vertical is -1; expected 0..");
    refuse(model, "m.json", "[{}, 3]", "layer 1 is 3; expected its heads");
    refuse(model, "m.json", "[{}, {\"a\": []}]", "layer 1: key \"a\"; expected a query head");
    refuse(model, "m.json", "[{}]", "1 layers of 3 query heads; the model has 2 of 3");
    refuse(model, "m.json", "[{}, {\"0\": [], \"0\": []}]", "m.json:1:18: ");
    const pattern_wish none = {0};
    refuse(none, "m.json", "[]", "0 layers of 0 query heads");
}

static void test_retrieval(void)
{
    const pattern_wish none = {0};
    static const char file[] = "{\"0-0\": [0.0, 0.1], \"0-1\": [0.9, 0.5], \"1-1\": [0.2], "
                               "\"1-0\": [0.05, 0.05, 0.0]}";
    expect(none, "scores.json", file,
           "rule { layers: \"0-1\" heads: \"0\" use: \"sink_window sink=64t window=256t\" }\n"
           "rule { layers: \"0-1\" heads: \"1\" use: \"dense\" }\n");
    const pattern_wish most = {.sparsity = "0.75", .rest = "s2"};
    expect(most, "scores.json", file,
           "rule { layers: \"0\" heads: \"0\" use: \"s2\" }\n"
           "rule { layers: \"0\" heads: \"1\" use: \"dense\" }\n"
           "rule { layers: \"1\" heads: \"0-1\" use: \"s2\" }\n");
    refuse(none, "scores.json", "{\"0-0\": [1], \"1-1\": [1]}",
           "2 keys; expected one for each of 2 layers of 2 heads");
    refuse(none, "scores.json", "{\"0-0\": [1], \"4000-4000\": [1]}",
           "4001 layers of 4001 query heads; expected 1..4096 of 1..4096, and 262144 in all");
    refuse(none, "scores.json", "{\"0-0\": [1], \"head\": [1]}",
           "key \"head\"; expected \"LAYER-HEAD\"");
    refuse(none, "scores.json", "{\"0-0\": [1, \"a\"]}",
           "\"0-0\": score 2 is \"a\"; expected a number");
    refuse(none, "scores.json", "{\"0-0\": []}", "\"0-0\" is []; expected a list of scores");
    refuse(none, "scores.json", "{\"0-99999\": [1]}", "no pattern file that is known");
    refuse(none, "scores.json", "{\"weights\": 3}", "no pattern file that is known");
}

int main(void)
{
    if (!mkdtemp(folder)) abort();
    test_duo_classes();
    test_duo();
    test_moa();
    test_razor();
    test_minference();
    test_retrieval();
    static const char *const left[] = {
        "full_attention_heads.tsv", "full.tsv", "moa.json",   "razor.json",
        "m_best_pattern.json",      "m.json",   "scores.json"};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) take_away(left[i]);
    CHECK(!rmdir(folder));
    return test_end();
}
