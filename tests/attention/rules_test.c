/* SPDX-License-Identifier: Apache-2.0 */
/* Head rules and kernel names: what is accepted, and the words of every refusal. */
#include "attention/attention.h"
#include "tests/test.h"

static const banyan_block_shape shape = {64, 128, 128, BANYAN_BF16, 0};

static void refused(const char *use, const char *words)
{
    banyan_pattern p = {.head = -7};
    char why[512] = "";
    banyan_status status = banyan_pattern_parse(use, 0, 32, 8, 64, 0, &p, why, sizeof(why));
    CHECK_MSG(status == BANYAN_ERR_CONFIG && !strcmp(why, words), "\"%s\" gives %d: %s", use,
              status, why);
    CHECK(p.head == -7); /* written on success only */
}

static void test_refusals(void)
{
    char names[256] = "", list[300], words[512];
    for (int i = 0; banyan_selector_row(i); i++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), " %s",
                 banyan_selector_row(i)->name);
    snprintf(list, sizeof(list), " (there are:%s)", names);
    snprintf(words, sizeof(words), "a head rule is empty, expected a selector:%s", names);
    refused("", words);
    refused("  ", words);
    snprintf(words, sizeof(words), "unknown selector \"dens\", did you mean \"dense\"?%s",
             list);
    refused("dens", words);
    snprintf(words, sizeof(words), "unknown selector \"convolution\"%s", list);
    refused("convolution", words);
    refused("s2 strid=4", "s2: unknown parameter \"strid\", did you mean \"stride\"? "
                          "(there are: stride local step offset per dense)");
    refused("s2 zzzzzzzz=4", "s2: unknown parameter \"zzzzzzzz\" "
                             "(there are: stride local step offset per dense)");
    refused("dense window=4", "dense: unknown parameter \"window\" (dense takes none)");
    refused("s2 stride", "s2: expected parameter=value, got \"stride\"");
    refused("s2 stride = 4", "s2: expected parameter=value, got \"stride\"");
    refused("s2 stride=4 stride=5", "s2: stride is given twice");
    refused("s2 stride=", "s2: stride= is not a whole number");
    refused("s2 stride=4x", "s2: stride=4x is not a whole number");
    refused("s2 stride=+4", "s2: stride=+4 is not a whole number");
    refused("s2 local=t", "s2: local=t is not a whole number of blocks (or of tokens, with the "
                          "suffix t)");
    refused("s2 local=4tt",
            "s2: local=4tt is not a whole number of blocks (or of tokens, with the "
            "suffix t)");
    refused("s2 stride=16t", "s2: stride=16t counts tokens, but stride is not a length");
    refused("s2 stride=0", "s2: stride=0 is out of range, expected 1..4096");
    refused("s2 stride=4097", "s2: stride=4097 is out of range, expected 1..4096");
    refused("s2 stride=-3", "s2: stride=-3 is out of range, expected 1..4096");
    refused("sink_window window=0",
            "sink_window: window=0 is out of range, expected 1..1099511627776 blocks");
    refused("sink_window window=0t",
            "sink_window: window=0t is out of range, expected 1..70368744177664 tokens");
    refused("sink_window sink=99999999999999999999",
            "sink_window: sink=99999999999999999999 is out of range, expected "
            "0..1099511627776 blocks");
    refused("s2 per=head", "s2: per=head is unknown, expected one of kv|query");
    refused("s2 per=k", "s2: per=k is unknown, expected one of kv|query");
    refused("span alpha=1x", "span: alpha=1x is not a whole number of tokens");
    refused("span beta=1.5", "span: beta=1.5 is out of range, expected 0..1");
    refused("span beta=nan", "span: beta=nan is not a number such as 0.125");
    refused("span beta=0x1p-2", "span: beta=0x1p-2 is not a number such as 0.125");
    refused("a_shape prompt=-1",
            "a_shape: prompt=-1 is out of range, expected 0..70368744177664 tokens");
    refused("strided local=64t", "strided: local=64t counts tokens, but local is not a length");
    refused("s2 local=0",
            "s2: local=0 with stride=16 leaves rows without their own block, expected "
            "local >= 1");
    refused("s2 dense=9", "s2: dense=9, but there are 8 KV heads");
    snprintf(words, sizeof(words), "unknown selector \"%063d\"%s", 0, list);
    char use[200];
    snprintf(use, sizeof(use), "%0100d", 0);
    refused(use, words);
    snprintf(use, sizeof(use), "s2 stride=%0100d", 8);
    refused(use, "s2: a parameter is longer than 63 characters");
    /* a short buffer is cut, none is allowed */
    char why[8];
    banyan_pattern p;
    CHECK(banyan_pattern_parse("s3", 0, 1, 1, 64, 0, &p, why, sizeof(why)) ==
          BANYAN_ERR_CONFIG);
    CHECK(!strcmp(why, "unknown"));
    CHECK(banyan_pattern_parse("s3", 0, 1, 1, 64, 0, &p, NULL, 0) == BANYAN_ERR_CONFIG);
    CHECK(banyan_pattern_parse("s2 local=0", 0, 1, 1, 64, 0, &p, NULL, 0) == BANYAN_ERR_CONFIG);
}

static void test_accepted(void)
{
    banyan_pattern p;
    char why[256] = "";
    CHECK(!banyan_pattern_parse("  s2\tlocal=300t  stride=1\n", 3, 32, 8, 64, 0, &p, why,
                                sizeof(why)));
    CHECK(!strcmp(p.selector->name, "s2") && p.head == 3 && p.heads == 32 && p.kv_heads == 8 &&
          p.block_tokens == 64);
    CHECK(p.value[0].number == 1 && !p.value[0].in_tokens);
    CHECK(p.value[1].number == 300 && p.value[1].in_tokens);
    CHECK(!banyan_pattern_parse("s2 per=query", 3, 32, 8, 64, 0, &p, why, sizeof(why)));
    CHECK(p.value[0].number == 16 && p.value[1].number == 16 && p.value[4].number == 1);
    CHECK(!banyan_pattern_parse("s2 stride=1 local=0", 3, 32, 8, 64, 0, &p, why, sizeof(why)));
    CHECK(banyan_pattern_reads(&p, 1000, 0));
    CHECK(!banyan_pattern_parse("span alpha=-128t beta=0.625", 0, 32, 8, 64, 4096, &p, why,
                                sizeof(why)));
    CHECK(p.value[0].number == -128 && p.value[0].in_tokens && p.planned_tokens == 4096);
    CHECK(p.value[1].fraction > 0.6249 && p.value[1].fraction < 0.6251);
}

static void test_params(void)
{
    const char *name, *text, *doc;
    for (int i = 0; banyan_selector_row(i); i++) {
        const banyan_selector *s = banyan_selector_row(i);
        int count = 0;
        while (banyan_list_param(s->name, count, &name, &text, &doc)) {
            CHECK(*name && *text && *doc && !strcmp(s->params[count].name, name));
            count++;
        }
        CHECK(!s->params[count].name &&
              !banyan_list_param(s->name, count + 1, NULL, NULL, NULL));
    }
    CHECK(banyan_list_param("s2", 0, &name, &text, &doc) && !strcmp(name, "stride") &&
          !strcmp(text, "16"));
    CHECK(banyan_list_param("s2", 5, NULL, NULL, NULL));
    CHECK(!banyan_list_param("s2", 6, NULL, NULL, NULL) &&
          !banyan_list_param("s2", -1, NULL, NULL, NULL));
    CHECK(!banyan_list_param("nothing", 0, &name, &text, &doc));
    CHECK(!banyan_list_param(NULL, 0, NULL, NULL, NULL));
}

static void test_kernel_names(void)
{
    char why[256] = "";
    int fastest = -1;
    unsetenv("BANYAN_KERNEL");
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        const char *device = banyan_kernel_device(kernel);
        CHECK(*kernel->name);
        const banyan_kernel *found =
            banyan_kernel_find(device, 0, kernel->name, &shape, why, sizeof(why));
        if (kernel->usable() && kernel->supports(&shape)) {
            CHECK(found == kernel);
            if (!kernel->device) fastest = i;
        } else {
            CHECK_MSG(!found && strstr(why, kernel->name), "%s", why);
        }
    }
    CHECK(!banyan_kernel_find("cuda", 0, "scalar", &shape, why, sizeof(why)));
    CHECK_MSG(strstr(why, "kernel \"scalar\" is for device cpu, not cuda"), "%s", why);
    CHECK(!banyan_kernel_find("gpu", 1, NULL, &shape, why, sizeof(why)));
    CHECK_MSG(strstr(why, "no kernel of device gpu supports bf16 blocks of"), "%s", why);
    CHECK(!strcmp(banyan_kernel_row(0)->name, "scalar") && !banyan_kernel_row(-1));
    CHECK(banyan_kernel_find(NULL, 0, NULL, &shape, why, sizeof(why)) ==
          banyan_kernel_row(fastest));
    CHECK(!banyan_kernel_find(NULL, 0, "scaler", &shape, why, sizeof(why)));
    CHECK_MSG(!strcmp(why, "kernel: unknown kernel \"scaler\", did you mean \"scalar\"? "
                           "(see \"banyan list\")"),
              "%s", why);

    const banyan_block_shape bytes = {64, 128, 128, BANYAN_E4M3, 0};
    CHECK(!banyan_kernel_find(NULL, 0, NULL, &bytes, why, sizeof(why)));
    CHECK_MSG(!strcmp(why, "no kernel of device cpu supports fp8 blocks of 64 tokens with "
                           "key_dim 128 and value_dim 128"),
              "%s", why);
    CHECK(!banyan_kernel_find(NULL, 0, "scalar", &bytes, why, sizeof(why)));
    CHECK_MSG(!strcmp(why, "kernel: kernel \"scalar\" does not support fp8 blocks of 64 tokens "
                           "with key_dim 128 and value_dim 128"),
              "%s", why);

    setenv("BANYAN_KERNEL", "scalar", 1);
    CHECK(banyan_kernel_find(NULL, 0, NULL, &shape, why, sizeof(why)) == banyan_kernel_row(0));
    setenv("BANYAN_KERNEL", "fast", 1);
    CHECK(!banyan_kernel_find(NULL, 0, NULL, &shape, why, sizeof(why)));
    CHECK_MSG(!strcmp(why, "BANYAN_KERNEL: unknown kernel \"fast\" (see \"banyan list\")"),
              "%s", why);
    CHECK(banyan_kernel_find(NULL, 0, "scalar", &shape, why, sizeof(why)) ==
          banyan_kernel_row(0));
    setenv("BANYAN_KERNEL", "", 1);
    CHECK(banyan_kernel_find(NULL, 0, NULL, &shape, NULL, 0) == banyan_kernel_row(fastest));
}

int main(void)
{
    test_refusals();
    test_accepted();
    test_params();
    test_kernel_names();
    return test_end();
}
