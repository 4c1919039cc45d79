/* SPDX-License-Identifier: Apache-2.0 */
/* The words of errors: messages per thread, the log setting, nearest names. */
#include "comm/comm.h"
#include "tests/test.h"

#include <pthread.h>

static void *other_thread(void *arg)
{
    CHECK(!strcmp(banyan_error_message(), ""));
    banyan_fail(BANYAN_ERR_COMM, "theirs");
    return arg;
}

static void test_messages(void)
{
    CHECK(banyan_error_message() && !*banyan_error_message());
    CHECK(banyan_fail(BANYAN_ERR_CONFIG, "layers %d; expected %s", 0, "1 or more") ==
          BANYAN_ERR_CONFIG);
    CHECK(!strcmp(banyan_error_message(), "layers 0; expected 1 or more"));
    banyan_fail(BANYAN_ERR_PEER, "rank 3: %s", banyan_error_message());
    CHECK(!strcmp(banyan_error_message(), "rank 3: layers 0; expected 1 or more"));

    pthread_t thread;
    if (!pthread_create(&thread, NULL, other_thread, NULL)) pthread_join(thread, NULL);
    CHECK(!strcmp(banyan_error_message(), "rank 3: layers 0; expected 1 or more"));

    char *text = malloc(5000);
    memset(text, 'x', 4999);
    text[4999] = 0;
    banyan_fail(BANYAN_ERR_CONFIG, "%s", text);
    CHECK(strlen(banyan_error_message()) == 1023);
    free(text);
}

static void test_names(void)
{
    for (int s = BANYAN_OK; s >= BANYAN_ERR_PEER; s--)
        CHECK(strcmp(banyan_status_name((banyan_status)s), "unknown"));
    CHECK(!strcmp(banyan_status_name((banyan_status)1), "unknown"));
    CHECK(!strcmp(banyan_status_name(BANYAN_ERR_PEER), "peer"));
    CHECK(*banyan_version() >= '0' && *banyan_version() <= '9');
}

static int log_lines;
static char log_last[64];
static void count_line(void *arg, banyan_log_level level, const char *message)
{
    CHECK(arg == &log_lines && level <= BANYAN_LOG_INFO);
    log_lines++;
    snprintf(log_last, sizeof log_last, "%s", message);
}

static void test_log(void)
{
    banyan_log(BANYAN_LOG_ERROR, "dropped");
    banyan_log_set(BANYAN_LOG_INFO, count_line, &log_lines);
    banyan_log(BANYAN_LOG_DEBUG, "too fine");
    CHECK(log_lines == 0);
    banyan_log(BANYAN_LOG_INFO, "block %d", 7);
    CHECK(log_lines == 1 && !strcmp(log_last, "block 7"));
    banyan_log_set(BANYAN_LOG_ERROR, NULL, NULL);
    banyan_log(BANYAN_LOG_ERROR, "dropped");
    CHECK(log_lines == 1);
}

static void test_nearest(void)
{
    static const char *const names[] = {"dense", "sink_window", "s2", "tree", "direct", NULL};
    static const struct {
        const char *word, *nearest;
    } cases[] = {
        {"dense", "dense"},
        {"dens", "dense"},
        {"dnese", "dense"},
        {"DENSE", "dense"},
        {"sink", "sink_window"},
        {"sink_windwo", "sink_window"},
        {"s3", "s2"},
        {"tre", "tree"},
        {"teer", "tree"},
        {"driect", "direct"},
        {"sinkwindow", "sink_window"},
        {"butterfly", NULL},
        {"x", NULL},
        {"", NULL},
        {"completely off", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = banyan_nearest(cases[i].word, names);
        const char *want = cases[i].nearest;
        CHECK_MSG(got == want || (got && want && !strcmp(got, want)), "%s: got %s, expected %s",
                  cases[i].word, got ? got : "none", want ? want : "none");
    }
    static const char *const alike[] = {"lines", "line", "lone",
                                        NULL}; /* the nearest, not a near */
    CHECK(!strcmp(banyan_nearest("line", alike), "line"));
    CHECK(!strcmp(banyan_nearest("lines", alike), "lines"));
    CHECK(!strcmp(banyan_nearest("lon", alike), "lone"));
    CHECK(banyan_nearest(NULL, names) == NULL);
    CHECK(banyan_nearest("dense", NULL) == NULL);
    char word[300];
    memset(word, 'd', sizeof word - 1);
    word[sizeof word - 1] = 0;
    CHECK(banyan_nearest(word, names) == NULL);
}

int main(void)
{
    test_messages();
    test_names();
    test_log();
    test_nearest();
    return test_end();
}
