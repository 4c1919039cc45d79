/* SPDX-License-Identifier: Apache-2.0 */
/* The promises that the constructed model rests on, checked on the numbers that are in its
 * files: codes that differ enough, position heads that see one token only, rotary tables,
 * and a configuration that is read back. */
#include "launch/model/runner.h"
#include "tests/test.h"

#include <limits.h>
#include <math.h>
#include <unistd.h>

static char dir[] = "/tmp/banyan-constructed-XXXXXX";

/* The code is linear, so inner products of all pairs are sums of signs of one difference
 * each. Ids 0..7 have no code; their would-be forms are covered by differences of others. */
static void test_codes(void)
{
    int8_t base[CONSTRUCTED_CODE], code[CONSTRUCTED_CODE];
    int worst = 0, worst_word = 0;
    constructed_code(1 << 14, base);
    for (uint32_t d = 1; d < CONSTRUCTED_VOCAB; d++) {
        uint32_t id = (1 << 14) ^ d;
        uint32_t origin = id < CONSTRUCTED_NULLS ? 1 << 13 : 1 << 14;
        constructed_code(origin, base);
        constructed_code(origin ^ d, code);
        int sum = 0, word = 0;
        for (int i = 0; i < CONSTRUCTED_CODE; i++) {
            CHECK(code[i] == 1 || code[i] == -1);
            sum += base[i] * code[i];
            if (i < 32) word += base[i] * code[i];
        }
        if (abs(sum) > worst) worst = abs(sum);
        if (abs(word) > worst_word) worst_word = abs(word);
    }
    CHECK_MSG(worst == 40, "worst inner product %d of 128, expected 40 (0.3125)", worst);
    CHECK_MSG(worst_word == 16, "worst inner product %d of 32, expected 16", worst_word);
    constructed_code(3, code);
    for (int i = 0; i < CONSTRUCTED_CODE; i++) CHECK(code[i] == 0);
}

/* Linearity itself, on random pairs. */
static void test_linear(void)
{
    uint64_t seed = 5;
    int8_t a[CONSTRUCTED_CODE], b[CONSTRUCTED_CODE], both[CONSTRUCTED_CODE];
    for (int trial = 0; trial < 1000; trial++) {
        uint32_t x = 8 + (uint32_t)test_below(&seed, CONSTRUCTED_VOCAB - 8);
        uint32_t y = 8 + (uint32_t)test_below(&seed, CONSTRUCTED_VOCAB - 8);
        if ((x ^ y) < CONSTRUCTED_NULLS) continue;
        constructed_code(x, a);
        constructed_code(y, b);
        constructed_code(x ^ y, both);
        for (int i = 0; i < CONSTRUCTED_CODE; i++) CHECK(a[i] * b[i] == both[i]);
    }
}

/* Softmax mass that layer 0 leaks to tokens other than the one `offset` back, over all
 * distances, with the rounded weights of the file: score(delta) = (q turned back by delta) k
 * / sqrt(128). */
static void test_leak(int64_t tokens, double bound)
{
    constructed_spec spec = {tokens, 8, 2, BANYAN_BF16, 1, 0, 0};
    model_shape shape;
    char why[1024] = "";
    banyan_status status = constructed_write(dir, &spec, why, sizeof why);
    CHECK_MSG(!status, "%s", why);
    CHECK_MSG(!model_shape_read(dir, &shape, why, sizeof why), "%s", why);
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s, "%s", why);
    if (!s) return;
    const tensor *wq = safetensors_find(s, "model.layers.0.self_attn.q_proj.weight");
    const tensor *wk = safetensors_find(s, "model.layers.0.self_attn.k_proj.weight");
    for (int head = 0; head < 3; head++) {
        double even[64], odd[64]; /* score = sum even cos + odd sin */
        for (int i = 0; i < 64; i++) {
            float q[2], k[2];
            for (int part = 0; part < 2; part++) {
                tensor_to_float(wq, (head * 128 + i + 64 * part) * 768 + 640, 1, &q[part]);
                tensor_to_float(wk, (i + 64 * part) * 768 + 640, 1, &k[part]);
            }
            double norm = 16 / sqrt(0.5), factor = norm * norm / sqrt(128);
            even[i] = factor * (q[0] * k[0] + q[1] * k[1]);
            odd[i] = factor * (q[0] * k[1] - q[1] * k[0]);
        }
        double peak = 0, sum = 0;
        for (int64_t distance = 0; distance < tokens; distance++) {
            double score = 0;
            for (int i = 0; i < 15; i++) {
                double angle = (double)distance * pow(shape.rope_theta, -i / 64.0);
                score += even[i] * cos(angle) - odd[i] * -sin(angle);
            }
            if (distance == 0) peak = -INFINITY;
            if (distance == constructed_offset(head)) peak = score;
            sum += exp(score - 100); /* the peak is 114 to 178 */
        }
        double leak = 1 - exp(peak - 100) / sum;
        CHECK_MSG(leak <= bound, "%lld tokens, head %d: %g leaks, at most %g",
                  (long long)tokens, head, leak, bound);
    }
    safetensors_close(s);
}

/* Angles of rows against long double, at a million tokens. One rounding to fp32 is 2^-24 of
 * a value of at most 1; fp64 angles of p < 2^20 are off by p 2^-53, and the frequency by as
 * much again. */
static void test_rope(void)
{
    static float turn[200 * 128];
    rope r = {0};
    const rope_params plain = {.row = rope_kind(0), .dims = 128, .theta = 9.4e26};
    CHECK(rope_make(&r, &plain, 0) == BANYAN_OK);
    const int64_t at = (1 << 20) - 237;
    rope_table(&r, at, 200, turn);
    double worst = 0;
    for (int row = 0; row < 200; row++)
        for (int i = 0; i < 64; i++) {
            long double angle = (at + row) * (long double)pow(9.4e26, -2.0 * i / 128);
            double c = fabs((double)(cosl(angle) - turn[row * 128 + i]));
            double t = fabs((double)(sinl(angle) - turn[row * 128 + 64 + i]));
            worst = fmax(worst, fmax(c, t));
        }
    CHECK_MSG(worst <= 0x1p-25 + 4 * 0x1p20 * 0x1p-53, "angles are off by %g", worst);
    /* (1, 0) on pair 5 becomes (cos, sin) */
    float x[128] = {[5] = 1};
    rope_turn(x, 1, 128, 64, turn + 7 * 128);
    CHECK(x[5] == turn[7 * 128 + 5] && x[64 + 5] == turn[7 * 128 + 64 + 5]);
    rope_free(&r);
}

static void test_recognise(void)
{
    constructed_spec spec = {65536, 12, 4, BANYAN_F16, 3, 0, 0}, back = {0};
    char why[1024] = "", path[PATH_MAX];
    CHECK_MSG(!constructed_write(dir, &spec, why, sizeof why), "%s", why);
    CHECK(constructed_recognise(dir, &back, why, sizeof why) == 1);
    CHECK(back.max_tokens == 65536 && back.heads == 12 && back.kv_heads == 4 &&
          back.dtype == BANYAN_F16);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK(access(path, F_OK) != 0); /* the one file of before would hide the shards */
    safetensors *s = safetensors_open(dir, why, sizeof why);
    CHECK_MSG(s && safetensors_count(s) == 21, "%s", why);
    safetensors_close(s);
    CHECK(constructed_recognise("/tmp", &back, why, sizeof why) == 0);
    spec.heads = 2, spec.kv_heads = 1;
    CHECK(constructed_write(dir, &spec, why, sizeof why) && strstr(why, "at least 3 heads"));
    spec.heads = 8, spec.kv_heads = 3;
    CHECK(constructed_write(dir, &spec, why, sizeof why) && strstr(why, "8 heads and 3 KV"));
    spec.kv_heads = 2, spec.max_tokens = INT64_C(1) << 30;
    CHECK(constructed_write(dir, &spec, why, sizeof why) && strstr(why, "1073741824 tokens"));
    spec.max_tokens = 4096, spec.shards = 22;
    CHECK(constructed_write(dir, &spec, why, sizeof why) && strstr(why, "shards is 22"));
    CHECK(back.layers == 2 && back.retrieval == 1);
    spec.shards = 1, spec.layers = 6, spec.retrieval = 2;
    CHECK_MSG(!constructed_write(dir, &spec, why, sizeof why), "%s", why);
    CHECK(constructed_recognise(dir, &back, why, sizeof why) == 1 && back.layers == 6 &&
          back.retrieval == 2);
    spec.retrieval = 6;
    CHECK(constructed_write(dir, &spec, why, sizeof why) && strstr(why, "layer 6 finds"));
}

int main(void)
{
    if (!mkdtemp(dir)) return 99;
    test_codes();
    test_linear();
    /* Exact weights leak 2.1e-8 over a million distances (the weights were solved for a gap
     * of 20). bf16 ones: an A_i off by 2^-8 moves that gap by less than 0.1, a phase by A_i
     * 2^-19. */
    test_leak(1 << 20, 2.1e-8 * 1.2);
    test_leak(65536, 2.1e-8 * 1.2);
    test_rope();
    test_recognise();
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    CHECK(system(command) == 0);
    return test_end();
}
