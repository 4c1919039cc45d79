/* SPDX-License-Identifier: Apache-2.0 */
/* --set, the text format and the spec that comes out: values that must arrive, and the words
 * that bad ones get. */
#include "launch/command.h"
#include "tests/test.h"

#include <math.h>

static void expect_words(Banyan__Config *c, const char *path, const char *text,
                         const char *words)
{
    char why[512] = "";
    bool good = config_set(c, path, text, why, sizeof why);
    CHECK_MSG(!good, "%s=%s was taken", path, text);
    CHECK_MSG(strstr(why, words), "%s=%s: \"%s\" lacks \"%s\"", path, text, why, words);
}

static void set(Banyan__Config *c, const char *path, const char *text)
{
    char why[512] = "";
    bool good = config_set(c, path, text, why, sizeof why);
    CHECK_MSG(good, "%s=%s: %s", path, text, why);
}

static void check_values(Banyan__Config *c)
{
    set(c, "cache.max_tokens", "1m");
    CHECK(c->cache && c->cache->has_max_tokens && c->cache->max_tokens == 1 << 20);
    set(c, "cache.max_tokens", "3G");
    CHECK(c->cache->max_tokens == (int64_t)3 << 30);
    set(c, "execution.lost_rank", "-1");
    CHECK(c->execution->has_lost_rank && c->execution->lost_rank == -1);
    set(c, "run.seed", "18446744073709551615");
    CHECK(c->run->seed == UINT64_MAX);
    set(c, "shape.scale", "0.0078125");
    CHECK(c->shape->has_scale && c->shape->scale == 0.0078125f);
    set(c, "cache.dtype", "fp16");
    CHECK(c->cache->has_dtype && c->cache->dtype == BANYAN__DTYPE__FP16);
    set(c, "cache.evict", "false");
    CHECK(c->cache->has_evict && !c->cache->evict);
    set(c, "execution.bandwidth", "1,0.5,2");
    CHECK(c->execution->n_bandwidth == 3 && c->execution->bandwidth[1] == 0.5);
    set(c, "execution.bandwidth", "");
    CHECK(c->execution->n_bandwidth == 0);
    set(c, "needle.length", "4k,64k");
    CHECK(c->needle->n_length == 2 && c->needle->length[1] == 65536);
    set(c, "execution.merge", "tree");
    set(c, "execution.merge", "direct");
    CHECK(!strcmp(c->execution->merge, "direct"));
    set(c, "rule[0].use", "s2 stride=8");
    set(c, "rule[1].layers", "2-");
    set(c, "rule[0].heads", "0-3");
    CHECK(c->n_rule == 2 && !strcmp(c->rule[0]->use, "s2 stride=8"));
    CHECK(!strcmp(c->rule[1]->layers, "2-") && !strcmp(c->rule[0]->heads, "0-3"));
}

static void check_words(Banyan__Config *c)
{
    expect_words(c, "cache.max_token", "1",
                 "no field \"max_token\" in Cache; did you mean \"max_tokens\"?");
    expect_words(c, "cach.max_tokens", "1", "did you mean \"cache\"?");
    expect_words(c, "zzzzzzzz", "1", "it has shape, cache, rule");
    expect_words(c, "cache.max_tokens", "12x", "max_tokens: \"12x\" is not a 64-bit integer");
    expect_words(c, "cache.max_rows", "4g", "\"4g\" is not a 32-bit integer");
    expect_words(c, "cache.max_tokens", "9999999999g", "is not a 64-bit integer");
    expect_words(c, "run.seed", "-1", "is not an unsigned integer");
    expect_words(c, "shape.scale", "big", "scale: \"big\" is not a number");
    expect_words(c, "cache.evict", "maybe", "evict: \"maybe\" is not true or false");
    expect_words(c, "cache.dtype", "fp4", "dtype: \"fp4\" is not one of FP32, BF16, FP16, FP8");
    expect_words(c, "needle.length", "4k,x", "length: \"x\" is not a 64-bit integer");
    expect_words(c, "cache", "1", "\"cache\" has fields; name one, as in cache.max_tokens");
    expect_words(c, "cache.dtype.x", "1", "\"dtype\" has no fields of its own");
    expect_words(c, "rule.use", "dense", "\"rule\" is a list: rule[0] is its first");
    expect_words(c, "rule[7].use", "dense", "rule[7]: the next new one is rule[2]");
    expect_words(c, "rule[x].use", "dense", "expected a name, or a list and [number]");
    expect_words(c, "cache[0].dtype", "fp32", "\"cache\" is not a list");
    expect_words(c, "execution.bandwidth[0]", "1", "bandwidth=a,b,c");
    CHECK(c->n_rule == 2 && c->needle->n_length == 2); /* a refused value changes nothing */
}

static void expect_text_error(const char *text, const char *words)
{
    unsigned char *wire = NULL;
    size_t bytes = 0;
    char why[512] = "";
    CHECK(!textformat_parse(text, strlen(text), &wire, &bytes, why, sizeof why));
    CHECK_MSG(strstr(why, words), "\"%s\" lacks \"%s\"", why, words);
    free(wire);
}

static void check_text(void)
{
    const char *text = "shape { heads: 8 key_dim: 64 }\ncache { dtype: FP16 }\n"
                       "rule { layers: \"0-1\" use: \"dense\" } needle { length: [1, 2] }\n";
    unsigned char *wire = NULL;
    size_t bytes = 0;
    char why[512] = "";
    CHECK(textformat_parse(text, strlen(text), &wire, &bytes, why, sizeof why));
    Banyan__Config *c = banyan__config__unpack(NULL, bytes, wire);
    CHECK(c && c->shape->heads == 8 && c->cache->dtype == BANYAN__DTYPE__FP16);
    CHECK(c && c->n_rule == 1 && c->needle->n_length == 2 && !c->shape->has_kv_heads);
    if (c) banyan__config__free_unpacked(c, NULL);
    free(wire);
    expect_text_error("shape {\n  head: 8\n}\n",
                      "2:7: no field \"head\" in Shape; did you mean \"heads\"?");
    expect_text_error("shape { heads: eight }", "1:16: expected integer");
    expect_text_error("cache { dtype: FP4 }",
                      "unknown enumeration value of \"FP4\" for field \"dtype\"");
    expect_text_error("shape {\n", "2:1: ");
    expect_text_error("shape { heads: 1 heads: 2 }", "1:");
}

static void check_spec(Banyan__Config *c)
{
    config_spec s;
    char why[512] = "";
    set(c, "shape.heads", "12");
    set(c, "execution.lost_layer", "1");
    set(c, "execution.out", "all");
    banyan_status status = spec_from_config(c, &s, why, sizeof why);
    CHECK_MSG(status == BANYAN_OK, "%s", why);
    if (status) return;
    CHECK(s.spec.layers == 1 && s.spec.heads == 12 && s.spec.cache_dtype == BANYAN_F16);
    CHECK(s.spec.evict == 0 && s.spec.lost_layer == 1 && s.spec.out == BANYAN_OUT_ALL);
    CHECK(s.spec.rule_count == 2 && s.rules[0].first_head == 0 && s.rules[0].last_head == 3);
    CHECK(s.rules[0].first_layer == 0 && s.rules[0].last_layer == -1);
    CHECK(s.rules[1].first_layer == 2 && s.rules[1].last_layer == -1);
    CHECK(!strcmp(s.rules[1].use, "dense"));
    banyan_spec plain;
    banyan_spec_init(&plain);
    CHECK(s.spec.block_tokens == plain.block_tokens && s.spec.strict == plain.strict);
    spec_free(&s);
    const char *bad[] = {"3-1", "-2", "a", "1-x", "1,2", "99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        set(c, "rule[1].layers", bad[i]);
        CHECK(spec_from_config(c, &s, why, sizeof why) == BANYAN_ERR_CONFIG);
        CHECK_MSG(strstr(why, "rule[1].layers") && strstr(why, bad[i]), "%s", why);
    }
}

int main(void)
{
    Banyan__Config *c = banyan__config__unpack(NULL, 0, NULL);
    if (!c) return 1;
    check_values(c);
    check_words(c);
    check_text();
    check_spec(c);
    banyan__config__free_unpacked(c, NULL);
    return test_end();
}
