/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of heads, question by question. The answer is fed with the question, so that all its
 * rows are there whatever the model says; a needle counts when the model would have said most
 * of it. */
#include "launch/heads/heads.h"

#include <stdlib.h>
#include <string.h>

banyan_status heads_make(const model *m, int32_t answers, heads_scores *out)
{
    const model_shape *shape = model_get_shape(m);
    *out = (heads_scores){.shape = shape, .all = (int64_t)shape->layers * shape->heads};
    double **const sums[] = {&out->mass[0],   &out->mass[1], &out->mass[2],
                             &out->retrieval, &out->echo,    &out->induction};
    banyan_status status = model_watch_make(m, answers, HEADS_MASSES, &out->watch);
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        if (!(*sums[i] = calloc((size_t)out->all, sizeof(double)))) status = BANYAN_ERR_MEMORY;
    return status;
}

void heads_free(heads_scores *s)
{
    for (int i = 0; i < HEADS_MASSES; i++) free(s->mass[i]);
    free(s->retrieval);
    free(s->echo);
    free(s->induction);
    free(s->trial);
    model_watch_free(&s->watch);
}

static void begin_watch(void *arg, const asked *a)
{
    heads_scores *s = arg;
    model_watch *w = &s->watch;
    w->rows = a->answers;
    for (int32_t i = 0; i < w->rows; i++) {
        const int64_t row = a->row + i, window = row + 1 - HEADS_WINDOW;
        banyan_range *r = w->range + i * HEADS_MASSES;
        r[HEADS_ON_NEEDLE] = (banyan_range){a->needle, a->needle + a->count};
        r[HEADS_ON_SINKS] = (banyan_range){0, HEADS_SINKS};
        r[HEADS_ON_WINDOW] = (banyan_range){window > 0 ? window : 0, row + 1};
    }
}

static float *one_more(heads_scores *s)
{
    if (s->needles == s->room) {
        const int32_t room = 2 * s->room + 16;
        float *more = realloc(s->trial, (size_t)(room * s->all) * sizeof *more);
        if (!more) s->failed = true;
        if (!more) return NULL;
        s->trial = more;
        s->room = room;
    }
    float *trial = s->trial + s->needles++ * s->all;
    memset(trial, 0, (size_t)s->all * sizeof *trial);
    return trial;
}

/* Did the model say most of it? */
static bool is_answered(const asked *a)
{
    int32_t equal = 0;
    for (int32_t i = 0; i < a->answers; i++) equal += a->got[i] == a->answer[i];
    return 2 * equal > a->answers;
}

static void take_masses(void *arg, const asked *a)
{
    heads_scores *s = arg;
    const model_watch *w = &s->watch;
    const int64_t heads = s->shape->heads, rows = w->rows;
    s->asked++;
    float *trial = is_answered(a) ? one_more(s) : NULL;
    if (!trial) return;
    s->rows += rows;
    for (int64_t n = 0; n < s->all; n++) {
        const int64_t layer = n / heads, head = n % heads;
        for (int64_t i = 0; i < rows; i++) {
            const int64_t row = layer * rows + i;
            const int64_t at = w->strongest[row * heads + head] - a->needle;
            if (at >= 0 && at < a->count && a->ids[at] == a->answer[i])
                trial[n] += 1 / (float)rows;
            for (int k = 0; k < HEADS_MASSES; k++)
                s->mass[k][n] += w->mass[(row * HEADS_MASSES + k) * heads + head];
        }
    }
}

observer heads_observer(heads_scores *s)
{
    return (observer){&s->watch, begin_watch, take_masses, s};
}

void heads_settle(heads_scores *s)
{
    for (int64_t n = 0; n < s->all; n++) {
        for (int32_t i = 0; i < s->needles; i++)
            s->retrieval[n] += s->trial[i * s->all + n] / (double)s->needles;
        for (int k = 0; k < HEADS_MASSES && s->rows; k++) s->mass[k][n] /= (double)s->rows;
    }
}
