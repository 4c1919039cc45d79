/* SPDX-License-Identifier: Apache-2.0 */
/* The flags of generate that are no config fields. */
#include "launch/generate/generate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* How many ids follow when nobody says: a few, or an answer. */
enum { COUNT_IDS = 16, COUNT_TEXT = 256 };

static bool read_token_count(const job *j, const char *name, int64_t least, int64_t *out)
{
    const char *text = job_text(j, name);
    if (!text || number_read(text, least, INT32_MAX, out)) return true;
    say_error(j, "--%s \"%s\": expected a number of tokens, %d or more", name, text,
              (int)least);
    return false;
}

/* Above 0, and at most `most`. */
static bool read_positive(const job *j, const char *name, double most, double *out)
{
    const char *text = job_text(j, name);
    char *end;
    if (!text) return true;
    *out = strtod(text, &end);
    if (end != text && !*end && *out > 0 && *out <= most) return true;
    say_error(j,
              most < HUGE_VAL ? "--%s \"%s\": expected a number above 0, at most %g"
                              : "--%s \"%s\": expected a number above 0",
              name, text, most);
    return false;
}

static bool read_sampling(const job *j, sampling *s)
{
    static const char *const of_sampling[] = {"top-p", "top-k", "seed"};
    const char *seed = job_text(j, "seed");
    char *end;
    s->top_p = 1;
    for (int i = 0; i < 3; i++)
        if (job_text(j, of_sampling[i]) && !job_text(j, "temperature")) {
            say_error(j, "--%s: without --temperature the largest logit is taken",
                      of_sampling[i]);
            return false;
        }
    if (!read_positive(j, "temperature", HUGE_VAL, &s->temperature) ||
        !read_positive(j, "top-p", 1, &s->top_p) || !read_token_count(j, "top-k", 1, &s->top_k))
        return false;
    if (!seed) return true;
    errno = 0;
    s->seed = strtoull(seed, &end, 10);
    if (end != seed && !*end && !errno && seed[0] != '-') return true;
    say_error(j, "--seed \"%s\": expected a number, 0 to 2^64 - 1", seed);
    return false;
}

bool wish_read(const job *j, prompt_wish *w)
{
    static const char *const of_text[] = {"chat", "system", "stop"};
    w->model = job_text(j, "model");
    w->ids = job_text(j, "ids");
    w->prompt = job_text(j, "prompt");
    w->prompt_file = job_text(j, "prompt-file");
    w->system = job_text(j, "system");
    w->stop = job_text(j, "stop");
    w->chat = job_switch(j, "chat");
    w->ignores_eos = job_switch(j, "ignore-eos");
    w->save = job_text(j, "save");
    w->load = job_text(j, "load");
    int given = (w->ids != NULL) + (w->prompt != NULL) + (w->prompt_file != NULL);
    if (!w->model) return say_error(j, "generate: --model DIR is needed"), false;
    if (given > 1 || (given == 0 && !w->load)) {
        say_error(j, "generate: %s of --prompt TEXT, --prompt-file FILE, --ids FILE is needed",
                  given ? "only one" : "one");
        return false;
    }
    for (int i = 0; i < 3; i++)
        if (w->ids && job_text(j, of_text[i])) {
            say_error(j, "--%s is for text, and --ids are none", of_text[i]);
            return false;
        }
    if (w->system && !w->chat) return say_error(j, "--system: only with --chat"), false;
    if (w->stop && !*w->stop) return say_error(j, "--stop \"\": expected a text"), false;
    w->count = w->ids ? COUNT_IDS : COUNT_TEXT;
    return read_token_count(j, "count", w->save ? 0 : 1, &w->count) &&
           read_sampling(j, &w->sampling);
}
