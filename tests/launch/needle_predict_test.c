/* SPDX-License-Identifier: Apache-2.0 */
/* Predictions from plans of imagined clusters, where the right answer can be said in words; and
 * what cells add up to. That predictions equal measurements is what the runs of `banyan needle`
 * show. */
#include "launch/needle/chosen.h"
#include "launch/needle/evaluate.h"
#include "tests/test.h"

#include <math.h>

static char why[NEEDLE_WHY];

typedef struct setting {
    banyan_comm *comm;
    banyan_plan *plan;
    predictor v;
    prompt p;
    uint32_t tail[NEEDLE_QUESTION + 4];
    bool saw[NEEDLE_ANSWERS * 8];
} setting;

enum { LENGTH = 4096 };

/* One needle whose first answer token is `answer`; H 8, G 2, P 4; false: no plan. */
static bool open_setting(setting *s, const char *context, const char *retrieval, int lost_rank,
                         int64_t answer)
{
    static const constructed_spec constructed = {
        .max_tokens = 1048576, .heads = 8, .kv_heads = 2, .dtype = BANYAN_BF16, .shards = 1};
    banyan_rule rules[2] = {{0, 0, 0, -1, context}, {1, 1, 0, -1, retrieval}};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 2;
    spec.heads = 8;
    spec.kv_heads = 2;
    spec.key_dim = 128;
    spec.rules = rules;
    spec.rule_count = 2;
    spec.max_tokens = LENGTH + 16;
    spec.placement = "spread";
    spec.lost_rank = lost_rank;
    spec.lost_layer = lost_rank < 0 ? -1 : 1;
    *s = (setting){0};
    if (banyan_comm_create("imaginary", (void *)"rank:4", &s->comm) ||
        banyan_plan_create(&spec, s->comm, &s->plan)) {
        fprintf(stderr, "    %s\n", banyan_error_message());
        return false;
    }
    int64_t first = answer - NEEDLE_ANSWER;
    haystack_wish wish = {
        .count = LENGTH - NEEDLE_QUESTION, .first = &first, .facts = 1, .seed = 4};
    if (!prompt_make(&wish, &s->p, why, sizeof why)) return false;
    prompt_question(s->p.fact, s->tail);
    predictor_init(&s->v, s->plan, &constructed);
    predictor_read(&s->v, &s->p, s->tail);
    return true;
}

static bool open_chosen(setting *s)
{
    s->v.chosen = chosen_open(&s->v);
    return s->v.chosen != NULL;
}

static void close_setting(setting *s)
{
    chosen_close(s->v.chosen);
    prompt_free(&s->p);
    banyan_plan_destroy(s->plan);
    banyan_comm_destroy(s->comm);
}

static outcome ask(setting *s)
{
    int32_t undecided;
    return predictor_answer(&s->v, s->p.fact, LENGTH - 1, NULL, s->saw, &undecided);
}

static int heads_that_saw(const setting *s, int token)
{
    int n = 0;
    for (int h = 0; h < 8; h++) n += s->saw[token * 8 + h];
    return n;
}

static const char *const local = "sink_window sink=1 window=3";

static void test_patterns(void)
{
    setting s;
    CHECK(open_setting(&s, local, "dense", -1, 1000));
    CHECK(ask(&s) == OUTCOME_FOUND);
    for (int t = 0; t < NEEDLE_ANSWERS; t++) CHECK(heads_that_saw(&s, t) == 8);
    CHECK(predictor_sees(&s.v, 3, LENGTH - 1, 1000));
    CHECK(!predictor_sees(&s.v, 3, LENGTH - 1, 1001)); /* a token that is not the match */
    CHECK(predictor_plant(&s.v, &s.p, LENGTH - 1, NEEDLE_ANSWERS) == 0);
    close_setting(&s);

    CHECK(open_setting(&s, local, "s2 stride=8 local=4 per=query", -1, 1000));
    CHECK(ask(&s) == OUTCOME_FOUND); /* one head each */
    for (int t = 0; t < NEEDLE_ANSWERS; t++) CHECK(heads_that_saw(&s, t) == 1);
    close_setting(&s);

    CHECK(open_setting(&s, local, "sink_window sink=1 window=4", -1, 1000));
    CHECK(ask(&s) == OUTCOME_NONE && heads_that_saw(&s, 0) == 0);
    close_setting(&s);
    CHECK(open_setting(&s, local, "sink_window sink=1 window=4", -1, LENGTH - 100));
    CHECK(ask(&s) == OUTCOME_FOUND);
    close_setting(&s);
}

/* Half of the answer is in a block that a coverage hole hides. */
static void test_straddling(void)
{
    int seen = 0, hidden = 0, half = 0;
    for (int64_t block = 10; block < 26; block++) {
        setting s;
        CHECK(open_setting(&s, local, "s2 stride=16 local=4 step=1 per=query", -1,
                           block * 64 - 2));
        outcome o = ask(&s);
        int first = heads_that_saw(&s, 0), last = heads_that_saw(&s, 4);
        CHECK(o == (first && last ? OUTCOME_FOUND : OUTCOME_NONE));
        seen += first && last;
        hidden += !first && !last;
        half += !first != !last;
        close_setting(&s);
    }
    CHECK_MSG(seen == 7 && hidden == 7 && half == 2, "%d %d %d", seen, hidden, half);
}

/* Layer 0 with a window of one block knows nothing across a border. */
static void test_context(void)
{
    for (int64_t answer = 1024 - 8; answer <= 1024 + 4; answer++) {
        setting s;
        CHECK(open_setting(&s, "sink_window sink=1 window=1", "dense", -1, answer));
        CHECK(!predictor_sees(&s.v, 0, LENGTH - 1, answer) ==
              (answer >= 1024 && answer < 1027));
        /* the row after it is the first of a block, too, and has lost the question */
        CHECK(ask(&s) == OUTCOME_NONE);
        close_setting(&s);
        CHECK(open_setting(&s, "sink_window sink=1 window=2", "dense", -1, answer));
        CHECK(ask(&s) == OUTCOME_FOUND);
        close_setting(&s);
    }
}

/* Blocks that the last layer chooses. All of them, and the needle is found. A mean tells little
 * of one key in 64: with 8 of 62 it is rather not. Of bounds, which say nearly the same of
 * every block of so many signs, the first ones win: not the needle's. */
static void test_chosen(void)
{
    setting s;
    int found = 0, none = 0;
    CHECK(open_setting(&s, local, "top by=mean blocks=64", -1, 1000) && open_chosen(&s));
    CHECK(ask(&s) == OUTCOME_FOUND);
    for (int t = 0; t < NEEDLE_ANSWERS; t++) CHECK(heads_that_saw(&s, t) == 8);
    close_setting(&s);
    for (int64_t answer = 100; answer < 3900; answer += 200) {
        CHECK(open_setting(&s, local, "top by=mean blocks=8", -1, answer) && open_chosen(&s));
        const outcome o = ask(&s);
        found += o == OUTCOME_FOUND;
        none += o == OUTCOME_NONE;
        close_setting(&s);
    }
    CHECK_MSG(found + none == 19 && none > 9, "%d found, %d not", found, none);
    CHECK(open_setting(&s, local, "top by=minmax blocks=2", -1, 3000) && open_chosen(&s));
    CHECK(ask(&s) == OUTCOME_NONE);
    close_setting(&s);
}

static void test_lost_rank(void)
{
    int found = 0;
    for (int64_t block = 8; block < 24; block++) {
        setting s;
        CHECK(open_setting(&s, local, "dense", 2, block * 64 + 20));
        bool there = banyan_plan_owner(s.plan, 0, 1, 0, block) != 2;
        CHECK(ask(&s) == (there ? OUTCOME_FOUND : OUTCOME_NONE));
        found += there;
        close_setting(&s);
    }
    CHECK_MSG(found == 12, "%d of 16 blocks", found); /* a quarter is lost */

    /* a head whose BOS and question both are lost gets a null somewhere else */
    setting s;
    int planted = 0;
    for (int rank = 0; rank < 4; rank++) {
        CHECK(open_setting(&s, local, "dense", rank, 1000));
        bool bos = banyan_plan_owner(s.plan, 0, 1, 0, 0) == rank;
        bool question = banyan_plan_owner(s.plan, 0, 1, 0, LENGTH / 64 - 1) == rank;
        int n = predictor_plant(&s.v, &s.p, LENGTH - 1, NEEDLE_ANSWERS);
        CHECK((n > 0) == (bos && question));
        CHECK(predictor_plant(&s.v, &s.p, LENGTH - 1, NEEDLE_ANSWERS) == n);
        planted += n;
        close_setting(&s);
    }
    CHECK(open_setting(&s, local, "s2 stride=8 local=1 per=query", -1, 1000));
    planted = predictor_plant(&s.v, &s.p, LENGTH - 1, NEEDLE_ANSWERS);
    int nulls = 0;
    for (int64_t t = NEEDLE_FIRST; t < s.p.count; t++) nulls += s.p.ids[t] == CONSTRUCTED_BOS;
    /* of the rows in block 64, two heads see BOS in block 0 or <Q> in block 63 */
    CHECK_MSG(planted == 6 && nulls == 6, "%d planted, %d there", planted, nulls);
    CHECK(ask(&s) == OUTCOME_FOUND);
    close_setting(&s);
}

static void test_least_squares(void)
{
    int8_t code[5 * CONSTRUCTED_CODE];
    float y[CONSTRUCTED_CODE] = {0};
    const double mass[5] = {.05, .1, .15, .25, .45};
    double x[5];
    for (uint32_t c = 0; c < 5; c++) {
        constructed_code(100 + 777 * c, code + c * CONSTRUCTED_CODE);
        for (int i = 0; i < CONSTRUCTED_CODE; i++)
            y[i] += (float)mass[c] * code[c * CONSTRUCTED_CODE + i];
    }
    CHECK(graded_solve(code, 5, y, x));
    /* 128 entries of rounding 2^-24 each, against a normal matrix with eigenvalues above 32 */
    for (int c = 0; c < 5; c++) CHECK(fabs(x[c] - mass[c]) < 128 * 0x1p-24 * 4);
    memcpy(code + CONSTRUCTED_CODE, code, CONSTRUCTED_CODE); /* two alike: no answer */
    CHECK(!graded_solve(code, 5, y, x));
    CHECK(!graded_solve(code, 0, y, x));
}

/* As many classes as there may be, and one more. */
static void test_most_classes(void)
{
    enum { MOST = 64 };
    int8_t code[(MOST + 1) * CONSTRUCTED_CODE];
    float y[CONSTRUCTED_CODE];
    double x[MOST], mass[MOST], exact[CONSTRUCTED_CODE] = {0};
    for (uint32_t c = 0; c < MOST; c++) {
        mass[c] = 2. * (c + 1) / (MOST * (MOST + 1));
        constructed_code(100 + 777 * c, code + c * CONSTRUCTED_CODE);
        for (int i = 0; i < CONSTRUCTED_CODE; i++)
            exact[i] += mass[c] * code[c * CONSTRUCTED_CODE + i];
    }
    for (int i = 0; i < CONSTRUCTED_CODE; i++) y[i] = (float)exact[i];
    CHECK(graded_solve(code, MOST, y, x));
    /* 128 entries, at most 1, rounded by 2^-25, over the least singular value: of random codes
     * about sqrt(128) - sqrt(64) = 3.3, and above 1 */
    for (int c = 0; c < MOST; c++)
        CHECK_MSG(fabs(x[c] - mass[c]) < 11.4 * 0x1p-25, "%d: off by %g", c, x[c] - mass[c]);
    CHECK(!graded_solve(code, MOST + 1, y, x));
}

static void test_summary(void)
{
    int64_t length[2] = {4096, 65536};
    needle_wish w = {.length = length,
                     .lengths = 2,
                     .depths = 2,
                     .trials = 2,
                     .patterns = 1,
                     .tasks = TASK_SINGLE};
    json_t *all = json_array();
    for (int i = 0; i < 4; i++) {
        int found = i != 1, longer = i == 3; /* the last trial is not asked for */
        json_array_append_new(
            all,
            json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:s, s:s, s:b, s:f, s:[s], s:[s], s:i}",
                      "cell", "x", "task", "single", "length", longer ? 65536 : 4096, "trial",
                      longer ? 2 : i / 2, "depth", i % 2, "depth_percent", 25.0 + 50 * (i % 2),
                      "outcome", found ? "found" : "none", "predicted", "found", "equal", found,
                      "least_mass", .999 + i * 1e-4, "saw", found ? "10" : "00",
                      "predicted_saw", "11", "messages", 5));
    }
    tally t = summary_tally(all, &w, "single", 4096);
    CHECK(t.cells == 3 && t.found == 2 && t.none == 1 && t.predicted == 3 && t.equal == 2);
    CHECK(t.least_mass == .999 && t.messages == 5);
    CHECK(summary_unequal(all, &w) == 1);
    w.trials = 1; /* resumed with fewer trials: what was not asked for does not count */
    t = summary_tally(all, &w, "single", 4096);
    CHECK(t.cells == 2 && t.found == 1 && t.predicted == 2);
    w.trials = 2;
    double value[4], depth[2], head[4];
    summary_heat(all, "single", &w, value, depth);
    CHECK(value[0] == 1 && value[2] == 0 && isnan(value[1]) && depth[1] == 75);
    summary_heads(all, "single", &w, 2, "saw", head);
    CHECK(fabs(head[0] - 2. / 3) < 1e-12 && head[2] == 0 && isnan(head[1]));
    char text[8192] = "";
    FILE *f = fmemopen(text, sizeof text, "w");
    summary_csv(all, &w, f);
    summary_json(all, &w, 2, f);
    summary_print(all, &w, 2, f, false, false);
    fclose(f);
    CHECK(strstr(text, "single,,4096,1,0,25,"));
    CHECK(strstr(text, "\"cells\":3,\"found\":2"));
    CHECK(strstr(text, "2 of 3"));
    json_decref(all);
}

int main(void)
{
    test_patterns();
    test_straddling();
    test_context();
    test_chosen();
    test_lost_rank();
    test_least_squares();
    test_most_classes();
    test_summary();
    return test_end();
}
