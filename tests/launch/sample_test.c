/* SPDX-License-Identifier: Apache-2.0 */
/* Ids drawn from logits: as often as their probability says, and no others. */
#include "launch/generate/generate.h"
#include "tests/test.h"

#include <math.h>

enum { IDS = 6, DRAWS = 100000 };
static const float logits[IDS] = {1.0f, 3.0f, -INFINITY, 2.0f, 3.0f, -1.0f};

/* want [IDS]: probabilities. A share of n draws is within 5 sqrt(p (1 - p) / n) of p but once
 * in two millions. */
static void check(const sampling *s, const double *want)
{
    scored work[IDS];
    int count[IDS] = {0};
    for (int i = 0; i < DRAWS; i++) {
        uint32_t id = sample(s, logits, IDS, i, work);
        CHECK(id < IDS);
        CHECK(id == sample(s, logits, IDS, i, work));
        if (id < IDS) count[id]++;
    }
    for (int i = 0; i < IDS; i++) {
        double bound = 5 * sqrt(want[i] * (1 - want[i]) / DRAWS),
               got = (double)count[i] / DRAWS;
        CHECK_MSG(fabs(got - want[i]) <= bound, "T %g P %g K %d: id %d %.4f, not %.4f",
                  s->temperature, s->top_p, (int)s->top_k, i, got, want[i]);
    }
}

static void check_all(void)
{
    for (int t = 1; t <= 3; t++) {
        sampling s = {.temperature = 0.5 * t, .top_p = 1, .seed = (uint64_t)t};
        double want[IDS], sum = 0;
        for (int i = 0; i < IDS; i++) sum += want[i] = exp((double)logits[i] / s.temperature);
        for (int i = 0; i < IDS; i++) want[i] /= sum;
        check(&s, want);
    }
    /* by logit and id: 1, 4, 3, 0, 5, 2 */
    double e = exp(-1.0);
    check(&(sampling){.temperature = 1, .top_p = 1, .top_k = 1}, (double[IDS]){0, 1});
    check(&(sampling){.temperature = 1, .top_p = 1, .top_k = 3},
          (double[IDS]){0, 1 / (2 + e), 0, e / (2 + e), 1 / (2 + e)});
    check(&(sampling){.temperature = 1, .top_p = 0.01}, (double[IDS]){0, 1});
    check(&(sampling){.temperature = 1, .top_p = 0.5}, (double[IDS]){0, 0.5, 0, 0, 0.5});
    check(&(sampling){.temperature = 1, .top_p = 0.9, .top_k = 3},
          (double[IDS]){0, 1 / (2 + e), 0, e / (2 + e), 1 / (2 + e)});
}

int main(void)
{
    check_all();
    scored work[IDS];
    int differ = 0;
    for (int i = 0; i < 100; i++)
        differ += sample(&(sampling){.temperature = 9, .top_p = 1, .seed = 1}, logits, IDS, i,
                         work) != sample(&(sampling){.temperature = 9, .top_p = 1, .seed = 2},
                                         logits, IDS, i, work);
    CHECK_MSG(differ > 50, "%d of 100 differ with another seed", differ);
    return test_end();
}
