/* SPDX-License-Identifier: Apache-2.0 */
/* The table of tasks, and all of an evaluation: each length, each trial, each task. */
#include "launch/needle/evaluate.h"

/* Needles of one prompt: all depths, or in classic mode one. */
static int trial_prompts(evaluation *e, const char *task, int64_t length, int32_t trial,
                         bool absent)
{
    int32_t each = e->wish->classic ? 1 : e->wish->depths;
    int code = EXIT_OK;
    for (int32_t first = 0; !code && first < e->wish->depths; first += each)
        code = evaluate_prompt(e, task, length, trial, first, each, absent);
    return code;
}

/* Absent keys are asked once, of the first prompt that there is. */
static int run_single(evaluation *e, int64_t length, int32_t trial)
{
    if (e->wish->foreign)
        return trial ? EXIT_OK : evaluate_texts(e, length); /* all trials at once */
    return trial_prompts(e, "single", length, trial, e->wish->tasks & TASK_ABSENT);
}

static int run_multikey(evaluation *e, int64_t length, int32_t trial)
{
    const bool first = !(e->wish->tasks & TASK_SINGLE);
    return trial_prompts(e, "multikey", length, trial, first && e->wish->tasks & TASK_ABSENT);
}

static int run_absent(evaluation *e, int64_t length, int32_t trial)
{
    if (e->wish->tasks & (TASK_SINGLE | TASK_MULTIKEY)) return EXIT_OK;
    return trial_prompts(e, NULL, length, trial, true);
}

static int run_graded(evaluation *e, int64_t length, int32_t trial)
{
    return evaluate_graded(e, length, trial);
}

/* Nothing in it is drawn. */
static int run_uniform(evaluation *e, int64_t length, int32_t trial)
{
    return trial ? EXIT_OK : evaluate_uniform(e, length);
}

#define BANYAN_TASK(name, token, kind, doc) {#name, doc, kind, run_##name},
static const needle_task rows[] = {
#include "launch/needle/tasks.def"
};
#undef BANYAN_TASK

const needle_task *task_row(int index)
{
    return index >= 0 && index < TASKS ? &rows[index] : NULL;
}

int evaluate_all(evaluation *e)
{
    const needle_wish *w = e->wish;
    int code = EXIT_OK;
    for (int32_t i = 0; !code && i < w->lengths; i++) {
        for (int32_t trial = 0; !code && trial < w->trials; trial++)
            for (int t = 0; !code && t < TASKS; t++)
                if (w->tasks >> t & 1) code = rows[t].run(e, w->length[i], trial);
        if (!code && e->m && model_unchanged(e->m)) {
            progress_end(e->j);
            say_error(e->j, "%s", model_message(e->m));
            code = EXIT_FAILED;
        }
    }
    progress_end(e->j);
    return code;
}
