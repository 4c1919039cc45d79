/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that are large and yet have an answer: scores of 1e9, where fp32 has no fraction
 * bits, and values near the largest fp32, whose sums overflow though their mean does not. By
 * every kernel of this processor, on any ranks, with partials and with fixed-point sums,
 * against a float64 oracle.
 *
 * Scores are integers times a power of two, so that fp32 has them exactly; values are of two
 * digits, so that the only errors are those of weights and sums: 2^-18 is far above them, and
 * far below what a lost block or a wrong weight makes. */
#include "banyan.h"
#include "tests/test.h"

#include <math.h>

enum { TOKENS = 300, HEADS = 4, KV_HEADS = 2, DIM = 16, BLOCK = 16, ROWS = 70 };

typedef struct extreme {
    const char *name;
    double score;   /* of a key's unit */
    int32_t spread; /* keys are 0 .. spread-1 units */
    float value;    /* the largest */
    int reproducible;
} extreme;

static const extreme cases[] = {
    {"usual", 0x1p-3, 9, 100, 0},
    {"scores of 1e9", 0x1p29, 3, 100, 0},
    {"scores of -1e9", -0x1p29, 3, 100, 0},
    {"scores of 1e12", 0x1p38, 5, 100, 0},
    {"equal scores of 1e9", 0x1p30, 1, 100, 0},
    {"values of 1e37", 0x1p-3, 9, 1e37f, 0},
    {"the largest values", 0x1p-4, 9, 3.4e38f, 0},
    {"equal weights", 0, 1, 3.4e38f, 0},
    {"both", 0x1p20, 2, 1e38f, 0},
};

static banyan_comm *comm;
static float q[TOKENS * HEADS * DIM], k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
static float out[TOKENS * HEADS * DIM], lse[TOKENS * HEADS];

static void draw(const extreme *x, uint64_t seed)
{
    memset(q, 0, sizeof q);
    memset(k, 0, sizeof k);
    for (int i = 0; i < TOKENS * HEADS; i++) q[i * DIM] = (float)x->score;
    for (int i = 0; i < TOKENS * KV_HEADS; i++)
        k[i * DIM] = 1 + (float)test_below(&seed, x->spread);
    for (int i = 0; i < TOKENS * KV_HEADS * DIM; i++) {
        int many = (int)test_below(&seed, 41) - 8; /* mostly of one sign: sums grow */
        v[i] = x->value * ((float)(many < -3 ? many : 32) / 32);
    }
}

static void check_row(const extreme *x, const char *kernel, int token, int head)
{
    double top = -INFINITY, l = 0, o[DIM] = {0};
    const int kv = head / (HEADS / KV_HEADS);
    for (int t = 0; t <= token; t++) top = fmax(top, x->score * k[(t * KV_HEADS + kv) * DIM]);
    for (int t = 0; t <= token; t++) {
        const double weight = exp(x->score * k[(t * KV_HEADS + kv) * DIM] - top);
        l += weight;
        for (int d = 0; d < DIM; d++) o[d] += weight * v[(t * KV_HEADS + kv) * DIM + d];
    }
    const int row = token * HEADS + head;
    const double expect = top + log(l);
    for (int d = 0; d < DIM; d++) {
        const double got = out[row * DIM + d], want = o[d] / l;
        CHECK_MSG(fabs(got - want) <= x->value * 0x1p-18,
                  "%s, %s%s: token %d head %d: %g, expected %g", x->name, kernel,
                  x->reproducible ? ", reproducible" : "", token, head, got, want);
    }
    CHECK_MSG(fabs(lse[row] - expect) <= 0x1p-18 + fabs(expect) * 0x1p-23,
              "%s, %s%s: lse %g, expected %g", x->name, kernel,
              x->reproducible ? ", reproducible" : "", (double)lse[row], expect);
}

static void test_case(const extreme *x, const char *kernel)
{
    banyan_spec s;
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    banyan_sequence *sequence = NULL;
    banyan_spec_init(&s);
    s.layers = 1, s.heads = HEADS, s.kv_heads = KV_HEADS, s.key_dim = DIM;
    s.max_tokens = TOKENS, s.max_rows = ROWS, s.block_tokens = BLOCK;
    s.cache_dtype = BANYAN_F32, s.kernel = kernel, s.reproducible = x->reproducible;
    s.scale = 1, s.threads = 2, s.out = BANYAN_OUT_ALL, s.placement = "spread";
    CHECK_MSG(!banyan_plan_create(&s, comm, &plan), "%s", banyan_error_message());
    CHECK_MSG(!banyan_cache_create(plan, NULL, &cache), "%s", banyan_error_message());
    CHECK_MSG(!banyan_sequence_create(cache, 0, &sequence), "%s", banyan_error_message());
    for (int at = 0; at < TOKENS && sequence; at += ROWS) {
        const int rows = TOKENS - at < ROWS ? TOKENS - at : ROWS;
        const banyan_rows part = {.sequence = sequence, .at = at, .rows = rows};
        CHECK_MSG(!banyan_attend(cache, 0, &part, 1, q + at * HEADS * DIM,
                                 k + at * KV_HEADS * DIM, v + at * KV_HEADS * DIM,
                                 out + at * HEADS * DIM, lse + at * HEADS),
                  "%s", banyan_error_message());
    }
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    for (int token = 0; token < TOKENS; token += 23)
        for (int head = 0; head < HEADS; head++) check_row(x, kernel, token, head);
}

int main(void)
{
    const char *name;
    int available;
    CHECK(!banyan_comm_create(NULL, NULL, &comm));
    for (int i = 0; banyan_list(BANYAN_KERNELS, i, &name, NULL, &available, NULL); i++) {
        if (!available || !strcmp(name, "cuda") || !strcmp(name, "hopper")) continue;
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            extreme x = cases[c];
            draw(&x, 5 + c);
            test_case(&x, name);
            x.reproducible = 1;
            test_case(&x, name);
        }
    }
    banyan_comm_destroy(comm);
    return test_end();
}
