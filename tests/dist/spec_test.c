/* SPDX-License-Identifier: Apache-2.0 */
/* What a spec that cannot be gets: its field, its value and what was expected, by the words. */
#include "tests/dist/plans.h"

#include <math.h>

static int is_built(const char *kernel)
{
    const char *name, *why;
    int available;
    for (int i = 0; banyan_list(BANYAN_KERNELS, i, &name, NULL, &available, &why); i++)
        if (!strcmp(name, kernel)) return available || !strstr(why, "not in this build");
    return 0;
}

/* Ranks: 3. */
static void expect(const banyan_spec *spec, banyan_status status, const char *words)
{
    planned p = plan_on("rank:3", spec);
    CHECK_MSG(p.status == status, "%s, not %s", banyan_status_name(p.status),
              banyan_status_name(status));
    CHECK_MSG(strstr(banyan_error_message(), words), "\"%s\" lacks \"%s\"",
              banyan_error_message(), words);
    CHECK(!p.plan);
    unplan(&p);
}

#define BAD(field, value, words)                                                               \
    do {                                                                                       \
        banyan_spec spec = small_spec();                                                       \
        spec.field = value;                                                                    \
        expect(&spec, BANYAN_ERR_CONFIG, words);                                               \
    } while (0)

static void test_shape(void)
{
    BAD(layers, 0, "layers is 0: expected 1..");
    BAD(heads, 0, "heads is 0: expected 1..");
    BAD(heads, 6, "heads is 6: expected a multiple of kv_heads, 4");
    BAD(kv_heads, -1, "kv_heads is -1: expected 0..");
    BAD(key_dim, 0, "key_dim is 0: expected 1..576");
    BAD(key_dim, 577, "key_dim is 577: expected 1..576");
    BAD(value_dim, -5, "value_dim is -5: expected 1..576");
    BAD(value_dim, 1000, "value_dim is 1000: expected 1..576");
    BAD(scale, (float)NAN, "scale is nan: expected a positive number");
    BAD(scale, INFINITY, "scale is inf: expected a positive number");
    BAD(scale, -1, "scale is -1: expected a positive number");
}

static void test_cache(void)
{
    BAD(max_tokens, 0, "max_tokens is 0: expected 1..");
    BAD(max_tokens, INT64_MAX, "max_tokens is 9223372036854775807: expected 1..");
    BAD(planned_tokens, 65537, "planned_tokens is 65537: expected 1..65536 (max_tokens)");
    BAD(planned_tokens, -1, "planned_tokens is -1: expected 1..65536");
    BAD(max_rows, 0, "max_rows is 0: expected 1..");
    BAD(block_tokens, 48, "block_tokens is 48: expected 16, 32, 64, 128 or 256");
    BAD(block_tokens, 8, "block_tokens is 8: expected 16, 32");
    BAD(block_tokens, 512, "block_tokens is 512: expected 16, 32");
    BAD(rollback_tokens, -1, "rollback_tokens is -1: expected at least 0");
    BAD(cache_dtype, (banyan_dtype)7, "cache_dtype is 7: expected 0..3");
    BAD(in_dtype, (banyan_dtype)3, "in_dtype is 3: expected 0..2");
    BAD(out_dtype, (banyan_dtype)3, "out_dtype is 3: expected 0..2");
    BAD(memory_limit, -1, "memory_limit is -1: expected at least 0");
}

static void test_names(void)
{
    char words[512] = "placement is \"lien\": expected ";
    for (int i = 0; banyan_placement_row(i); i++)
        snprintf(words + strlen(words), sizeof words - strlen(words), "%s%s",
                 i == 0                        ? ""
                 : banyan_placement_row(i + 1) ? ", "
                                               : " or ",
                 banyan_placement_row(i)->name);
    snprintf(words + strlen(words), sizeof words - strlen(words), "; did you mean \"line\"?");
    BAD(placement, "lien", words);
    BAD(placement, NULL, "placement is not set: expected line");
    BAD(balance, (banyan_balance)2, "balance is 2: expected 0..1");
    BAD(merge, "tre", "merge is \"tre\": expected direct");
    BAD(merge, "tre", "did you mean \"tree\"?");
    BAD(home, (banyan_home)2, "home is 2: expected 0..1");
    BAD(out, (banyan_out)7, "out is 7: expected 0..1");
    BAD(device, "gpu", "device is \"gpu\": expected cpu or cuda");
    BAD(kernel, "scalr", "\"scalr\"");
    BAD(kernel, "scalr", "\"scalar\"");
    banyan_spec spec = small_spec();
    spec.device = "cuda";
    if (is_built("cuda"))
        expect(&spec, BANYAN_ERR_CONFIG, "kernel \"scalar\" is for device cpu, not cuda");
    else
        expect(&spec, BANYAN_ERR_UNSUPPORTED, "device is \"cuda\", which is not in this build");
}

static void test_execution(void)
{
    static const double negative[] = {1, -2, 1}, none[] = {0, 0, 0}, wild[] = {1, NAN, 1},
                        far[] = {1, 1e-9, 1};
    BAD(bandwidth, negative, "bandwidth of rank 1 is -2: expected a number, 0 or more");
    BAD(bandwidth, none, "bandwidth is 0 on all 3 ranks: expected at least one above 0");
    BAD(bandwidth, wild, "bandwidth of rank 1 is nan: expected a number");
    BAD(bandwidth, far, "bandwidth of rank 1 is 1e-09: expected 0, or at least 1/65536");
    BAD(lost_rank, 3, "lost_rank is 3: expected a rank, 0..2, or -1 for none");
    BAD(lost_rank, -2, "lost_rank is -2: expected a rank");
    BAD(lost_layer, 2, "lost_layer is 2: expected a layer, 0..1, or -1 for all");
    BAD(threads, -1, "threads is -1: expected 0..");
}

static void bad_rule(banyan_rule rule, const char *words)
{
    banyan_spec spec = small_spec();
    const banyan_rule rules[] = {{0, -1, 0, -1, "dense"}, rule};
    spec.rules = rules;
    spec.rule_count = 2;
    expect(&spec, BANYAN_ERR_CONFIG, words);
}

static void test_rules(void)
{
    bad_rule((banyan_rule){2, -1, 0, -1, "dense"}, "rule 1: first_layer is 2: expected 0..1");
    bad_rule((banyan_rule){0, 2, 0, -1, "dense"},
             "rule 1: last_layer is 2: expected 0..1, or -1");
    bad_rule((banyan_rule){1, 0, 0, -1, "dense"},
             "rule 1: last_layer is 0: expected 1..1, or -1");
    bad_rule((banyan_rule){0, 1, -3, 2, "dense"}, "rule 1: first_head is -3: expected 0..7");
    bad_rule((banyan_rule){0, 1, 0, 8, "dense"},
             "rule 1: last_head is 8: expected 0..7, or -1");
    bad_rule((banyan_rule){0, 1, 0, 7, NULL}, "rule 1: use is not set: expected a selector");
    bad_rule((banyan_rule){0, 1, 0, 7, "s3 stride=4"}, "rule 1, \"s3 stride=4\": ");
    bad_rule((banyan_rule){0, 1, 0, 7, "s2 stirde=4"}, "\"stride\"");
    bad_rule((banyan_rule){0, 1, 0, 7, ""}, "rule 1, \"\": ");
    BAD(rule_count, -1, "rule_count is -1: expected at least 0");
    BAD(rule_count, 1, "rules is not set: expected 1 of them");
}

static void test_arguments(void)
{
    banyan_spec spec = small_spec();
    planned p = plan_on("rank:3", &spec);
    banyan_plan *plan = NULL;
    banyan_share share;
    CHECK(banyan_plan_create(NULL, p.comm, &plan) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_plan_create(&spec, NULL, &plan) == BANYAN_ERR_ARGUMENT);
    CHECK(!plan);
    CHECK(banyan_plan_share(p.plan, 3, 1, 64, &share) == BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "rank is 3: expected 0..2"));
    CHECK(banyan_plan_share(p.plan, 0, 1, 65537, &share) == BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "tokens is 65537: expected 0..65536"));
    CHECK(banyan_plan_owner(p.plan, 0, 2, 0, 0) == -1 &&
          banyan_plan_owner(p.plan, 0, 0, 4, 0) == -1);
    CHECK(banyan_plan_owner(p.plan, 0, 0, 0, 65536 / 64 - 1) >= 0); /* the last, and after it */
    CHECK(banyan_plan_owner(p.plan, 7, 0, 0, 65536 / 64) == -1 &&
          banyan_plan_owner(p.plan, 0, 0, 3, INT64_MAX) == -1);
    CHECK(banyan_plan_owner(p.plan, 0, 0, 0, -1) == -1 && banyan_plan_home(p.plan, 0, 8) == -1);
    CHECK(!banyan_plan_holds(p.plan, -1, 0, 0) && !banyan_plan_holds(p.plan, 0, 0, 3));
    CHECK(!banyan_plan_reads(p.plan, 0, 8, 5, 5) && !banyan_plan_reads(p.plan, 0, 0, -1, 0));
    unplan(&p);
    banyan_plan_destroy(NULL);
}

/* A struct of another version: a longer one is refused, a shorter one filled up with
 * defaults. */
static void test_size(void)
{
    banyan_spec spec = small_spec();
    spec.size = sizeof spec + 8;
    expect(&spec, BANYAN_ERR_ARGUMENT, "expected what banyan_spec_init sets");
    spec.size = 0;
    expect(&spec, BANYAN_ERR_ARGUMENT, "spec.size is 0");
    spec.size = offsetof(banyan_spec, lost_rank);
    spec.lost_rank = 2;
    planned p = plan_on("rank:3", &spec);
    CHECK(!p.status && banyan_plan_spec(p.plan)->lost_rank == -1);
    CHECK(!p.status && banyan_plan_spec(p.plan)->size == sizeof spec);
    unplan(&p);
}

/* To memory what goes to a file, cut as snprintf cuts. */
static void test_text(void)
{
    banyan_spec spec = small_spec();
    planned p = plan_on("rank:3", &spec);
    char printed[8192] = "", text[8192], cut[11];
    FILE *file = fmemopen(printed, sizeof printed, "w");
    banyan_plan_print(p.plan, file);
    fclose(file);
    const int64_t length = banyan_plan_text(p.plan, text, sizeof text);
    CHECK(length == (int64_t)strlen(printed) && !strcmp(text, printed));
    CHECK(banyan_plan_text(p.plan, NULL, 0) == length);
    CHECK(banyan_plan_text(p.plan, cut, sizeof cut) == length);
    CHECK(!memcmp(cut, printed, 10) && cut[10] == 0);
    CHECK(banyan_plan_text(NULL, text, sizeof text) == -1);
    unplan(&p);
}

/* Defaults are in the plan's spec, and only there is anything made of them. */
static void test_defaults(void)
{
    banyan_spec spec = small_spec();
    spec.kv_heads = 0;
    planned p = plan_on("rank:3", &spec);
    const banyan_spec *filled = banyan_plan_spec(p.plan);
    CHECK(filled->kv_heads == 8 && filled->value_dim == 64 && filled->scale == 0.125f);
    CHECK(filled->planned_tokens == 65536 && filled->threads == 1);
    CHECK(filled->placement != spec.placement && strcmp(filled->placement, "line") == 0);
    CHECK(filled->bandwidth[2] == 1);
    unplan(&p);

    static const double measured[] = {3.02, 2.98, 6.1};
    spec.bandwidth = measured;
    p = plan_on("rank:3", &spec);
    filled = banyan_plan_spec(p.plan);
    CHECK(filled->bandwidth[0] == 1 && filled->bandwidth[1] == 1 &&
          filled->bandwidth[2] == 2.0625);
    unplan(&p);
}

int main(void)
{
    test_shape();
    test_cache();
    test_names();
    test_execution();
    test_rules();
    test_arguments();
    test_size();
    test_text();
    test_defaults();
    return test_end();
}
