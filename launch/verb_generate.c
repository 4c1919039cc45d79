/* SPDX-License-Identifier: Apache-2.0 */
/* banyan generate: greedy decoding of a checkpoint, from token ids to token ids. */
#include "launch/device.h"
#include "launch/launch.h"
#include "launch/model/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct task {
    job *j;
    const char *dir, *ids_path;
    int64_t count; /* to generate */
    int32_t vocab;
    uint32_t *ids; /* the prompt, and room for what follows */
    int64_t prompt;
    float *logits; /* NULL: not asked for */
} task;

static int ask(task *t)
{
    const job *j = t->j;
    const char *count = job_text(j, "count");
    char *end = NULL;
    t->dir = job_text(j, "model");
    t->ids_path = job_text(j, "ids");
    if (!t->dir || !t->ids_path) {
        say_error(j, "generate: --%s is needed",
                  t->dir ? "ids FILE (token ids, 32-bit little endian)" : "model DIR");
        return EXIT_USAGE;
    }
    t->count = count ? strtoll(count, &end, 10) : 16;
    if (count && (end == count || *end || t->count < 1 || t->count > INT32_MAX)) {
        say_error(j, "--count \"%s\": expected a number of tokens, 1 or more", count);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* Rank 0 reads, all get it. */
static int share_ids(task *t)
{
    int64_t prompt = 0;
    char why[1024];
    if (t->j->rank == 0) t->ids = ids_read(t->ids_path, t->count, &prompt, why, sizeof why);
    if (t->j->rank == 0 && !t->ids) say_error(t->j, "%s", why);
    banyan_status status = banyan_comm_broadcast(t->j->comm, &prompt, sizeof prompt, 0);
    if (status) return job_failed(t->j, status, "sharing the prompt");
    if (prompt == 0) return EXIT_USAGE;
    if (t->j->rank != 0) t->ids = malloc((size_t)(prompt + t->count) * sizeof *t->ids);
    status = banyan_comm_agree(t->j->comm, t->ids ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status)
        status = banyan_comm_broadcast(t->j->comm, t->ids, (size_t)prompt * sizeof *t->ids, 0);
    if (status) return job_failed(t->j, status, "sharing the prompt");
    t->prompt = prompt;
    return EXIT_OK;
}

static int check_ids(task *t, int32_t vocab)
{
    char why[1024];
    if (!ids_check(t->ids, t->prompt, vocab, t->ids_path, why, sizeof why)) {
        say_error(t->j, "%s", why);
        return EXIT_USAGE;
    }
    if (!job_text(t->j, "logits")) return EXIT_OK;
    t->vocab = vocab;
    t->logits = malloc((size_t)vocab * sizeof *t->logits);
    banyan_status status =
        banyan_comm_agree(t->j->comm, t->logits ? BANYAN_OK : BANYAN_ERR_MEMORY);
    return status ? job_failed(t->j, status, "logits") : EXIT_OK;
}

/* What model_forward returned, on every rank: the worst of all. */
static int failed(const task *t, const model *m, banyan_status status)
{
    device *d = t->j->device;
    if (status && d->row->is_apart) snprintf(d->why, sizeof d->why, "%s", model_message(m));
    if (status != BANYAN_ERR_COMM) status = job_agree(t->j, status);
    if (!status) return EXIT_OK;
    say_error(t->j, "%s", d->why[0] ? d->why : model_message(m));
    return status == BANYAN_ERR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

static void show_progress(void *arg, int64_t done)
{
    const task *t = arg;
    progress(t->j, "prefill %3.0f %%", 100.0 * (double)done / (double)t->prompt);
}

static int decode(task *t, model *m)
{
    int64_t at = 0, rows = t->prompt;
    int code = EXIT_OK;
    for (int64_t i = 0; i < t->count && !code; i++) {
        uint32_t *next = &t->ids[t->prompt + i];
        banyan_status status =
            model_forward(m, at, t->ids + at, rows, 1, i == 0 ? t->logits : NULL, next, NULL,
                          i == 0 ? show_progress : NULL, t);
        if (i == 0) progress_end(t->j);
        code = failed(t, m, status);
        if (!code && t->j->rank == 0) {
            printf("%" PRIu32 "\n", *next);
            fflush(stdout);
        }
        at += rows;
        rows = 1;
    }
    return code;
}

static int write_logits(task *t)
{
    output_file *f = output_open(t->j, job_text(t->j, "logits"));
    if (!f) return EXIT_FAILED;
    fwrite(t->logits, sizeof *t->logits, (size_t)t->vocab, output_stream(f));
    return output_close(f, t->j, true); /* which asks whether all was written */
}

/* The same ids, with the positions where they stand. */
static int write_json(const task *t)
{
    output_file *f = output_open(t->j, job_text(t->j, "json"));
    if (!f) return EXIT_FAILED;
    for (int64_t i = t->prompt; i < t->prompt + t->count; i++)
        fprintf(output_stream(f), "{\"position\":%" PRId64 ",\"id\":%" PRIu32 "}\n", i,
                t->ids[i]);
    return output_close(f, t->j, true);
}

static void warn_length(const task *t, const model_shape *shape, int64_t tokens)
{
    if (shape->max_positions > 0 && tokens > shape->max_positions)
        say_warning(t->j,
                    "%" PRId64 " tokens, and the model was made for %" PRId64
                    " (max_position_embeddings and its scaling)",
                    tokens, shape->max_positions);
}

static int open_and_decode(task *t, banyan_spec *spec)
{
    char why[1024];
    model *m = NULL;
    int64_t tokens = t->prompt + t->count - 1; /* the last id is never read */
    if (spec->max_tokens > 0 && spec->max_tokens < tokens) {
        say_error(t->j,
                  "cache.max_tokens %" PRId64 ": a prompt of %" PRId64 " and %" PRId64
                  " more tokens need %" PRId64,
                  spec->max_tokens, t->prompt, t->count, tokens);
        return EXIT_USAGE;
    }
    if (spec->max_tokens == 0) spec->max_tokens = tokens;
    banyan_status status =
        model_open(t->dir, spec, t->j->comm, t->j->device, &m, why, sizeof why);
    if (status) {
        say_error(t->j, "%s", why);
        return status == BANYAN_ERR_COMM || status == BANYAN_ERR_DEVICE ? EXIT_FAILED
                                                                        : EXIT_USAGE;
    }
    warn_length(t, model_get_shape(m), tokens);
    int code = check_ids(t, model_get_shape(m)->vocab);
    if (!code) code = decode(t, m);
    if (!code) code = failed(t, m, model_unchanged(m));
    if (!code && t->logits) code = write_logits(t);
    if (!code && job_text(t->j, "json")) code = write_json(t);
    model_close(m);
    return code;
}

static int generate(task *t)
{
    char why[1024];
    config_spec asked;
    int code = ask(t);
    if (code) return code;
    code = share_ids(t);
    if (code) return code;
    if (spec_from_config(t->j->config, &asked, why, sizeof why)) {
        say_error(t->j, "%s", why);
        return EXIT_USAGE;
    }
    code = open_and_decode(t, &asked.spec);
    spec_free(&asked);
    return code;
}

static int run(job *j)
{
    task t = {.j = j};
    int code = generate(&t);
    free(t.ids);
    free(t.logits);
    return code;
}

static const flag flags[] = {
    {"model", "DIR", NULL,
     "checkpoint: config.json and safetensors of a model of \"banyan list\""},
    {"ids", "FILE", NULL, "the prompt: token ids, 32-bit little endian"},
    {"count", "N", NULL, "tokens to generate, default 16"},
    {"logits", "FILE", NULL, "write the logits of the prompt's last token: fp32, one per id"},
    {"use", "RULE", "rule[0].use",
     "what the first rule's heads read, \"s2 stride=8 local=16\""},
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"strict", NULL, "execution.strict", "refuse patterns that leave context unseen"},
    {"cache", "NAME", "cache.dtype", "format of cached keys and values: FP32, BF16, FP16, FP8"},
    {NULL, NULL, NULL, NULL}};

const verb verb_generate = {
    .name = "generate",
    .doc = "Greedy decoding of a checkpoint through banyan, on any number of ranks: reads "
           "token ids,\n"
           "prints the ids that follow, one a line.",
    .flags = flags,
    .needs_comm = 1,
    .run = run};
